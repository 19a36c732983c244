"""Speed and memory of the memory kernels and of their peers on one GPU, in one run: `python -m benchmarks.kernel`.

One layer of 32,768 tokens, 16 heads of 64, chunks of 64, bf16, momentum, forgetting (a scan to zero, a whole layer to
M_0, unless said), LayerNorm and residual. Every token reads the memory that its own pair has entered; forward and
backward include the gates' coefficients and all recomputation. Heads of 128 are 8, so the model width stays 1024.
Medians; each case as a plain call and as a CUDA graph. What cannot run, such as a peer that is not installed, leaves a
row that says why.
"""

import argparse
import gc
from functools import partial
from statistics import median

import torch

from app.versions import device_name
from benchmarks.kernel.cases import NONE, RATIOS, Bounds, Case, cases
from benchmarks.kernel.page import GRAPH, draw, series
from benchmarks.shared.rows import Row, earlier, spread, write
from benchmarks.shared.timing import (
    Problem,
    attempt,
    capture,
    ceilings,
    file_name,
    milliseconds,
    peak_gib,
)

PASSES = ("forward", "forward and backward")


class Benchmark:
    """Measures cases and keeps their rows; `rows` are those of an earlier run that are not measured again."""

    def __init__(self, repeats: int, rows: list[Row]) -> None:
        self.repeats, self.device = repeats, device_name(torch.device("cuda"))
        self.rows = {row.metric: row for row in rows}
        self.medians: dict[tuple[str, int, str], float] = {}  # by case, pass and "" or GRAPH
        self.titles: dict[str, str] = {}

    def add(self, metric: str, values: list[float], unit: str, bounds: Bounds, only: str, note: str = "") -> None:
        """Keep and print one row; no values where it could not be measured, and `note` says why."""
        middle = median(values) if values else float("nan")
        command = f"python -m benchmarks.kernel --repeats {self.repeats} --only {only}"
        self.rows[metric] = Row(metric, middle, spread(values), unit, *bounds, [0], self.device, command, note=note)
        print(f"{metric}: {middle:.4g} {unit}{f' ({note})' if note else ''}", flush=True)

    def ceilings(self) -> None:
        """Measure what the device reaches, which all else is compared with."""
        self.tflops, self.gbs = ceilings(self.repeats)
        self.add("device: bf16 matrix product of 8192", [self.tflops], "TFLOP/s", NONE, "ceilings")
        self.add("device: copy of 1 GiB, read and written", [self.gbs], "GB/s", NONE, "ceilings")

    def run(self, case: Case) -> None:
        """Measure a case, whatever it takes: a pass that fails gets a row that says why, and the rest runs on."""
        self.titles[case.name] = case.title
        torch.manual_seed(0)
        problem, why = attempt(case.make)
        for i, bounds in enumerate(case.bounds):
            if bounds is not None:
                self.time(case, problem, i, bounds, why)
        if case.memory is not None:
            peak, reason = attempt(partial(peak_gib, problem)) if problem else (None, why)
            metric = f"{case.title}: peak memory of forward and backward beyond inputs and gradients"
            self.add(metric, [] if peak is None else [peak], "GiB", case.memory, case.name, reason)

    def time(self, case: Case, problem: Problem | None, i: int, bounds: Bounds, why: str) -> None:
        """Time one pass of a case as a plain call and as a CUDA graph."""
        repeats, metric = min(case.repeats, self.repeats), f"{case.title}: {PASSES[i]}"
        scale = {"ms": 1, "us": 1000}[case.unit]
        self.rows.pop(metric + GRAPH, None)  # one of an earlier run would stand beside this plain call
        run = problem and (problem.read, problem.both)[i]
        plain, why = attempt(partial(milliseconds, run, repeats)) if run else (None, why)
        if plain is None:
            self.add(metric, [], case.unit, bounds, case.name, why)
            return
        captured, why = attempt(lambda: milliseconds(capture(run), repeats))
        rate, _ = attempt(lambda: self.rate(case, problem, i, median(captured or plain)))
        note = "; ".join(part for part in (rate, why and f"no CUDA graph: {why}") if part)
        for values, suffix, text in ((plain, "", note), (captured, GRAPH, "")):
            if values:
                self.medians[case.name, i, suffix] = median(values)
                self.add(metric + suffix, [scale * value for value in values], case.unit, bounds, case.name, text)

    def rate(self, case: Case, problem: Problem, i: int, ms: float) -> str:
        """Achieved rates against the device's, where a case's operations are known."""
        if case.work is None:
            return ""
        tflops, gbs = case.work[i] / ms / 1e9, (1 + i) * problem.bytes() / ms / 1e6
        return f"{tflops:.0f} TFLOP/s = {tflops / self.tflops:.0%}, {gbs:.0f} GB/s = {gbs / self.gbs:.0%}"

    def compare(self, last: str) -> None:
        """Add the ratios that the case `last` completes."""
        for ours, peer, i, bounds in RATIOS:
            if last not in (ours, peer) or not {ours, peer} <= self.titles.keys():
                continue
            for suffix in ("", GRAPH):
                times = [self.medians.get((name, i, suffix)) for name in (peer, ours)]
                metric = f"{self.titles[peer]} / {self.titles[ours]}: {PASSES[i]}{suffix}"
                if all(times):
                    self.add(metric, [times[0] / times[1]], "times", bounds, f"{ours},{peer}")
                elif not suffix:
                    absent = " and ".join(name for name, time in zip((peer, ours), times, strict=True) if not time)
                    self.add(metric, [], "times", bounds, f"{ours},{peer}", f"no time of {absent}")

    def save(self, name: str) -> None:
        """Write the rows and their plot."""
        rows = list(self.rows.values())
        path = write("kernel", name, rows)
        if series(rows):
            draw(rows, path.with_suffix(".png"))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel", description=__doc__)
    parser.add_argument("--repeats", type=int, default=10, help="timed runs of each case, at most (%(default)s)")
    parser.add_argument(
        "--only", help="cases to measure, by name or first words of it, separated by commas; other results are kept"
    )
    given = parser.parse_args(argv)
    wanted, chosen = given.only.split(",") if given.only else [], cases()
    names = {case.name for case in chosen}
    for word in wanted:
        if word != "ceilings" and not any(f"{name}-".startswith(f"{word}-") for name in names):
            parser.error(f"--only {word}: no such case; there are {', '.join(sorted(names))}")
    if wanted:
        chosen = [case for case in chosen if any(f"{case.name}-".startswith(f"{word}-") for word in wanted)]
    if not torch.cuda.is_available():
        parser.error("this benchmark needs a CUDA GPU")
    name = file_name("kernel", device_name(torch.device("cuda")))
    benchmark = Benchmark(given.repeats, earlier("kernel", name) if wanted else [])
    benchmark.ceilings()
    for case in chosen:
        benchmark.run(case)
        benchmark.compare(case.name)
        gc.collect()
        torch.cuda.empty_cache()
        benchmark.save(name)


if __name__ == "__main__":
    main()
