"""Files of series: csv in both shapes and parquet."""

import csv
import datetime
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from hypothesis import strategies as st
from pyarrow import parquet

from domains.timeseries import reader
from tests.fuzz.damage import BYTES, HOSTILE, LINES, Draw, cells, damaged
from tests.fuzz.run import Format, any_of, readings

EMPTY = ("", "nan", "NaN", "NA", "None")  # a series may begin late and end early
SEPARATORS = (",", ";", "\t", "|", " ")
STAMPS = [datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=h) for h in range(8)]
WIDE = "date,north,south\n" + "".join(f"{s},{i + 1.5},{10 * i + 2}\n" for i, s in enumerate(STAMPS))
LONG = "unique_id,ds,y\n" + "".join(f"{name},{s},{i + 1.5}\n" for name in ("007", "b") for i, s in enumerate(STAMPS))


def series(path: Path) -> dict[str, list[tuple[int, float]]]:
    """What our reader finds: for each variable its moments and values."""
    # a reader of panels has one series of each id, with a start and an end of its own
    panels = hasattr(reader, "read_file")
    parts = reader.read_file(path, reader.Keys()).series if panels else [reader.read_series(path)]
    found: dict[str, list[tuple[int, float]]] = {}
    for part in parts:
        columns = single(part.values.T)
        found |= {name: sorted(zip(part.stamps.tolist(), column, strict=True))
                  for name, column in zip(part.columns, columns, strict=True)}  # fmt: skip
    return found


def nanoseconds(text: str) -> int:
    """Of a stamp as ISO 8601 writes it, with a blank for a zero or beside a dash too; its own offset counts.

    A number is a step.
    """
    if re.fullmatch(r"\d{1,6}", str(text)):
        return int(text)
    text = re.sub(r" ?- ?0*(?=\d\d\b)", "-", re.sub(r"\s+", " ", text.strip()))  # a month of 0001 is the first
    text = re.sub(r" ?- ?", "-", text)
    padded = re.sub(r"([ -]) *(\d)(?=[: -])", r"\g<1>0\2", text)
    moment = datetime.datetime.fromisoformat(padded)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    since = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return since // datetime.timedelta(microseconds=1) * 1000


def number(text: Any) -> float:
    """Finite, since nothing else may be taken in silence."""
    if isinstance(text, bool | bytes) or text is None or isinstance(text, str) and "_" in text:
        raise ValueError(f"no number: {text!r}")
    if not np.isfinite(float(text)):
        raise ValueError(f"not finite: {text!r}")
    return single(float(text))


def single(value: Any) -> Any:
    """As float32 has it: what readers of either width agree on."""
    with np.errstate(over="ignore"):
        return np.float32(value).tolist()


def _rows(text: str, separator: str) -> tuple[list[str], list[list[str]]]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    header, *rows = [row for row in lines if "".join(row).strip()]
    header = [name.strip() for name in header]
    named = [i for i, name in enumerate(header) if name or any(len(row) > i and row[i].strip() for row in rows)]
    if all(len(row) == len(header) for row in rows):  # a column without a name and without values is none
        header, *rows = ([row[i] for i in named] for row in (header, *rows))
    if "" in header or any(len(row) != len(header) for row in rows) or len({*header}) < len(header):
        raise ValueError("ragged, or a name missing or twice")
    return header, rows


def wide(data: bytes) -> list[Any]:
    return any_of(_wide, readings(data), SEPARATORS)


def long(data: bytes) -> list[Any]:
    return any_of(_long, readings(data), SEPARATORS)


def _wide(text: str, separator: str) -> list[Any]:
    header, rows = _rows(text, separator)
    at = header.index("date")
    stamps = [nanoseconds(row[at]) for row in rows]
    cells = {name: [(stamp, row[i]) for stamp, row in zip(stamps, rows, strict=True) if row[i].strip() not in EMPTY]
             for i, name in enumerate(header) if i != at}  # fmt: skip
    return [{name: sorted((stamp, number(cell)) for stamp, cell in column) for name, column in cells.items() if column}]


def _long(text: str, separator: str) -> list[Any]:
    header, rows = _rows(text, separator)
    if not {"unique_id", "ds", "y"} <= {*header}:
        return _wide(text, separator)
    name, stamp, value = (header.index(column) for column in ("unique_id", "ds", "y"))
    found: dict[str, list] = {}
    for row in rows:
        if row[value].strip() not in EMPTY:
            found.setdefault(row[name].strip(), []).append((nanoseconds(row[stamp]), number(row[value])))
    return [{key: sorted(column) for key, column in found.items()}]


@st.composite
def tables(draw: Draw) -> bytes:
    """A parquet file of a series whose columns may be of other kinds."""
    n = len(STAMPS)
    other = (
        pyarrow.array([str(i) for i in range(n)]),
        pyarrow.array([draw(st.sampled_from(HOSTILE)).replace("\ud800", "?") for _ in range(n)]),
        pyarrow.array([b"\xff%d" % i for i in range(n)]),
        pyarrow.array([None] * n),
        pyarrow.array([i % 2 == 0 for i in range(n)]),
        pyarrow.array([[i] for i in range(n)]),
        pyarrow.array([{"a": i} for i in range(n)]),
        pyarrow.array(range(n), pyarrow.int8()),
        pyarrow.array([2**63 + i for i in range(n)], pyarrow.uint64()),
        pyarrow.array(range(n), pyarrow.decimal128(38, 9)),
        pyarrow.array(range(n), pyarrow.duration("ns")),
        pyarrow.array(range(n), pyarrow.time64("ns")),
        pyarrow.array([datetime.date(2024, 1, 1 + i) for i in range(n)]),
        pyarrow.array(STAMPS, pyarrow.timestamp("s", tz="Europe/Berlin")),
        pyarrow.array([datetime.datetime(1, 1, 1 + i) for i in range(n)], pyarrow.timestamp("us")),
        pyarrow.array([str(i) for i in range(n)]).dictionary_encode(),
        pyarrow.array([1e300 * i for i in range(n)]),
        pyarrow.array([float("nan"), *range(1, n)]),
        pyarrow.array(STAMPS),
        pyarrow.array([float(i) for i in range(n)]),
    )
    columns = {"date": pyarrow.array(STAMPS), "north": pyarrow.array([i + 1.5 for i in range(n)]),
               "south": pyarrow.array([10.0 * i for i in range(n)])}  # fmt: skip
    for name in draw(st.lists(st.sampled_from(sorted(columns)), max_size=2)):
        columns[name] = draw(st.sampled_from(other))
    rows = draw(st.sampled_from((n, n, n, 2, 0)))
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns)[:rows], file)
    data = file.getvalue()
    return draw(damaged(data, BYTES)) if draw(st.booleans()) else data


def from_parquet(data: bytes) -> list[Any]:
    table = parquet.read_table(pyarrow.BufferReader(data)).to_pydict()

    def moment(value: Any) -> int:
        if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
            value = datetime.datetime.combine(value, datetime.time())
        if isinstance(value, float) and value.is_integer():  # as pandas writes whole numbers beside an empty cell
            value = int(value)
        return nanoseconds(value if isinstance(value, str | int) else value.isoformat())

    stamps = [moment(value) for value in table["date"]]
    cells = {name: [(s, v) for s, v in zip(stamps, column, strict=True) if v is not None and v == v]
             for name, column in table.items() if name != "date"}  # fmt: skip
    return [{name: sorted((s, number(v)) for s, v in column) for name, column in cells.items() if column}]


TABLE = (*cells(b","), *LINES, *BYTES)
FORMATS = (
    Format("series.csv", "fuzzed.csv", damaged(WIDE.encode(), TABLE), series, wide),
    Format("long.csv", "fuzzed.csv", damaged(LONG.encode(), TABLE), series, long),
    Format("series.parquet", "fuzzed.parquet", tables(), series, from_parquet),
)
