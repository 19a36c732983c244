"""Blocks as a wavefront: block l reads segment s while block l + 1 reads segment s - 1.

Where a segment must wait for the one before, as in MAC, one sequence alone leaves most of a GPU idle, and its time is
that of (segments x blocks) steps. As a wavefront it is that of (segments + blocks). Each block has a CUDA stream of its
own. Autograd runs the backward of an operation on the stream of its forward, so the backward is a wavefront too. Python
launches one operation after the other all the same: streams overlap only where the step is captured as a CUDA graph.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from memory.deferred import DeferredWeights
from memory.state import State


@cache
def _stream(device: torch.device, number: int) -> torch.cuda.Stream:
    """The stream of a block, the same at every call: a new one each time would have memory of its own to fill.

    Gradients of parameters then arrive on another stream than autograd met the parameters on, of which PyTorch warns.
    """
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    return torch.cuda.Stream(device)


def wavefront(
    blocks: nn.ModuleList, x: Tensor, piece: int, states: Sequence[list[State]] | None
) -> tuple[Tensor, list[list[State]]]:
    """Run tokens through all blocks.

    Args:
        blocks: each takes tokens [B, T, dim], its states or None, and no mask, and returns tokens and states.
        x: tokens, [B, T, dim].
        piece: tokens that a block takes at once.
        states: of each block before the tokens; None where sequences begin.

    Returns:
        [B, T, dim] and the states of each block.
    """
    own: list[Any] = [None] * len(blocks) if states is None else [*states]
    done = []
    streams = [_stream(x.device, i) for i in range(len(blocks))] if x.is_cuda else []
    with DeferredWeights():
        for tokens in x.split(piece, 1):
            for i, block in enumerate(blocks):
                with _behind(streams, i, tokens):
                    tokens, own[i] = block(tokens, own[i], None)
            done.append(tokens)
    for i, stream in enumerate(streams):
        _hand_over(stream, torch.cuda.current_stream(x.device), [t for state in own[i] for t in state.tensors()])
    if streams:
        _hand_over(streams[-1], torch.cuda.current_stream(x.device), done)
    return torch.cat(done, 1), own


def _behind(streams: list[torch.cuda.Stream], i: int, x: Tensor) -> AbstractContextManager:
    """The context in which block i runs: its stream, which first waits for the block before and its result x."""
    if not streams:
        return nullcontext()
    before = streams[i - 1] if i else torch.cuda.current_stream(x.device)
    _hand_over(before, streams[i], [x])
    return torch.cuda.stream(streams[i])


def _hand_over(source: torch.cuda.Stream, target: torch.cuda.Stream, tensors: list[Tensor]) -> None:
    """Let `target` wait for all that `source` was given.

    The allocator knows only the stream that made a tensor: it is told of the other one, or it would give the memory
    away before that one has read it.
    """
    target.wait_stream(source)
    for tensor in tensors:
        tensor.record_stream(target)
