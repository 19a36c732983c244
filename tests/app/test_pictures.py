"""What is picked and drawn after a test."""

import pytest
import torch
from toy import ToyHead

from app.module import TitansModule
from app.pictures import memory_figure, surprise
from memory import BackboneConfig, MemoryConfig, NeuralMemory


@pytest.mark.parametrize("depth", [1, 2])
def test_surprise_is_that_of_the_memory_as_it_reads(depth: int) -> None:
    memory = NeuralMemory(8, MemoryConfig(heads=2, depth=depth, chunk=4))
    x = torch.randn(3, 10, 8)
    curves = surprise(memory, x)
    assert all(curve.shape == (10,) for curve in curves.values())
    assert not memory.recording and memory.health == []
    _, state = memory(x[:, :5])
    memory.recording = True
    memory(x[:, 5:6], state)
    torch.testing.assert_close(curves["as it came"][5], memory.health[0][1]["surprise_before"])
    torch.testing.assert_close(curves["once written"][-1], curves["at the end"][-1])


def test_a_token_that_comes_again_is_less_of_a_surprise() -> None:
    memory = NeuralMemory(8, MemoryConfig(heads=1, conv=0, chunk=1, momentum=False, forgetting=False))
    curves = surprise(memory, torch.randn(4, 1, 8).expand(4, 20, 8))
    assert (curves["as it came"].diff() < 0).all() and curves["at the end"][0] < curves["as it came"][0]


def test_every_memory_has_a_panel() -> None:
    config = {"dim": 8, "layers": 2, "heads": 2, "segment": 3, "memory": MemoryConfig(heads=2, chunk=4)}
    batch = torch.randn(2, 8, 3), None
    for variant, before in (("lmm", 4), ("mac", 0), ("mag", 4)):
        module = TitansModule(ToyHead(8, 3), BackboneConfig(variant=variant, **config)).eval()
        figure = memory_figure(module, batch)
        assert [axis.get_ylabel() for axis in figure.axes] == ["layer0, surprise", "layer1, surprise"]
        assert len(figure.axes[0].lines[0].get_ydata()) == before + 8
    assert memory_figure(TitansModule(ToyHead(8, 3), BackboneConfig(variant="attention", **config)), batch) is None
