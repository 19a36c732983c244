"""What flows between two calls: fast weights, convolution tails and key-value caches are values, never buffers."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

APART = (
    "rows at different places of a chunk or segment cannot share a call: read pieces whose length is a multiple of "
    "memory.chunk and, in mac, of segment"
)


def _map(change: Callable[..., Tensor], *values: Any) -> Any:
    """`change` of tensors that stand at one place of several states, which differ in nothing else.

    Raises:
        ValueError: they do differ, so that no single call could continue them.
    """
    first = values[0]
    if any(isinstance(value, Tensor) for value in values):
        return change(*values)
    if any(type(value) is not type(first) for value in values):
        raise ValueError(APART)
    if isinstance(first, list):
        return [_map(change, *items) for items in zip(*values, strict=True)]
    if is_dataclass(first):
        parts = {f.name: _map(change, *(getattr(value, f.name) for value in values)) for f in fields(first)}
        return replace(first, **parts)
    if any(value != first for value in values):
        raise ValueError(APART)
    return first


class State:
    """Base of every state; all are plain dataclasses that `torch.save` and `torch.load(weights_only=True)` take."""

    def __init_subclass__(cls) -> None:
        torch.serialization.add_safe_globals([cls])

    def detach(self) -> Self:
        """The same values, cut from the graph that computed them (truncated back-propagation through time)."""
        return self.map(Tensor.detach)

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The state with every tensor changed: moved, or rows of the batch taken, the first axis of each."""
        return _map(change, self)

    def where(self, rows: Tensor, other: Self) -> Self:
        """This state in the rows that are True and `other` in the rest, each row exactly as it was.

        Args:
            rows: [B] bool.
            other: a state at the same place of its chunk and segment; both have B rows, or one that stands for all.

        Raises:
            ValueError: the two stand at different places, so that no single call could continue both, or are states
                of another number of rows.
        """

        def choose(own: Tensor | None, others: Tensor) -> Tensor:
            if own is None:
                own = torch.zeros_like(others)  # a convolution takes what is not there for zero
            if own.shape[1:] != others.shape[1:]:
                raise ValueError(APART)
            if not {len(own), len(others)} <= {1, len(rows)}:
                raise ValueError(f"states of {len(own)} and {len(others)} rows do not fit a batch of {len(rows)}")
            return torch.where(rows.view(-1, *[1] * (own.dim() - 1)), own.to(others.dtype), others)

        return _map(choose, self, other)

    def tensors(self) -> list[Tensor]:
        """All tensors, always in the same order."""
        found: list[Tensor] = []
        self.map(lambda t: found.append(t) or t)
        return found


@dataclass
class FastState(State):
    """A memory that has read some tokens.

    Args:
        weights: M_t, one [B, H, d_in, d_out] tensor per layer, float32 (float64 where the inputs are).
        momentum: S_t, shapes as `weights`.
        anchor: the memory at the end of the last full chunk, where inner gradients are taken; at that end, `weights`.
        position: tokens of the chunk in progress.
    """

    weights: list[Tensor]
    momentum: list[Tensor]
    anchor: list[Tensor]
    position: int = 0


@dataclass
class MemoryState(State):
    """A `NeuralMemory` layer between two calls.

    Args:
        fast: the memory itself.
        query_tail: last inputs of the query convolution, [B, conv - 1, dim]; None without a convolution.
        pair_tail: last inputs of the key and value convolution, [B, conv - 1, 2 dim].
    """

    fast: FastState
    query_tail: Tensor | None = None
    pair_tail: Tensor | None = None


@dataclass
class KVCache(State):
    """Keys and values that later tokens may still attend to.

    Args:
        k: keys, [B, H, n, d], rotated unless positions count from the oldest of a window.
        v: values, [B, H, n, d].
        valid: False at padding, [B, n]; None where nothing was padded.
        tail: last inputs of the convolution on queries, keys and values, [B, conv - 1, 3 dim]; None without one.
    """

    k: Tensor
    v: Tensor
    valid: Tensor | None = None
    tail: Tensor | None = None


def extended(cache: KVCache | None, k: Tensor, v: Tensor, valid: Tensor | None = None) -> KVCache:
    """A cache with more keys and values [B, H, T, d] behind it; `valid` [B, T] is False at padding."""
    if cache is None:
        return KVCache(k, v, valid)
    if cache.valid is not None or valid is not None:
        parts = ((cache.k, cache.valid), (k, valid))
        known = (m if m is not None else t.new_ones(len(t), t.shape[2], dtype=torch.bool) for t, m in parts)
        valid = torch.cat(list(known), 1)
    return KVCache(torch.cat([cache.k.to(k.dtype), k], 2), torch.cat([cache.v.to(v.dtype), v], 2), valid)


@dataclass
class GateState(State):
    """A MAG mixer between two calls."""

    memory: MemoryState
    attention: KVCache


@dataclass
class ContextState(State):
    """A MAC mixer between two calls, perhaps in the middle of a segment.

    Args:
        memory: the memory, written up to the last token.
        before: the memory's weights before the current segment, which context is retrieved from.
        context: keys and values retrieved in the current segment; None before its first token.
        segment: keys and values of the current segment's own tokens; None before its first token.
        query_tail: last inputs of the query convolution over the segment's tokens.
    """

    memory: MemoryState
    before: list[Tensor]
    context: KVCache | None = None
    segment: KVCache | None = None
    query_tail: Tensor | None = None


@dataclass
class BackboneState(State):
    """States of all mixers, block by block."""

    blocks: list[list[State]]
