"""Blocks of few long sequences side by side: while a block reads a piece, the block before it reads the next one.

A memory goes along a sequence chunk by chunk, in one program for each head, and MAC segment by segment: where there are
few sequences, most of a GPU idles. A piece waits for the piece before it in the same block and for itself in the block
before, and for nothing else. Pieces are calls that hand on a state, so that nothing but rounding changes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import cast

import torch
from torch import Tensor

from memory.config import BackboneConfig
from memory.ops.serves import traced
from memory.precision import autocasts
from memory.state import State

PIECE = 8192  # tokens of a piece, of all sequences together: the products of fewer would not fill a GPU
MOST_PROGRAMS = 32  # of a memory, one for each head of a sequence; of more, pieces cost more than they gain

Read = Callable[..., tuple[Tensor, list[State]]]  # a block's call, of tokens, its states and a mask


def pieces(config: BackboneConfig, x: Tensor) -> list[int]:
    """Tokens of each piece of x [B, T, dim], sequences from their start on; a single one where more would gain nothing.

    Pieces end where a chunk of the memory does and, in MAC, a segment.
    """
    batch, tokens, _ = x.shape
    segmented = config.variant == "mac"
    recurrent = segmented or (config.variant in ("lmm", "mag", "mal") and batch * config.memory.heads <= MOST_PROGRAMS)
    if not recurrent or traced():
        return [tokens]
    chunk = config.memory.chunk
    unit = math.lcm(chunk, config.segment) if segmented else chunk
    before = 0 if segmented else config.persistent % chunk  # tokens that the memory has read of its first chunk
    size = max(PIECE // max(batch, 1) // unit, 1) * unit
    count = max((before + tokens) // size, 1)
    ends = [number * size - before for number in range(1, count)]
    return [end - start for start, end in zip([0, *ends], [*ends, tokens], strict=True)]


def run(blocks: Sequence[Read], x: Tensor, mask: Tensor | None, sizes: list[int]) -> tuple[Tensor, list[list[State]]]:
    """What blocks, one after the other, make of x [B, T, dim] in pieces of these sizes, and the states behind it.

    On a GPU each block has a stream; they start behind what the caller's has done, which then waits for them.
    """
    main = torch.cuda.current_stream(x.device) if x.is_cuda else None
    streams = [_stream(main, number) if main else None for number in range(len(blocks))]
    parts = list(x.split(sizes, 1))
    masks = [None] * len(sizes) if mask is None else list(mask.split(sizes, 1))
    ready = [main.record_event() if main else None] * len(sizes)
    states: list[list[State] | None] = [None] * len(blocks)
    with _own_casts(x.device):
        for piece, i in _in_order(len(sizes), len(blocks)):
            stream = streams[i]
            if stream is not None:
                stream.wait_event(cast(torch.cuda.Event, ready[piece]))
                parts[piece].record_stream(stream)  # which another has made, and will take for something else
            with torch.cuda.stream(stream):
                parts[piece], states[i] = blocks[i](parts[piece], states[i], masks[piece])
            if stream is not None:
                ready[piece] = stream.record_event()
    if main is not None:
        for stream in streams:
            main.wait_stream(cast(torch.cuda.Stream, stream))
    return torch.cat(parts, 1), cast(list[list[State]], states)


def _in_order(count: int, blocks: int) -> Iterator[tuple[int, int]]:
    """Each of `count` pieces in each block behind what it waits for; what may run side by side is neighbouring."""
    for diagonal in range(count + blocks - 1):
        for block in range(max(diagonal - count + 1, 0), min(diagonal + 1, blocks)):
            yield diagonal - block, block


@contextmanager
def _own_casts(device: torch.device) -> Iterator[None]:
    """Let each piece cast weights for itself, so that gradients of pieces are added up in the weights' own dtype."""
    kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(kept and not autocasts(device))
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(kept)


@cache
def _stream(main: torch.cuda.Stream, number: int) -> torch.cuda.Stream:
    """The stream of a block in calls from one stream, the same at every call."""
    return torch.cuda.Stream(main.device)
