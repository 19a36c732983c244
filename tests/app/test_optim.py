"""Who decays, and the learning rate over a run."""

import pytest
from torch import nn

from app.optim import OptimConfig, split_parameters
from memory import BackboneConfig, MemoryConfig, TitansBackbone


def test_only_matrices_of_linear_and_convolution_layers_decay() -> None:
    layers = {"table": nn.Embedding(6, 4), "tied": nn.Linear(4, 6), "conv": nn.Conv1d(4, 4, 2), "norm": nn.LayerNorm(4)}
    model = nn.ModuleDict(layers)
    layers["tied"].weight = layers["table"].weight
    decayed, rest = split_parameters(model)
    assert [id(p) for p in decayed] == [id(model["conv"].weight)]
    assert len(decayed) + len(rest) == len(list(model.parameters()))


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal", "attention", "swa"])
def test_no_initial_memory_or_persistent_token_decays(variant: str) -> None:
    backbone = TitansBackbone(BackboneConfig(variant=variant, dim=8, heads=2, layers=1, memory=MemoryConfig(heads=2)))
    decayed, rest = split_parameters(backbone)
    layers = [m for m in backbone.modules() if isinstance(m, nn.Linear | nn.Conv1d)]
    assert {id(p) for p in decayed} == {id(layer.weight) for layer in layers}
    assert rest


@pytest.mark.parametrize("warmup", [0.1, 10])
def test_warm_up_and_cosine(warmup: float) -> None:
    config = OptimConfig(lr=1.0, warmup=warmup, final=0.2)
    factors = [config.factor(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[10] == 1.0
    assert factors[-1] == pytest.approx(0.2)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_no_warm_up_starts_at_the_peak_and_a_longer_one_than_the_run_ends_below() -> None:
    assert OptimConfig(warmup=0).factor(0, 10) == 1.0
    assert OptimConfig(warmup=100).factor(9, 10) == pytest.approx(0.1)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"warmup": -1}, {"final": 2.0}])
def test_a_senseless_value_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"optim\.{next(iter(wrong))} is"):
        OptimConfig(**wrong)
