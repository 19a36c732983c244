"""A memory that nothing is written to, as a control of one that is."""

from functools import partial
from typing import Any

from lightning import Callback, Trainer
from torch import Tensor

from app.module import TitansModule
from memory import NeuralMemory


class ReadStart(Callback):
    """Let every memory answer with what training made its start; no token writes."""

    def setup(self, trainer: Trainer, module: TitansModule, stage: str) -> None:
        for layer in module.modules():
            if isinstance(layer, NeuralMemory):
                layer.forward = partial(read_start, layer)  # pyrefly: ignore[bad-assignment]  # takes any state


def read_start(layer: NeuralMemory, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    """What stands in the place of the memory's pass: tokens [B, T, dim] to answers [B, T, dim], and no state."""
    return layer.retrieve(x, list(layer.init), None)[0], None
