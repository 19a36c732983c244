"""What a test leaves behind: results.json in the run's folder and a table beside the published scores."""

import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.files import write_json
from app.head import Head
from app.versions import versions


def write_results(folder: Path, results: dict[str, Any], name: str = "results.json") -> Path:
    """Write `results`, with versions and the time, as JSON into `folder`; a number that is not finite becomes null."""
    path = folder / name
    date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    stamped = {**results, "versions": versions(), "date": date}
    write_json(path, stamped)
    return path


def print_table(head: Head, metrics: dict[str, float], published: dict[str, dict[str, float]]) -> None:
    """Our test metrics above the published ones, best first by the metric that the head watches."""
    ours = {name.removeprefix("test/"): value for name, value in metrics.items()}
    shared = {name for scores in published.values() for name in scores}
    # The watched metric stands first, then those that published scores have too.
    names = sorted(ours, key=lambda name: (name != head.monitor, name not in shared))
    worst = float("inf") if head.mode == "min" else float("-inf")
    theirs = sorted(published.items(), key=lambda row: row[1].get(head.monitor, worst), reverse=head.mode == "max")
    print_scores("test", {"this run": {name: ours[name] for name in names}, **dict(theirs)})


def print_scores(title: str, rows: dict[str, dict[str, float]]) -> None:
    """A table of {model: {metric: value}}; the first row is ours and names the metrics."""
    names = list(next(iter(rows.values())))
    table = Table("model", *names, title=title)
    for i, (model, scores) in enumerate(rows.items()):
        cells = (f"{scores[name]:.4f}" if name in scores else "-" for name in names)
        table.add_row(model, *cells, style=None if i else "bold")
    Console().print(table)


def warn_if_sample(provenance: dict[str, object]) -> None:
    """Say loudly that numbers from generated data mean nothing."""
    if provenance["data"] == "sample":
        Console().print(
            "[bold white on red] data=sample [/] These numbers come from GENERATED sample data, not from the real "
            "data set: they show that the program works and are not comparable with anything."
        )
