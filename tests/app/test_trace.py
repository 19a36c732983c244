"""What is traced of a memory is what it did in the model."""

import pytest
import torch

from app.trace import nearest, trace, traces
from memory import BackboneConfig, MemoryConfig, NeuralMemory, TitansBackbone


def backbone(variant: str) -> TitansBackbone:
    memory = MemoryConfig(heads=2, chunk=4)
    return TitansBackbone(BackboneConfig(variant, 8, 2, heads=2, window=6, segment=6, persistent=3, memory=memory))


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal"])
def test_every_memory_is_traced_and_left_as_it_was(variant: str) -> None:
    model = backbone(variant)
    x = torch.randn(2, 20, 8)
    before, _ = model(x)
    found = traces(model, x)
    assert list(found) == ["layer0", "layer1"]
    for one in found.values():
        assert {name: values.shape for name, values in one.tokens.items()} == dict.fromkeys(
            ("surprise", "theta", "eta", "alpha"), (2, 20)
        )
        assert one.ends == list(range(1, 21)) and one.norms["moved"].shape == (2, 20)
        assert one.found.shape == one.likeness.shape == (2, 20, 3)
    torch.testing.assert_close(model(x)[0], before, rtol=0, atol=0)
    assert not any("write" in vars(memory) for memory in model.memories().values())


def test_pieces_give_what_one_call_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = NeuralMemory(8, MemoryConfig(heads=2, chunk=4))
    x = torch.randn(2, 24, 8)
    monkeypatch.setattr("app.trace.POINTS", 7)
    found = trace(memory, x, 21)
    torch.testing.assert_close(found.tokens["surprise"], memory.surprise(x)[:, 3:].mean(-1))
    assert found.ends == [3, 6, 9, 12, 15, 18, 21]
    _, state = memory(x)
    moved = [weight - start for weight, start in zip(state.fast.weights, memory.init, strict=True)]
    square = sum(layer.square().sum((-2, -1)) for layer in moved).mean(-1)
    torch.testing.assert_close(found.norms["moved"][:, -1], square.sqrt())


def test_the_nearest_value_is_found_among_earlier_tokens_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.trace.ROWS", 5)
    values = torch.randn(2, 12, 2, 4)
    found, likeness = nearest(values.roll(3, 1), values)  # each token reads what stands three before it
    assert (found[:, 3:, 0] == torch.arange(9)).all()
    torch.testing.assert_close(likeness[:, 3:, 0], torch.ones(2, 9))
    assert (found[:, 0] == -1).all() and (found[:, 1, 1:] == -1).all() and (found[:, 1, 0] == 0).all()
    assert (found < torch.arange(12)[:, None]).all()
