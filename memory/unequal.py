"""Sequences of unequal length in one batch, read and continued as each would be alone."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from memory.checks import as_mask, check_tokens
from memory.rows import Slots
from memory.state import BackboneState, KVCache

PIECE = 4096  # tokens of a row that are read at a time, so that what a call needs does not grow with a sequence

if TYPE_CHECKING:
    from memory.backbone import TitansBackbone


@torch.no_grad()
def read_unequal(
    backbone: TitansBackbone, x: Tensor, mask: Tensor, state: BackboneState | None = None, room: int = 0
) -> tuple[Tensor, BackboneState]:
    """Read sequences of unequal length, each as it would be read alone.

    All rows are read together as far as the shortest goes, the others as far as the next, and so on: nothing is padded.

    Args:
        backbone: what reads.
        x: tokens, [B, T, dim], with padding before or behind those of a row.
        mask: 0 or False at padding, [B, T] of any dtype.
        state: what all rows have read before, at one place; None at the start of the sequences.
        room: see `TitansBackbone.apart`; by default what is needed so far.

    Returns:
        hidden states [B, T, dim], 0 at padding, and the state, whose rows are apart. Neither has a gradient.

    Raises:
        ValueError: tokens, mask or state do not fit the backbone, a row has no token, or padding between two.
    """
    check_tokens(x, backbone.config.dim, backbone.norm.weight.device)
    if state is not None and state.apart:
        raise ValueError("the rows of this state are apart already; go on with forward, which takes padding anywhere")
    starts, lengths = _places(cast(Tensor, as_mask(mask, x)))
    order = sorted(range(len(x)), key=lambda row: lengths[row])
    back = torch.tensor(order, device=x.device).argsort()
    if state is not None:
        state = state.map(lambda t: t[order])
    hidden = torch.zeros_like(x)
    done = 0
    ended = []
    for length, rows in groupby(list(order), key=lambda row: lengths[row]):
        while done < length:
            size = min(PIECE, length - done)
            places = [slice(starts[row] + done, starts[row] + done + size) for row in order]
            piece = torch.stack([x[row, place] for row, place in zip(order, places, strict=True)])
            ys, state = backbone(piece, state)
            for row, place, y in zip(order, places, ys, strict=True):
                hidden[row, place] = y
            done += size
        assert state is not None
        size = len(list(rows))
        ended.append(state.map(lambda t, size=size: t[:size]))
        state = state.map(lambda t, size=size: t[size:])
        order = order[size:]
    room = max(room, _cached(ended[-1]))
    first, *others = [backbone.apart(state, room) for state in ended]
    return hidden, first.joined(*others).map(lambda t: t[back])


def one_by_one(
    backbone: TitansBackbone, x: Tensor, state: BackboneState, mask: Tensor | None
) -> tuple[Tensor, BackboneState]:
    """A backbone's `forward` with a state whose rows are apart, which is left as it is."""
    tokens = x.shape[1]
    state = state.clone()
    if backbone.config.variant == "attention":
        state.blocks = [[cast(Slots, part).grown(tokens)] for [part] in state.blocks]
    ys = []
    for t in range(tokens):
        before = None if mask is None else state.clone()
        y = backbone.step(x[:, t : t + 1], state)
        if mask is not None and before is not None:
            state = state.where(mask[:, t], before)
            y = y.masked_fill(~mask[:, t, None, None], 0)
        ys.append(y)
    return torch.cat(ys, 1), state


def _places(mask: Tensor) -> tuple[list[int], list[int]]:
    """Where the tokens of each row of a mask [B, T] begin, and how many they are."""
    starts = mask.int().argmax(1)
    lengths = mask.sum(1)
    steps = torch.arange(mask.shape[1], device=mask.device)
    together = (steps >= starts[:, None]) & (steps < (starts + lengths)[:, None])
    wrong = (lengths == 0) | (mask != together).any(1)
    if wrong.any():
        row = int(wrong.int().argmax())
        raise ValueError(f"row {row} has no token, or padding between two; pad before or behind all tokens of a row")
    return starts.tolist(), lengths.tolist()


def _cached(state: BackboneState) -> int:
    """Tokens in the first block's cache of keys and values, where that is its only state."""
    part = state.blocks[0][0]
    return part.k.shape[2] if isinstance(part, KVCache) else 0
