"""States of rows that each stand at a place of their own in a chunk, a segment and a cache.

The states of `memory.state` count tokens for all rows together. These count for each, so that rows join a running batch
and leave it (`State.joined`, `State.map`); they go on one token at a time, and a step overwrites them.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from memory.ops.serves import fuses
from memory.state import FastRows, MemoryState, State


@dataclass
class MemoryRows(State):
    """A `NeuralMemory` layer between two steps; its convolutions' caches are those of `MemoryState`."""

    fast: FastRows
    query_cache: Tensor | None
    key_value_cache: Tensor | None

    @classmethod
    def of(cls, state: MemoryState, tokens_per_anchor: int) -> Self:
        """A copy of what a call has left, in a layer where so many tokens share an anchor."""
        fast = state.fast
        weights, momentum, anchor = ([copied(w) for w in part] for part in (fast.weights, fast.momentum, fast.anchor))
        if tokens_per_anchor == 1:
            rows = FastRows(weights, momentum, [], None)
        else:
            rows = FastRows(weights, momentum, anchor, places(weights[0], fast.position))
        caches = (cache if cache is None else copied(cache) for cache in (state.query_cache, state.key_value_cache))
        return cls(rows, *caches)


@dataclass
class Slots(State):
    """Keys and values of attention: each row's next token has a slot of its own.

    Args:
        k: rotated keys, [B, H, n, d]; those of the persistent tokens come first.
        v: values, [B, H, n, d].
        position: tokens that each row has read, in MAC of its segment, [B] int64.
        conv_cache: last inputs of the convolution on queries, keys and values; None without one.
    """

    k: Tensor
    v: Tensor
    position: Tensor
    conv_cache: Tensor | None = None

    def put(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Write one key and one value of each row, [B, H, 1, d], to its slot [B]."""
        at = slots[:, None, None, None].expand_as(k)
        self.k.scatter_(2, at, k.to(self.k.dtype))
        self.v.scatter_(2, at, v.to(self.v.dtype))

    def attend(self, q: Tensor, seen: Tensor) -> Tensor:
        """What one query of each row, [B, H, 1, d], gets from the slots that are `seen`, [B, n] bool."""
        q = q.to(self.k.dtype)
        if fuses(q, q.shape[-1], "auto"):
            from memory.ops.triton.slots import attend_slots  # imports Triton, which need not be there

            return attend_slots(q, self.k, self.v, seen)
        return F.scaled_dot_product_attention(q, self.k, self.v, seen[:, None, None])

    def grown(self, tokens: int) -> "Slots":
        """The same with so many free slots more behind the others."""
        k, v = (F.pad(part, (0, 0, 0, tokens)) for part in (self.k, self.v))
        return replace(self, k=k, v=v)


@dataclass
class GateRows(State):
    """A MAG mixer between two steps."""

    memory: MemoryRows
    attention: Slots


@dataclass
class ContextRows(State):
    """A MAC mixer between two steps.

    Args:
        memory: the memory, written up to the last token.
        before: the memory's weights before each row's current segment.
        slots: keys and values of persistent tokens, retrieved context and the segment's own tokens, in this order.
        query_cache: last inputs of the query convolution over the tokens.
    """

    memory: MemoryRows
    before: list[Tensor]
    slots: Slots
    query_cache: Tensor | None = None


def copied(x: Tensor) -> Tensor:
    """A contiguous copy, which can be written to."""
    return x.clone(memory_format=torch.contiguous_format)


def places(like: Tensor, place: int) -> Tensor:
    """One place for each row of a tensor [B, ...], [B] int64, from where rows go on by themselves."""
    return torch.full((len(like),), place, device=like.device)


def keep(cache: Tensor | None, new: Tensor | None) -> None:
    """Overwrite a cache, where there is one."""
    if cache is not None and new is not None:
        cache.copy_(new)
