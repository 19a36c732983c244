"""Time and memory on a CUDA device."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from benchmarks.shared.rows import card
from memory.ops import Unserved

WARM_UP = 3


@dataclass
class Problem:
    """Something to run on fixed inputs.

    Args:
        forward: computes one tensor.
        leaves: what it is differentiated by; empty where only the forward is of interest.
    """

    forward: Callable[[], Tensor]
    leaves: list[Tensor]
    direction: Tensor | None = field(default=None, init=False)

    @torch.no_grad()
    def read(self) -> Tensor:
        """The forward alone."""
        return self.forward()

    def both(self) -> None:
        """Forward and backward along one random direction, drawn at the first call."""
        y = self.forward()
        if self.direction is None:
            self.direction = torch.randn_like(y)
        torch.autograd.grad(y, self.leaves, self.direction, allow_unused=True)

    def bytes(self) -> int:
        """Bytes of inputs and output: what a forward must move; a backward moves as many gradients."""
        return sum(x.numel() * x.element_size() for x in (*self.leaves, self.read()))


def milliseconds(run: Callable, repeats: int, warm_up: int = WARM_UP) -> list[float]:
    """Time of each of `repeats` runs on the device's clock, queued one behind the other as in training."""
    for _ in range(warm_up):
        run()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in pairs:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairs]


def capture(run: Callable) -> Callable:
    """The same as a CUDA graph: the host's work for every launch is left out. `run` must have run before."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def peak_gib(problem: Problem) -> float:
    """Memory that forward and backward need at most, beyond what is there before and the gradients they leave."""
    gradients = sum(leaf.numel() * leaf.element_size() for leaf in problem.leaves)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    problem.both()
    return (torch.cuda.max_memory_allocated() - before - gradients) / 2**30


def ceilings(repeats: int) -> tuple[float, float]:
    """TFLOP/s of a large bf16 matrix product, and GB/s of a large copy, read and written bytes counted."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    product = median(milliseconds(lambda: a @ b, repeats))
    copy = median(milliseconds(lambda: target.copy_(source), repeats))
    return 2 * 8192**3 / product / 1e9, 2 * source.numel() * source.element_size() / copy / 1e6


def attempt(measure: Callable) -> tuple[object, str]:
    """What a measurement returns and "", or None and why there is nothing; memory is free again afterwards."""
    try:
        return measure(), ""
    except torch.OutOfMemoryError:
        return None, "out of memory"
    except Unserved as error:
        return None, f"not served: {error}"
    except ImportError as error:
        return None, f"not installed: {error}"
    except Exception as error:  # whatever a peer or a compiler throws must not end the run
        lines = str(error).strip().splitlines() or [""]
        return None, f"{type(error).__name__}: {lines[0][:160]}"


def file_name(command: str, device: str) -> str:
    """Results of `kernel` on a device such as `NVIDIA H100 80GB HBM3` are kept as kernel_h100."""
    return f"{command}_{card(device).lower()}"
