"""What controls of the memory on DNA share: a memory that nothing is written to, and heads with another stem."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning import Callback, Trainer
from torch import Tensor

from app.module import TitansModule
from domains.genomics import SequenceHead
from domains.genomics.stem import Stem
from memory import NeuralMemory
from memory.layers import behind


class ReadStart(Callback):
    """Let every memory answer with what training made its start; no token writes."""

    def setup(self, trainer: Trainer, module: TitansModule, stage: str) -> None:
        for layer in module.modules():
            if isinstance(layer, NeuralMemory):
                layer.forward = partial(read_start, layer)  # pyrefly: ignore[bad-assignment]  # takes any state


def read_start(
    layer: NeuralMemory, x: Tensor, state: None = None, mask: Tensor | None = None, before: Tensor | None = None
) -> tuple[Tensor, None]:
    """What stands in the place of the memory's pass: tokens [B, T, dim] to answers [B, T, dim], and no state.

    Queries of the first tokens are convolved with those that come before, [P, dim].
    """
    read = x if before is None else behind(before.to(x.dtype), x)
    answers, _ = layer.retrieve(read, list(layer.init), None)
    return answers[:, read.shape[1] - x.shape[1] :], None


class OtherStem(SequenceHead):
    """`SequenceHead` with a stem of another kind; pooling, both strands, bins and the last layer stay.

    A subclass names the stem's class, which takes the width of a token, letters, bases per token and dropout.

    Args:
        dim: width of a token.
        output_size: classes, labels or values.
        options: the others of `SequenceHead`; those of its convolutions have no effect.
    """

    other: Callable[[int, int, int, float], Stem]

    def __init__(self, dim: int, output_size: int, **options: Any) -> None:
        super().__init__(dim, output_size, **options)
        stem = self.stem
        self.stem = self.other(dim, stem.embedding.num_embeddings, stem.stride, stem.dropout.p)
