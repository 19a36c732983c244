"""What flows between two calls: fast weights, convolution caches and key-value caches are values, never buffers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, Self, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

APART = (
    "rows at different places of a chunk or segment cannot share a call: read pieces whose length is a multiple of "
    "memory.chunk and, in mac, of segment, or let rows stand apart (TitansBackbone.apart)"
)
STRANGERS = "states of different models, or of rows that stand together and apart, cannot share a call"
RENAMED = {  # fields of older files
    "tail": "conv_cache",
    "query_tail": "query_cache",
    "pair_tail": "key_value_cache",
    "chunk": "tokens_per_anchor",
}


def _map(change: Callable[..., Tensor], *values: Any) -> Any:
    """`change` of tensors that stand at one place of several states, which differ in nothing else.

    Raises:
        ValueError: they do differ, so that no single call could continue them.
    """
    if any(isinstance(value, Tensor) for value in values):
        if any(not isinstance(value, Tensor | None) for value in values):
            raise ValueError(STRANGERS)
        return change(*values)
    known = [value for value in values if value is not None]
    if not any(isinstance(value, list | State) for value in known):  # an older file does not know every number
        if any(value != known[0] for value in known):
            raise ValueError(APART)
        return known[0] if known else None
    if len(known) < len(values):
        raise ValueError(APART)
    first = known[0]
    if any(type(value) is not type(first) for value in values):
        raise ValueError(STRANGERS)
    if isinstance(first, list):
        if any(len(value) != len(first) for value in values):
            raise ValueError(STRANGERS)
        return [_map(change, *items) for items in zip(*values, strict=True)]
    parts = {}
    for field in fields(first):
        parts[field.name] = _map(change, *(getattr(value, field.name) for value in values))
    return replace(first, **parts)


class State:
    """Base of every state: a dataclass of tensors, lists, further states, and plain values.

    `torch.save` and `torch.load(weights_only=True)` take every state, and so do functions on pytrees, whose leaves are
    the tensors.
    """

    def __init_subclass__(cls) -> None:
        torch.serialization.add_safe_globals([cls])
        unflatten = partial(_unflatten, cls)
        pytree.register_pytree_node(cls, _flatten, unflatten, flatten_with_keys_fn=_flatten_with_keys)

    def __setstate__(self, values: dict[str, Any]) -> None:
        """Take the fields of a saved state, also under the names that they had before.

        Raises:
            ValueError: a field is missing, or of another kind than the class declares: what computes with a state asks
                for shapes and devices, and a tensor in the place of a number would only fail some tokens later.
        """
        for name, value in values.items():
            setattr(self, RENAMED.get(name, name), value)
        kind = type(self)
        for name, hint in _kinds(kind).items():
            if not hasattr(self, name):
                raise ValueError(f"a {kind.__name__} lacks its {name}")
            if not _is_of(getattr(self, name), hint):
                found = type(getattr(self, name)).__name__
                raise ValueError(f"{name} of a {kind.__name__} is of kind {found}, or holds what it must not hold")

    def detach(self) -> Self:
        """The same values, cut from the graph that computed them (truncated back-propagation through time)."""
        return self.map(Tensor.detach)

    def clone(self) -> Self:
        """A copy that shares no memory with this state; gradients flow through it."""
        return self.map(Tensor.clone)

    def to(self, target: torch.device | str | torch.dtype) -> Self:
        """The state on another device, or with its floating-point tensors in another dtype."""
        if isinstance(target, torch.dtype):
            return self.map(lambda t: t.to(target) if t.is_floating_point() else t)
        return self.map(lambda t: t.to(target))

    def map(self, change: Callable[[Tensor], Any]) -> Self:
        """The state with every tensor changed: moved, or rows of the batch taken, the first axis of each."""
        return _map(change, self)

    def joined(self, *others: Self) -> Self:
        """The rows of this state and of others behind them; all are at one place, or all are `apart`.

        Raises:
            ValueError: the states stand at different places, or are of different models.
        """
        return _map(lambda *parts: torch.cat(parts), self, *others)

    def where(self, rows: Tensor, other: Self) -> Self:
        """This state in the rows that are True and `other` in the rest, each row exactly as it was.

        Args:
            rows: [B] bool.
            other: a state at the same place of its chunk and segment; both have B rows, or one that stands for all.

        Raises:
            ValueError: the two stand at different places, so that no single call could continue both, or are states
                of another number of rows.
        """

        def choose(own: Tensor | None, others: Tensor | None) -> Tensor:
            own = _neutral(cast(Tensor, others)) if own is None else own  # one of the two is there
            others = _neutral(own) if others is None else others
            if own.shape[1:] != others.shape[1:]:
                raise ValueError(APART)
            if own.is_floating_point() != others.is_floating_point():
                raise ValueError(STRANGERS)
            if not {len(own), len(others)} <= {1, len(rows)}:
                raise ValueError(f"states of {len(own)} and {len(others)} rows do not fit a batch of {len(rows)}")
            return torch.where(rows.view(-1, *[1] * (own.dim() - 1)), own.to(others.dtype), others)

        return _map(choose, self, other)

    def tensors(self) -> list[Tensor]:
        """All tensors, always in the same order."""
        return pytree.tree_leaves(self)


@cache
def _kinds(kind: type[State]) -> dict[str, Any]:
    """The kind of every field of a state's class; none where a user's own names what only a type checker imports."""
    try:
        hints = get_type_hints(kind)
    except NameError:
        return {}
    return {field.name: hints[field.name] for field in fields(cast(Any, kind))}  # a State is a dataclass


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of a declared kind; of kinds that states here do not have, a user's own may be anything."""
    if isinstance(hint, UnionType):
        return any(_is_of(value, one) for one in get_args(hint))
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_is_of(one, get_args(hint)[0]) for one in value)
    if hint in (int, bool, NoneType):
        return type(value) is hint
    if hint is Tensor:
        return isinstance(value, Tensor) and value.layout == torch.strided
    return isinstance(value, hint) if isinstance(hint, type) and issubclass(hint, State) else True


def _neutral(like: Tensor) -> Tensor:
    """What a missing tensor stands for: a convolution's cache for zeros, a padding mask for no padding."""
    return torch.ones_like(like) if like.dtype == torch.bool else torch.zeros_like(like)


def _flatten(state: State) -> tuple[list[Any], tuple[list[str], dict[str, Any]]]:
    """The parts of a state that hold tensors; their names, and the fields that hold none."""
    parts = {}
    rest = {}
    for field in fields(cast(Any, state)):  # a State is a dataclass
        value = getattr(state, field.name)
        group = parts if isinstance(value, Tensor | list | State) else rest
        group[field.name] = value
    return list(parts.values()), (list(parts), rest)


def _flatten_with_keys(state: State) -> tuple[list[tuple[Any, Any]], Any]:
    parts, (names, rest) = _flatten(state)
    return [(pytree.GetAttrKey(name), part) for name, part in zip(names, parts, strict=True)], (names, rest)


def _unflatten(cls: type[State], parts: Iterable[Any], context: tuple[list[str], dict[str, Any]]) -> State:
    names, rest = context
    return cls(**dict(zip(names, parts, strict=True)), **rest)


@dataclass
class FastState(State):
    """A memory that has read some tokens.

    Args:
        weights: M_t, one [B, H, d_in, d_out] tensor per layer, float32 (float64 where the inputs are); one of a single
            row stands for all sequences that begin alike.
        momentum: S_t, shapes as `weights`.
        anchor: the memory at the end of the last full chunk, where inner gradients are taken; at that end, `weights`.
        position: tokens of the chunk in progress.
    """

    weights: list[Tensor]
    momentum: list[Tensor]
    anchor: list[Tensor]
    position: int = 0

    def expand(self, batch: int) -> "FastState":
        """The state of so many sequences, as views where one row stands for all of them; else this one itself.

        The anchor is copied there: within a chunk it is returned as it is, and rows of a state are each their own.
        """
        if len(self.weights[0]) == batch:
            return self

        def rows(weights: list[Tensor]) -> list[Tensor]:
            return [w.expand(batch, *w.shape[1:]) for w in weights]

        anchor = [w.contiguous() for w in rows(self.anchor)]
        return FastState(rows(self.weights), rows(self.momentum), anchor, self.position)


@dataclass
class FastRows(State):
    """A memory whose rows have read numbers of tokens of their own.

    Args:
        weights: M_t, [B, H, d_in, d_out] per layer, float32 (float64 where the inputs are).
        momentum: S_t, shapes as `weights`.
        anchor: the memory at the end of each row's last full chunk; no layers where every token has its own anchor.
        position: tokens of each row's chunk in progress, [B] int64; None where every token has its own anchor.
    """

    weights: list[Tensor]
    momentum: list[Tensor]
    anchor: list[Tensor]
    position: Tensor | None


@dataclass
class MemoryState(State):
    """A `NeuralMemory` layer between two calls.

    Args:
        fast: the memory itself.
        query_cache: last inputs of the query convolution, [B, conv - 1, dim]; None at the start or without one.
        key_value_cache: last inputs of the key and value convolution, [B, conv - 1, 2 dim].
        tokens_per_anchor: tokens that share a gradient anchor in the layer that returned the state, 1 with exact errors
            in a memory of one layer; None in older files.
    """

    fast: FastState
    query_cache: Tensor | None = None
    key_value_cache: Tensor | None = None
    tokens_per_anchor: int | None = None


@dataclass
class KVCache(State):
    """Keys and values that later tokens may still attend to.

    Args:
        k: keys, [B, H, n, d], rotated unless positions count from the oldest of a window.
        v: values, [B, H, n, d].
        valid: False at padding, [B, n]; None where nothing was padded.
        conv_cache: last inputs of the convolution on queries, keys and values, [B, conv - 1, 3 dim]; None without one.
        window: tokens that a query sees, its own included, in the attention that returned the cache; 0 for all of
            them, None in older files and within a MAC segment.
    """

    k: Tensor
    v: Tensor
    valid: Tensor | None = None
    conv_cache: Tensor | None = None
    window: int | None = None


def extended(cache: KVCache | None, k: Tensor, v: Tensor, valid: Tensor | None = None) -> KVCache:
    """A cache with more keys and values [B, H, T, d] behind it; `valid` [B, T] is False at padding."""
    if cache is None:
        return KVCache(k, v, valid)
    if cache.valid is not None or valid is not None:
        valid = torch.cat([_valid(cache.k, cache.valid), _valid(k, valid)], 1)
    k = torch.cat([cache.k.to(k.dtype), k], 2)
    v = torch.cat([cache.v.to(v.dtype), v], 2)
    return KVCache(k, v, valid)


def _valid(k: Tensor, valid: Tensor | None) -> Tensor:
    """`valid` [B, n] of keys [B, H, n, d], all True where it is None."""
    return k.new_ones(len(k), k.shape[2], dtype=torch.bool) if valid is None else valid


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
        query_cache: last inputs of the query convolution over the segment's tokens.
        size: tokens of a segment in the mixer that returned the state; None in older files.
    """

    memory: MemoryState
    before: list[Tensor]
    context: KVCache | None = None
    segment: KVCache | None = None
    query_cache: Tensor | None = None
    size: int | None = None


@dataclass
class BackboneState(State):
    """States of all mixers, block by block.

    Args:
        blocks: of each block, the states of its mixers.
        apart: whether each row stands at a place of its own; the states are then those of `memory.rows`.
    """

    blocks: list[list[State]]
    apart: bool = False
