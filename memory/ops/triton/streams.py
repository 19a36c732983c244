"""Kernels beside those of the caller's stream: a scan of few heads has few programs and most of a GPU idles."""

from collections.abc import Callable
from functools import cache
from typing import cast

import torch


def side_stream(device: torch.device, number: int) -> torch.cuda.Stream:
    """A stream for scans, the same at every call from one stream, as scans of several streams shall not wait."""
    return _beside(torch.cuda.current_stream(device), number)


@cache
def _beside(stream: torch.cuda.Stream, number: int) -> torch.cuda.Stream:
    """Its programs get an SM before those of other streams, which wait."""
    return torch.cuda.Stream(stream.device, priority=-1)


def launch_on(stream: torch.cuda.Stream | None, work: Callable[..., None], *args: object) -> torch.cuda.Event | None:
    """Launch on `stream`, behind everything launched on the caller's so far; returns what to `join` for the result.

    What `work` touches must be the caller's stream's, and live until that has joined. Without a stream the caller's
    takes the work. Both ways can be captured in a CUDA graph.
    """
    if stream is None:
        work(*args)
        return None
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        work(*args)
    return cast(torch.cuda.Event, stream.record_event())


def join(device: torch.device, event: torch.cuda.Event | None) -> None:
    """Let the caller's stream wait for work on another stream."""
    if event is not None:
        torch.cuda.current_stream(device).wait_event(event)
