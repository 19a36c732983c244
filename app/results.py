"""What a test leaves behind: results.json in the run's folder and a table beside the published scores."""

import datetime
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.head import Head
from app.versions import versions


def write_results(folder: Path, results: dict[str, Any]) -> Path:
    """Write `results`, with versions and the time, as results.json into `folder`."""
    path = folder / "results.json"
    date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    stamped = {**results, "versions": versions(), "date": date}
    path.write_text(json.dumps(stamped, indent=2, default=str) + "\n")
    return path


def print_table(head: Head, metrics: dict[str, float], published: dict[str, dict[str, float]]) -> None:
    """Our test metrics above the published ones, best first by the metric that the head watches."""
    ours = {name.removeprefix("test/"): value for name, value in metrics.items()}
    names = sorted(ours, key=lambda name: name != head.monitor)  # the metric that people care about first
    worst = float("inf") if head.mode == "min" else float("-inf")
    theirs = sorted(published.items(), key=lambda row: row[1].get(head.monitor, worst), reverse=head.mode == "max")
    table = Table("model", *names, title="test")
    for model, scores in [("this run", ours), *theirs]:
        cells = (f"{scores[name]:.4f}" if name in scores else "-" for name in names)
        table.add_row(model, *cells, style="bold" if scores is ours else None)
    Console().print(table)


def warn_if_sample(provenance: dict[str, object]) -> None:
    """Say loudly that numbers from generated data mean nothing."""
    if provenance["data"] == "sample":
        Console().print(
            "[bold white on red] data=sample [/] These numbers come from GENERATED sample data, not from the real "
            "data set: they show that the program works and are not comparable with anything."
        )
