"""Training speed of whole models, every variant and its peers in one run on one GPU: `python -m benchmarks.throughput`.

A step is forward and backward of a backbone in bf16 autocast, without embedding, head, loss and optimiser, which would
be the same for all: 65,536 tokens, or one sequence where it is longer. It is timed as a plain call and as one captured
CUDA graph, in which blocks work side by side where sequences are few. `base` is 12 blocks of width 768 with 12 heads of
64, chunk 64, window and segment 512, 16 persistent tokens; `400m` is 24 blocks of width 1024 with 16 heads at one
length; `single` is base with one sequence of 32,768 tokens. The recurrences alone that the project has bounds for come
last. A part of all this is measured with --cases, --models and --lengths; other results are kept.
"""

import argparse
import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from app.versions import device_name
from benchmarks.shared import problems
from benchmarks.shared.rows import Row, earlier, spread, write
from benchmarks.shared.timing import Problem, attempt, capture, file_name, milliseconds
from benchmarks.throughput.page import CROSSING, GRAPH, LAUNCHES, PEAK, PLAIN, crossing, draw, where
from memory import BackboneConfig, MemoryConfig, TitansBackbone

TOKENS = 65_536  # of a step, where a sequence is not longer
LENGTHS = [2**power for power in range(11, 18)]
COUNTED = 3.0  # seconds of a step above which its launches are not counted: the profiler would take minutes
LINEAR = {"depth": 1}
EXACT = {"depth": 1, "norm": False, "errors": "exact"}


@dataclass
class Model:
    """Sizes of a backbone, and the batches of a step: sequences of each length, as many as make `tokens`."""

    dim: int
    layers: int
    heads: int
    lengths: list[int]
    tokens: int = TOKENS


MODELS = {
    "base": Model(768, 12, 12, LENGTHS),
    "400m": Model(1024, 24, 16, [4096]),
    "single": Model(768, 12, 12, [32_768], 32_768),
}
CASES = {  # variant, and what its memory has instead of two layers of doubled width
    "attention": ("attention", {}),
    "swa": ("swa", {}),
    "lmm1": ("lmm", LINEAR),
    "lmm1-exact": ("lmm", EXACT),
    "lmm2": ("lmm", {}),
    "mag": ("mag", {}),
    "mal": ("mal", {}),
    "mac": ("mac", {}),
    "deltanet": ("benchmarks.language.delta_layers.DeltaNet", {}),
    "gated-deltanet": ("benchmarks.language.delta_layers.GatedDeltaNet", {}),
}
GOALS = {  # must and aim of the captured step at base size, K tokens/s
    ("mac", 4096): (">= 140", ">= 250"),
    ("mac", 16_384): (">= 120", ">= 250"),
    ("mac", 65_536): (">= 90", ">= 250"),
    ("mag", 4096): (">= 250", ">= 330"),
    ("mag", 65_536): (">= 180", ">= 330"),
    ("mal", 4096): (">= 250", ">= 330"),
    ("mal", 65_536): (">= 180", ">= 330"),
    ("lmm1", 4096): (">= 400", ""),
    ("lmm2", 4096): (">= 310", ""),
    ("lmm2", 65_536): (">= 210", ""),
}
CROSSINGS = {"mag": ("<= 16384", "<= 8192"), "lmm2": ("<= 8192", "<= 4096")}
SCANS = {  # the recurrence of one layer: what it is, what makes it, must and aim in ms
    "scan-long": ("L_M=2, 1 x 32,768, 16 heads of 64", partial(problems.scan, 1, 32_768, 2, 2), "<= 8", "<= 5"),
    "scan-short": (
        "L_M=2, 512 x 101, 2 heads of 64, chunk 16",
        partial(problems.scan, 512, 101, 2, 2, chunk=16, heads=2),
        "<= 2.5",
        "<= 1.5",
    ),
    "scan-dna": (  # the same sequences in chunks as conf/genomics_gue.yaml has them
        "L_M=2, 512 x 101, 2 heads of 64, chunk 64",
        partial(problems.scan, 512, 101, 2, 2, heads=2),
        "<= 2.5",
        "<= 1.5",
    ),
    "scan-wide": (
        "L_M=2, 32 x 4,096, 8 heads of 128",
        partial(problems.scan, 32, 4096, 2, 2, width=128),
        "<= 40",
        "<= 22",
    ),
    "scan-exact": (  # as a gated delta net, whose kernels the bounds are of, has no momentum
        "L_M=1 exact errors, no momentum, 1 x 32,768, 16 heads of 64",
        partial(problems.scan, 1, 32_768, 1, 2, errors="exact", momentum=False),
        "<= 1.815",
        "<= 1.21",
    ),
}


def backbone(case: str, model: Model, **options: object) -> TitansBackbone:
    """The untrained backbone of a case.

    Raises:
        ImportError: a peer is not installed.
    """
    variant, memory = CASES[case]
    own: dict[str, Any] = {"heads": model.heads, "chunk": 64, "forgetting_start": -8.0, **memory}
    sizes = {"dim": model.dim, "layers": model.layers, "heads": model.heads}
    sizes |= {"window": 512, "segment": 512, "persistent": 16}
    return TitansBackbone(BackboneConfig(variant, memory=MemoryConfig(**own), **{**sizes, **options}))


class Step(Problem):
    """Forward and backward of a case, differentiated by its input and its parameters."""

    def __init__(self, case: str, model: Model, batch: int, time: int) -> None:
        self.module = backbone(case, model).cuda()
        self.x = torch.randn(batch, time, model.dim, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        super().__init__(self.answer, [self.x, *self.module.parameters()])

    def answer(self) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return self.module(self.x)[0]

    def captured(self) -> Callable:
        """The step as a CUDA graph, as `app.graphs` captures one: blocks side by side where sequences are few."""
        self.module.side_by_side = True
        self.both()
        return capture(self.both)


def seconds_of(run: Callable) -> float:
    """How long it takes, the device's work included."""
    torch.cuda.synchronize()
    start = perf_counter()
    run()
    torch.cuda.synchronize()
    return perf_counter() - start


def timed(run: Callable, seconds: float) -> list[float]:
    """Milliseconds of as many runs as fit into `seconds`, at least one, behind one that compiles what there is to."""
    run()
    first = seconds_of(run)
    repeats = min(int(seconds / first), 50)
    return milliseconds(run, repeats, 0) if repeats else [1000 * first]


def launches(run: Callable) -> int:
    """Kernels, copies and fills that a run gives the device."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    return sum(event.count for event in profiled.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA)


class Benchmark:
    """Measures cases and keeps their rows; `rows` are those of an earlier run that are not measured again."""

    def __init__(self, seconds: float, rows: list[Row]) -> None:
        self.seconds, self.device = seconds, device_name(torch.device("cuda"))
        self.rows = {row.metric: row for row in rows}

    def add(
        self, metric: str, values: list[float], unit: str, only: str, must: str = "", aim: str = "", note: str = ""
    ):
        """Keep and print one row; no values where it could not be measured, and `note` says why."""
        middle = median(values) if values else float("nan")
        command = f"python -m benchmarks.throughput --seconds {self.seconds:g} {only}"
        self.rows[metric] = Row(metric, middle, spread(values), unit, must, aim, [0], self.device, command, note=note)
        print(f"{metric}: {middle:.4g} {unit}{f' ({note})' if note else ''}", flush=True)

    def model(self, case: str, size: str, time: int) -> None:
        """Speed, memory and launches of a model at one length; what fails gets a row that says why."""
        model = MODELS[size]
        batch = max(model.tokens // time, 1)
        only = f"--cases {case} --models {size} --lengths {time}"
        goal = GOALS.get((case, time), ("", "")) if size == "base" else ("", "")
        torch.manual_seed(0)
        problem, why = attempt(partial(Step, case, model, batch, time))
        torch.cuda.reset_peak_memory_stats()
        plain, why = attempt(partial(timed, problem.both, self.seconds)) if problem else (None, why)
        note = why or f"{sum(leaf.numel() for leaf in problem.leaves[1:]) / 1e6:.0f}M parameters"

        def speeds(times: list[float] | None) -> list[float]:
            return [batch * time / ms for ms in times or []]

        self.add(where(case, size, time, PLAIN), speeds(plain), "K tokens/s", only, note=note)
        if plain is None:
            self.add(where(case, size, time, GRAPH), [], "K tokens/s", only, *goal, why)
            return
        peak = torch.cuda.max_memory_allocated() / 2**30
        memory = ("<= 32", "") if (case, size, time) == ("mag", "base", 4096) else ("", "")
        self.add(where(case, size, time, PEAK), [peak], "GiB", only, *memory)
        if median(plain) < 1000 * COUNTED:
            self.add(where(case, size, time, LAUNCHES), [launches(problem.both)], "", only)
        graph, why = attempt(lambda: timed(problem.captured(), self.seconds))
        self.add(where(case, size, time, GRAPH), speeds(graph), "K tokens/s", only, *goal, why)

    def scan(self, case: str) -> None:
        """Time of a recurrence alone, forward and backward."""
        title, make, *bounds = SCANS[case]
        torch.manual_seed(0)
        problem, why = attempt(make)
        plain, why = attempt(partial(timed, problem.both, self.seconds)) if problem else (None, why)
        graph, why = attempt(lambda: timed(capture(problem.both), self.seconds)) if plain else (None, why)
        for times, suffix, limits in ((plain, "", ["", ""]), (graph, ", CUDA graph", bounds)):
            self.add(f"recurrence alone, {title}{suffix}", times or [], "ms", f"--cases {case}", *limits, why)

    def save(self, name: str) -> None:
        """Write the rows and their picture."""
        for case, bounds in CROSSINGS.items():
            value = crossing(list(self.rows.values()), case)
            if value is not None:
                self.add(CROSSING.format(case), [value], "tokens", f"--cases {case},attention --models base", *bounds)
        rows = list(self.rows.values())
        draw(rows, write("throughput", name, rows).with_suffix(".png"))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    known = {"cases": [*CASES, *SCANS], "models": list(MODELS), "lengths": list(map(str, LENGTHS))}
    for name, choices in known.items():
        parser.add_argument(f"--{name}", help=f"some of {', '.join(choices)}, separated by commas; by default all")
    parser.add_argument("--seconds", type=float, default=1.0, help="to time each step for (%(default)s)")
    given = parser.parse_args(argv)
    chosen = {}
    for name, choices in known.items():
        chosen[name] = getattr(given, name).split(",") if getattr(given, name) else choices
        for word in set(chosen[name]) - set(choices):
            parser.error(f"--{name} {word}: there are {', '.join(choices)}")
    if not torch.cuda.is_available():
        parser.error("this benchmark needs a CUDA GPU")
    torch.set_float32_matmul_precision("high")
    name = file_name("throughput", device_name(torch.device("cuda")))
    benchmark = Benchmark(given.seconds, earlier("throughput", name))
    work = [
        partial(benchmark.model, case, size, time)
        for case in chosen["cases"]
        for size in chosen["models"]
        for time in MODELS[size].lengths
        if case in CASES and (size != "base" or str(time) in chosen["lengths"])
    ]
    for measure in [*work, *(partial(benchmark.scan, case) for case in chosen["cases"] if case in SCANS)]:
        measure()
        gc.collect()
        torch.cuda.empty_cache()
        benchmark.save(name)


if __name__ == "__main__":
    main()
