"""A page and a picture of the throughput benchmark's rows."""

import re
from dataclasses import replace
from math import isfinite
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.shared.rows import Row, by_place, markdown, number, table

PLAIN, GRAPH = "plain call", "CUDA graph"
PEAK, LAUNCHES = "peak memory", "launches"
CROSSING = "shortest sequences on which {} is faster than attention"
TITLES = {
    GRAPH: "K tokens/s of a step captured as one CUDA graph",
    PLAIN: "K tokens/s of a plain call",
    PEAK: "Peak memory of a plain call, GiB",
    LAUNCHES: "Launches of a step: kernels, copies and fills",
}
METRIC = re.compile(r"(?P<case>\S+), (?P<size>\S+), T=(?P<time>\d+): (?P<measure>.+)")


def where(case: str, size: str, time: int, measure: str) -> str:
    """The metric of a row."""
    return f"{case}, {size}, T={time}: {measure}"


def crossing(rows: list[Row], case: str) -> int | None:
    """The shortest measured length from which on a captured step of `case` beats attention's; None if none does."""
    cells = by_place(rows, METRIC, GRAPH)
    ours, control = cells.get(case, {}), cells.get("attention", {})
    found = None
    for place in sorted(ours.keys() & control.keys(), reverse=True):
        if place[0] != "base":
            continue
        if not ours[place].value > control[place].value:
            break
        found = place[1]
    return found


def page(rows: list[Row]) -> str:
    """Markdown: a table of each measure, cases by lengths, then everything else, and what could not be measured."""
    text = f"{', '.join(sorted({row.device for row in rows}))}; `python -m benchmarks.throughput`, "
    text += f"{', '.join(sorted({f'{row.date} at {row.commit}' for row in rows}))}. Forward and backward in bf16\n"
    text += "autocast, 65,536 tokens or one longer sequence; the picture is of captured steps.\n"
    for measure, title in TITLES.items():
        cells = by_place(rows, METRIC, measure)
        places = {place for row in cells.values() for place in row}
        places = sorted(places, key=lambda place: (place[0] != "base", place))
        lines = [["", *(f"{size} {time:,}" for size, time in places)]]
        for case, row in cells.items():
            lines.append(
                [case, *(number(replace(row[place], spread=None)) if place in row else "" for place in places)]
            )
        text += f"\n## {title}\n\n{table(lines)}"
    others = [row for row in rows if not METRIC.fullmatch(row.metric)]
    failed = [row for row in rows if row.value != row.value and row not in others]
    for title, part in (("Others", others), ("Not measured", failed)):
        if part:
            text += f"\n## {title}\n\n{markdown(part)}"
    return text


def draw(rows: list[Row], path: Path) -> None:
    """Plot the captured steps' speed over sequence length."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for case, cells in by_place(rows, METRIC, GRAPH).items():
        measured = [(time, row.value) for (size, time), row in cells.items() if size == "base"]
        points = sorted(point for point in measured if isfinite(point[1]))
        if points:
            axes.plot(*zip(*points, strict=True), "o--" if case in ("attention", "swa") else "o-", label=case)
    axes.set(xlabel="sequence length T", ylabel="forward and backward, CUDA graph, K tokens/s")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
