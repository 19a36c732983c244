"""Speed and memory of the Triton memory kernels on one GPU: `python -m benchmarks.kernel`.

One layer of 32,768 tokens, 16 heads of 64, two-layer memory with momentum, forgetting, LayerNorm and residual, bf16.
Forward and backward include the gates' coefficients and all recomputation. Median over runs, all in one process.
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from app.versions import device_name
from benchmarks.rows import Row, spread, write
from memory.ops import initial_state, memory_scan

HEADS, WIDTH, CHUNK = 16, 64, 64
# batch, time, hidden units in head widths, forgets towards the initial memory: bounds in ms on forward, both, and GiB
CASES = {
    (8, 4096, 2, False): (("<= 1.6", "<= 0.8"), ("<= 6.5", "<= 3.5"), ("<= 1", "<= 0.4")),
    (8, 4096, 2, True): (("", ""), ("", ""), ("", "")),
    (8, 4096, 4, False): (("<= 3.2", "<= 1.6"), ("<= 11", "<= 6"), ("", "")),
    (1, 32768, 2, False): (("", ""), ("<= 9", "<= 5"), ("", "")),
}


def problem(batch: int, time: int, expansion: int, to_init: bool) -> tuple[Callable, list[Tensor]]:
    """A scan over random inputs, and the leaves it differentiates."""
    device, hidden = "cuda", expansion * WIDTH

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device)

    q, k = (F.normalize(normal(batch, time, HEADS, WIDTH), dim=-1).bfloat16() for _ in range(2))
    v = normal(batch, time, HEADS, WIDTH).bfloat16()
    theta = 0.05 * torch.rand(batch, time, HEADS, device=device)
    log_eta, log_keep = (F.logsigmoid(normal(batch, time, HEADS) + shift) for shift in (1, 4))
    init = [normal(HEADS, WIDTH, hidden) / WIDTH**0.5, normal(HEADS, hidden, WIDTH) / hidden**0.5]
    scale, shift = torch.ones(HEADS, WIDTH, device=device), torch.zeros(HEADS, WIDTH, device=device)
    leaves = [x.requires_grad_() for x in (q, k, v, theta, log_eta, log_keep, *init, scale, shift)]

    def forward(backend: str = "triton") -> Tensor:
        options = {"chunk": CHUNK, "scale": scale, "shift": shift, "target": init if to_init else None}
        return memory_scan(*leaves[:6], initial_state(init, batch), backend=backend, **options)[0]

    return forward, leaves


def milliseconds(run: Callable, repeats: int) -> list[float]:
    """Device time of each of `repeats` runs, after three to warm up."""
    times = []
    for i in range(repeats + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        if i >= 3:
            times.append(start.elapsed_time(end))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel", description=__doc__)
    parser.add_argument("--repeats", type=int, default=10, help="timed runs of each case (%(default)s)")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this benchmark needs a CUDA GPU")
    device, rows = device_name(torch.device("cuda")), []

    def add(what: str, values: list[float], unit: str, bounds: tuple[str, str]) -> None:
        command = f"python -m benchmarks.kernel --repeats {given.repeats}"
        rows.append(Row(what, median(values), spread(values), unit, *bounds, [0], device, command))
        print(f"{what}: {median(values):.3f} {unit}", flush=True)

    for (batch, time, expansion, to_init), (fwd_bounds, both_bounds, memory_bounds) in CASES.items():
        name = f"L_M=2 h={expansion}d B={batch} T={time}{', forgetting to init' if to_init else ''}"
        forward, leaves = problem(batch, time, expansion, to_init)
        direction = torch.randn_like(leaves[0])

        def both(backend: str = "triton", forward=forward, leaves=leaves, direction=direction) -> None:
            torch.autograd.grad(forward(backend), leaves, direction)

        with torch.no_grad():
            add(f"{name}: forward", milliseconds(forward, given.repeats), "ms", fwd_bounds)
        add(f"{name}: forward and backward", milliseconds(both, given.repeats), "ms", both_bounds)
        gradients = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        both()
        peak = (torch.cuda.max_memory_allocated() - before - gradients) / 2**30
        add(f"{name}: peak memory beyond inputs and gradients", [peak], "GiB", memory_bounds)
        if (batch, expansion, to_init) == (8, 2, False):
            slow = milliseconds(lambda both=both: both("chunked"), 2)
            add(f"{name}: forward and backward on matrix products (backend chunked)", slow, "ms", ("", ""))
        write("kernel", rows)


if __name__ == "__main__":
    main()
