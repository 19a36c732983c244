"""Small models trained several at once on one device, a step of each in turn: what recall and DNA share."""

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch


class Run(Protocol):
    """A job under way."""

    job: Any

    def advance(self) -> bool:
        """One step; False once all have been taken."""

    def result(self) -> dict[str, Any]:
        """What the run reached."""


def train(jobs: Iterable[Any], begin: Callable[[Any], Run], at_once: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Run jobs, several at once, and yield each with its result as it ends."""
    torch.set_float32_matmul_precision("high")
    gc.freeze()  # every capture collects garbage: not among all that was imported
    waiting, active = deque(jobs), []
    while waiting or active:
        while waiting and len(active) < at_once:
            active.append(begin(waiting.popleft()))
        for run in list(active):
            if not run.advance():
                active.remove(run)
                yield run.job, run.result()


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a GPU, as the application's default is."""
    # no cache: a graph must cast its weights anew at every replay
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False)
