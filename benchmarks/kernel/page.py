"""A page and a plot of the kernel benchmark's rows."""

import re
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.shared.rows import Row, number, table

GRAPH = ", CUDA graph"  # ends the metric of what was timed as a captured graph
ABOUT = """Medians ± standard deviation. TFLOP/s and GB/s are those of the CUDA graph where there is one, by the
operations that the algorithm needs and the bytes of its inputs and outputs. The whole layer forgets to M_0 unless said;
titans-pytorch to zero, without a convolution, with momentum and forgetting shared by 64 tokens. One token is always the
same one, and a captured one copies its state back. The picture, where there is one, is of time over sequence length.

"""
SWEPT = re.compile(r"(?P<series>.+), 131,072 tokens, T=(?P<time>\d+): forward and backward")


def page(rows: list[Row]) -> str:
    """Markdown with a line per measurement, plain call and CUDA graph side by side."""
    graphs = {row.metric.removesuffix(GRAPH): row for row in rows if row.metric.endswith(GRAPH)}
    lines = [["measured", "unit", "plain call", "CUDA graph", "note"]]
    for row in rows:
        if row.metric not in {graph.metric for graph in graphs.values()}:
            graph = graphs.get(row.metric)
            lines.append([row.metric, row.unit, number(row), number(graph) if graph else "", row.note])
    text = f"{', '.join(sorted({row.device for row in rows}))}; `python -m benchmarks.kernel`, "
    text += f"{', '.join(sorted({f'{row.date} at {row.commit}' for row in rows}))}.\n"
    return text + ABOUT + table(lines)


def series(rows: list[Row]) -> dict[str, dict[int, float]]:
    """Milliseconds of forward and backward by sequence length, of everything that was measured over the lengths."""
    found = {}
    for row in rows:
        if (match := SWEPT.fullmatch(row.metric)) and row.value == row.value:
            found.setdefault(match["series"], {})[int(match["time"])] = row.value
    return found


def draw(rows: list[Row], path: Path) -> None:
    """Plot time over sequence length, both logarithmic."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, points in series(rows).items():
        axes.plot(*zip(*sorted(points.items()), strict=True), "o--" if "attention" in name else "o-", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="sequence length T (131,072 tokens in all)")
    axes.set_ylabel("recurrence or attention, forward and backward, plain call, ms")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
