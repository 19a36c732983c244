"""A csv as a table: how it is written is found out and told, and every cell keeps its place."""

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from app.reading import reading
from domains.timeseries.table import COMMA_NUMBER, EMPTY, Table, refuse_headings, tell_empty, without_unnamed

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
SNIFFED = 50  # lines that tell the separator
MARKS = {".": "point", ",": "comma"}
THOUSANDS = {mark: rf"[+-]?[1-9]\d{{0,2}}\{mark}\d{{3}}" for mark in MARKS}  # 10.012, or ten thousand and twelve
VALUE = r"[+-]?\d[\d.,:/ TZ+-]*"  # a number or a stamp


def read_csv(path: Path, raw: bytes, sha256: str, names: Collection[str]) -> Table:
    """The table of a csv from its bytes.

    Args:
        path: the file, for messages.
        raw: its bytes, unpacked.
        sha256: their checksum.
        names: columns that hold names or stamps, and stay the text that stands in the file.

    Raises:
        ValueError: the file is damaged, or a column has no heading or that of another one.
    """
    said: list[str] = []
    text = _decoded(path, raw, said)
    text = re.sub(r"\Asep=.?(?=\n)", "", text)  # Excel's own note, which it shows to nobody
    first = 1 + len(text) - len(text.lstrip("\n"))  # line of the headings
    with reading(path, "a csv", "export it again"):
        separator = _separator(text)
        header = next(iter(csv.reader(io.StringIO(text.lstrip("\n")), delimiter=separator)), [])
    if separator != ",":
        said.append(f"cells parted by {SEPARATORS[separator]}s")
    headings = [name.strip() for name in header]
    places, empty = _structure(path, text, separator, headings, first)
    edge = re.escape(separator)
    comma = separator != "," and bool(re.search(rf'(?:^|{edge})"?{COMMA_NUMBER}"?(?:{edge}|$)', text, re.MULTILINE))
    if comma:
        said.append("decimal commas")
    keys = [name or f"\0{i}" for i, name in enumerate(headings)]  # those without a heading are looked at below
    with reading(path, "a csv", "export it again") as at:
        cells = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            decimal="," if comma else ".",
            header=0,
            names=keys,
            index_col=False,
            dtype={name: "str" for name in keys if name in names},
            na_values={name: EMPTY if name not in names else [""] for name in keys},
            keep_default_na=False,
            low_memory=False,
            on_bad_lines="error",
        )
        if len(cells) != len(places):
            raise at.error(f"{len(cells)} records were read of {len(places)}", "save it as a plain csv")
    if empty.any():
        cells = cells[~empty].reset_index(drop=True)
        places = places[~empty]
        tell_empty(empty, said)
    cells = without_unnamed(path, cells, said, f" line {first}")
    table = Table(path, cells, places, sha256, "," if comma else ".", said)
    if comma or separator == ";":
        with reading(path, "a csv", "export it again"):
            written = pd.read_csv(io.StringIO(text), sep=separator, header=0, names=keys, index_col=False, dtype="str")
        _tell_marks(table, written[~empty].reset_index(drop=True))
    return table


def _tell_marks(table: Table, written: pd.DataFrame) -> None:
    """Where commas do not part the cells, a point or comma that three digits follow may part thousands.

    Args:
        table: its columns of broken numbers were read with its decimal mark.
        written: its cells as text.

    Raises:
        ValueError: beside them stand numbers without a mark, as only thousands leave it out.
    """
    mark = table.decimal
    marked = {}  # the columns in which every mark may part thousands
    for name in table.cells:
        text = written[name].dropna().str.strip()
        number = pd.api.types.is_float_dtype(table.cells[name])
        own = text[text.str.contains(mark, regex=False) if number else text.str.fullmatch(COMMA_NUMBER)]
        if not own.str.fullmatch(THOUSANDS[mark]).all():
            return  # 12.5 parts no thousands, and so no mark of the file does
        if number and len(own):
            marked[name] = text
    for name, text in marked.items():
        parted = text.str.contains(mark, regex=False)
        first = text[parted].iloc[0]
        if not parted.all():
            raise ValueError(
                f"{table.path} {table.place(int(parted.idxmax()))}: column {name!r} holds {first} beside "
                f"{text[~parted].iloc[0]}, so its {MARKS[mark]}s may part thousands; write "
                f"{first.replace(mark, '')}, or {first}0 if it is a decimal {MARKS[mark]}"
            )
        least = int(float(first.replace(mark, "."))) + 1
        table.said.append(f"{name!r} read with decimal {MARKS[mark]}s: {first} is less than {least}")


def _decoded(path: Path, raw: bytes, said: list[str]) -> str:
    """The text of a csv; what is no UTF-8 is told."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        said.append("encoding UTF-16")
        with reading(path, "a csv in UTF-16", "save it as UTF-8"):
            text = raw.decode("utf-16")
    else:
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as err:
            line = raw.count(b"\n", 0, err.start) + 1
            try:
                text = raw.decode("cp1252")
            except UnicodeDecodeError:
                raise ValueError(f"{path} line {line}: neither UTF-8 nor Latin-1; save the file as UTF-8") from err
            said.append(f"encoding Latin-1 (cp1252), as line {line} is no UTF-8")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path} line {line}: a NUL byte, so this is no csv; export it again as UTF-8")
    return text


def _separator(text: str) -> str:
    """The separator that cuts the first lines into the most cells of equal number; a comma where nothing does."""
    lines = [line for line in text[:200_000].splitlines()[:SNIFFED] if line.strip()]
    best = (0.0, 0, ",")
    for separator in SEPARATORS:
        counts = [len(row) for row in csv.reader(lines, delimiter=separator) if row]
        if not counts or counts[0] < 2:
            continue
        alike = Counter(counts)[counts[0]] / len(counts)
        best = max(best, (alike, counts[0], separator), key=lambda found: found[:2])
    return best[2]


def _structure(path: Path, text: str, separator: str, headings: list[str], first: int) -> tuple[np.ndarray, np.ndarray]:
    """The line that each record begins at [R], and which records hold nothing [R]; the headings stand in line `first`.

    Raises:
        ValueError: a record has more or fewer cells than the headings.
    """
    if not any(headings):
        raise ValueError(f"{path} line {first}: not a readable csv, it has no headings; export it again")
    refuse_headings(path, f" line {first}", headings)
    if all(re.fullmatch(VALUE, name) for name in headings):
        raise ValueError(
            f"{path} line {first}: {', '.join(map(repr, headings[:3]))} are values, no headings; write a line of "
            "headings above them, such as date,load"
        )
    places = []
    empty = []
    for line, cells, nothing in _records(path, text, separator):
        if cells != len(headings):
            raise ValueError(
                f"{path} line {line}: not a readable csv, this line has {cells} cell{'s' * (cells > 1)} and line "
                f"{first} {len(headings)} heading{'s' * (len(headings) > 1)}; give every column a heading and every "
                "line its cells, and remove lines that belong to no table"
            )
        places.append(line)
        empty.append(nothing)
    return np.array(places[1:], np.int64), np.array(empty[1:], bool)


def _records(path: Path, text: str, separator: str) -> Iterator[tuple[int, int, bool]]:
    """Of each record that is no blank line: its first line, how many cells it has, and whether all are empty."""
    blank = separator + " \t"
    if '"' not in text:  # several times as fast
        for line, record in enumerate(text.split("\n"), 1):
            if record.strip():
                yield line, record.count(separator) + 1, not record.strip(blank)
        return
    rows = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    line = 1
    try:
        for row in rows:
            if len(row) > 1 or "".join(row).strip():
                yield line, len(row), not "".join(row).strip()
            line = rows.line_num + 1
    except csv.Error as err:
        raise ValueError(f"{path} line {line}: not a readable csv ({err}); close every quote") from err
