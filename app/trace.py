"""What each memory of a model did along a sequence: surprise, gates, norms, and what every token read back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from memory import NeuralMemory, TitansBackbone
from memory.layers import behind
from memory.state import FastState

POINTS = 128  # of a sequence at which a memory's norms are taken, at most
FOUND = 3  # earlier tokens that are named for each
ROWS = 512  # tokens that are compared with all earlier ones at a time


@dataclass(frozen=True)
class Trace:
    """One memory along B sequences of T tokens; means over heads.

    Args:
        tokens: by name, [B, T] each: `surprise`, 1/2 |M(k) - v|^2 at the memory before the token's own write, and the
            gates `theta`, `eta` and `alpha`.
        norms: by name, [B, P] each, behind the tokens `ends`: `moved`, how far the memory is from M_0, and `momentum`;
            root mean squares over heads.
        ends: P places, counted from 1.
        found: the earlier tokens whose values are nearest to what a token read, nearest first, [B, T, 3]; -1 for none.
        likeness: their cosines, [B, T, 3].
    """

    tokens: dict[str, Tensor]
    norms: dict[str, Tensor]
    ends: list[int]
    found: Tensor
    likeness: Tensor


@contextmanager
def heard(memories: Mapping[str, NeuralMemory]) -> Iterator[dict[str, list[Tensor]]]:
    """Note the tokens [B, T, dim] that each memory is given by the calls inside; MAC gives them a segment at a time."""
    seen: dict[str, list[Tensor]] = {name: [] for name in memories}
    for name, memory in memories.items():
        memory.write = _noting(memory.write, seen[name])
    try:
        yield seen
    finally:
        for memory in memories.values():
            del memory.write  # the method of the class is in its place again


def _noting(write: Callable, seen: list[Tensor]) -> Callable:
    def noted(x: Tensor, state: Any, mask: Any = None, before: Tensor | None = None) -> Any:
        seen.append(x if before is None else behind(before.to(x.dtype), x))
        return write(x, state, mask, before)

    return noted


@torch.no_grad()
def traces(backbone: TitansBackbone, x: Tensor) -> dict[str, Trace]:
    """The trace of every memory while the backbone reads tokens x [B, T, dim] from a fresh state, by its block's name.

    The memories read what they read in the model; persistent tokens are read too, and left out of the trace.
    """
    memories = backbone.memories()
    with heard(memories) as seen:
        backbone(x)
    return {name: trace(memory, torch.cat(seen[name], 1), x.shape[1]) for name, memory in memories.items()}


@torch.no_grad()
def trace(memory: NeuralMemory, x: Tensor, shown: int) -> Trace:
    """The trace of one memory that reads x [B, T, dim], of the last `shown` tokens."""
    before = x.shape[1] - shown
    size = -(-shown // POINTS)
    state = memory.initial_state(len(x))
    surprise = []
    reads = []
    norms: list[dict[str, Tensor]] = []
    for piece in (x[:, :before], *x[:, before:].split(size, 1)):
        if piece.shape[1]:
            surprise.append(memory.surprise(piece, state))
            read, state = memory.write(piece, state)
            reads.append(read)
            norms.append(_norms(state.fast, list(memory.init)))
    gates = {name: gate[:, before:].mean(-1) for name, gate in memory.gate_values(x).items()}
    ends = [min(end, shown) for end in range(size, shown + size, size)]
    found, likeness = nearest(torch.cat(reads, 1)[:, before:], memory.values(x)[:, before:])
    return Trace(
        {"surprise": torch.cat(surprise, 1)[:, before:].mean(-1), **gates},
        {name: torch.stack([each[name] for each in norms[-len(ends) :]], 1) for name in norms[0]},
        ends,
        found,
        likeness,
    )


def _norms(fast: FastState, initial: list[Tensor]) -> dict[str, Tensor]:
    """Norms [B] of all layers together, by name."""
    moved = [weight - start for weight, start in zip(fast.weights, initial, strict=True)]
    return {"moved": _norm(moved), "momentum": _norm(fast.momentum)}


def _norm(layers: list[Tensor]) -> Tensor:
    return torch.stack([layer.square().sum((-2, -1)).mean(-1) for layer in layers]).sum(0).sqrt()


def nearest(reads: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The earlier tokens whose values are nearest to what each token read.

    Args:
        reads: answers of the memory, [B, T, H, D].
        values: what tokens were written with, [B, T, H, D].

    Returns:
        places [B, T, 3], nearest first, -1 where a token has fewer before it, and their mean cosines over heads.
    """
    heads = reads.shape[2]
    reads, values = (F.normalize(each.float(), dim=-1).flatten(2) for each in (reads, values))
    places = torch.arange(reads.shape[1], device=reads.device)
    found = []
    for rows in places.split(ROWS):
        alike = reads[:, rows] @ values.mT / heads  # [B, R, T]
        alike = alike.masked_fill(places >= rows[:, None], -torch.inf)
        found.append(F.pad(alike, (0, FOUND), value=-torch.inf).topk(FOUND, -1))
    likeness = torch.cat([part.values for part in found], 1)
    indices = torch.cat([part.indices for part in found], 1)
    return indices.masked_fill(likeness.isinf(), -1), likeness.masked_fill(likeness.isinf(), 0.0)
