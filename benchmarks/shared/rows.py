"""Rows of measured numbers: JSON to keep, from which `python -m benchmarks.pages` makes Markdown to read."""

import json
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import stdev
from typing import Any

from app.versions import git_commit

RESULTS = Path("results")  # in the working directory: an installed package writes nothing into its own folder


@dataclass
class Row:
    """One measured number.

    Args:
        metric: what was measured, on what.
        value: the number, a mean where there are several seeds, of times the median of repeats.
        spread: its standard deviation over seeds or repeats; None for a single one.
        unit: of `value`; empty for a pure number.
        must: bound that the value must keep, such as `<= 0.390` or `>= 60`; empty for none. Pages leave it out.
        aim: bound that it would better keep, written likewise.
        seeds: seeds measured.
        device: the device in words.
        command: command line that measures it again.
        commit: commit that was measured; by default the present one.
        date: day of the measurement; by default today.
        note: what else a reader should know, such as why there is no value.
    """

    metric: str
    value: float
    spread: float | None
    unit: str
    must: str
    aim: str
    seeds: list[int]
    device: str
    command: str
    commit: str | None = None
    date: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        self.commit = self.commit or git_commit()
        self.date = self.date or date.today().isoformat()
        self.misses()  # a bound that cannot be read is an error now, not when somebody looks

    def misses(self) -> list[str]:
        """Which of `must` and `aim` the value misses; nan misses every bound."""
        return [name for name in ("must", "aim") if not holds(self.value, getattr(self, name))]


def holds(value: float, bound: str) -> bool:
    """Whether `value` keeps a bound such as `<= 0.390`; an empty bound always holds."""
    if not bound:
        return True
    sign, _, limit = bound.partition(" ")
    if sign == "<=":
        return value <= float(limit)
    if sign == ">=":
        return value >= float(limit)
    raise ValueError(f"bound {bound!r} is neither `<= NUMBER` nor `>= NUMBER`")


def card(device: str) -> str:
    """The word of a device such as `NVIDIA H100 80GB HBM3` that tells it from others, H100; a processor as it is."""
    if device.lower().startswith("cpu"):
        return device.replace("cpu", "CPU")
    return next((word for word in device.split() if any(map(str.isdigit, word))), device)


def command_line(name: str) -> str:
    """The command line of this process, `python -m benchmarks.NAME ...`, which measures its rows again."""
    return shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]])


def spread(values: list[float]) -> float | None:
    """Standard deviation of repeated measurements; None for a single one."""
    return stdev(values) if len(values) > 1 else None


def path_of(command: str, name: str) -> Path:
    """The file that a command keeps its rows in, `results/COMMAND/NAME.json`."""
    return RESULTS / command / f"{name}.json"


def write(command: str, name: str, rows: list[Row]) -> Path:
    """Write the rows of a command, and return the file."""
    path = path_of(command, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return path


def read(path: Path) -> list[Row]:
    """The rows of one results file."""
    return [Row(**row) for row in json.loads(path.read_text())]


def earlier(command: str, name: str) -> list[Row]:
    """The rows that a command has kept before; none where it has not."""
    path = path_of(command, name)
    return read(path) if path.exists() else []


def markdown(rows: list[Row]) -> str:
    """The rows as a table, and below it by what each was measured."""
    runs = list(dict.fromkeys(map(_run, rows)))
    lines = [["measured", "value", "unit", "seeds", "note", "run"]]
    for row in rows:
        seeds = ", ".join(map(str, row.seeds))
        lines.append([row.metric, number(row), row.unit, seeds, row.note, str(1 + runs.index(_run(row)))])
    listed = "".join(f"{i}. {run}\n" for i, run in enumerate(runs, 1))
    return f"{table(lines)}\nRuns:\n\n{listed}"


def by_place(rows: Iterable[Row], pattern: re.Pattern[str], measure: str) -> dict[str, dict[tuple[Any, ...], Row]]:
    """Rows of one measure by what was measured, and then by where: the cells of a table.

    Args:
        rows: of a benchmark.
        pattern: of their metrics; its first group is what was measured, its last the measure, those between say where.
        measure: whose rows are wanted.
    """
    found: dict[str, dict[tuple[Any, ...], Row]] = {}
    for row in rows:
        match = pattern.fullmatch(row.metric)
        if match is not None and match.groups()[-1] == measure:
            what, *place, _ = match.groups()
            found.setdefault(what, {})[tuple(int(part) if part.isdigit() else part for part in place)] = row
    return found


def table(lines: list[list[str]]) -> str:
    """Cells as a Markdown table whose first line is its head."""
    head, *body = lines
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *body))


def number(row: Row, digits: str = ".4g") -> str:
    """A row's value with its spread; a dash where it could not be measured."""
    if row.value != row.value:
        return "—"
    return f"{row.value:{digits}}" + ("" if row.spread is None else f" ± {row.spread:.2g}")


def _run(row: Row) -> str:
    return f"`{row.command}`, {row.device}, {row.date} at {row.commit}"
