"""Rows of measured numbers: JSON to keep, Markdown to read."""

import json
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from statistics import stdev

from app.versions import git_commit

RESULTS = Path(__file__).parent / "results"


@dataclass
class Row:
    """One measured number.

    Args:
        metric: what was measured, on what.
        value: the number, a mean where there are several seeds, of times the median of repeats.
        spread: its standard deviation over seeds or repeats; None for a single one.
        unit: of `value`; empty for a pure number.
        must: bound that the project may not miss, such as `<= 0.390` or `>= 60`; empty where there is none.
        aim: bound that it would like to reach, written likewise.
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


def spread(values: list[float]) -> float | None:
    """Standard deviation of repeated measurements; None for a single one."""
    return stdev(values) if len(values) > 1 else None


def write(name: str, rows: list[Row], folder: Path = RESULTS, text: str | None = None) -> None:
    """Write `rows` to NAME.json and, as `text` or else a table, to NAME.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    (folder / f"{name}.md").write_text(markdown(rows) if text is None else text)


def read(path: Path) -> list[Row]:
    """The rows of one results file."""
    return [Row(**row) for row in json.loads(path.read_text())]


def markdown(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    names = [field.name for field in fields(Row)]
    lines = [names, ["---"] * len(names), *([_cell(getattr(row, name)) for name in names] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
