"""A csv or parquet file as a table: how it is written is found out and told, and every cell keeps its place."""

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from app.reading import reading

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
SNIFFED = 50  # lines that tell the separator
# what pandas takes for an empty cell in a column of numbers; in names nothing but an empty cell is empty
EMPTY = ["", "#N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]
FRAME = "DataFrame"  # stands for a pandas frame where a file would have its name
LARGEST = 1e100  # whose square is still a number
GZIP = b"\x1f\x8b"  # what such a file begins with
PARQUET = (".parquet", ".pq")
OTHERS = {b"PK\x03\x04": "an Excel file or a zip archive", b"\xd0\xcf\x11\xe0": "an Excel file"}
TEXTS = (".csv", ".tsv", ".txt")  # the separator is found out, so that all of them are read alike
SPACE = "[ \u00a0\u202f'\u2019]"  # parts thousands, and nothing else: 10 012,57
COMMA_NUMBER = rf"[+-]?(?:\d{{1,3}}(?:(?:\.|{SPACE})\d{{3}})+|\d+),\d+"
POINTED_NUMBER = r"[+-]?[1-9]\d{0,2}(?:\.\d{3})+"
SPACED_NUMBER = rf"[+-]?\d{{1,3}}(?:{SPACE}\d{{3}})+(?:[.,]\d+)?"
MARKS = {".": "point", ",": "comma"}
THOUSANDS = {mark: rf"[+-]?[1-9]\d{{0,2}}\{mark}\d{{3}}" for mark in MARKS}  # 10.012, or ten thousand and twelve
VALUE = r"[+-]?\d[\d.,:/ TZ+-]*"  # a number or a stamp
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:inf|infinity|nan)"


@dataclass
class Table:
    """What stands in a file, before anything is made of it.

    Args:
        path: the file.
        cells: one row per record; columns of numbers where the file holds numbers only, else of text.
        places: int64 [R], line of the file (row of a parquet file) that each record begins at.
        sha256: checksum of the decompressed file.
        decimal: what a number is written with.
        said: how the file is written, where that is not the usual way, in words.
        unit: what `places` count.
    """

    path: Path
    cells: pd.DataFrame
    places: np.ndarray
    sha256: str
    decimal: str = "."
    said: list[str] = field(default_factory=list)
    unit: Literal["line", "row"] = "line"

    def place(self, row: int) -> str:
        """Where a record stands in the file."""
        return f"{self.unit} {self.places[row]}"

    def numbers(self, name: str, key: str = "targets") -> np.ndarray:
        """A column, which stands in a `key` of the data, as float64 [R]; what is missing is NaN.

        Raises:
            ValueError: a cell is no number, or too large or small a one; names it.
        """
        values = self._numbers(name, key)
        sizes = np.abs(np.where(np.isfinite(values), values, 0.0))
        row = int(sizes.argmax()) if len(sizes) else 0
        size = sizes[row] if len(sizes) else 0.0
        if size > LARGEST or 0 < size < 1 / LARGEST:
            much = "large" if size > LARGEST else "small"
            raise ValueError(
                f"{self.path} {self.place(row)}: column {name!r} holds {values[row]:g}, which is too {much} to compute "
                "with; mend the cell, or write the column in another unit"
            )
        return values

    def _numbers(self, name: str, key: str) -> np.ndarray:
        column = self.cells[name]
        types = pd.api.types
        if types.is_numeric_dtype(column) and not (types.is_bool_dtype(column) or types.is_complex_dtype(column)):
            return column.to_numpy(np.float64, na_value=np.nan)
        if types.is_object_dtype(column):  # decimals of a database, None beside numbers, integers beyond 64 bits
            column = column.astype("str")
        if types.is_bool_dtype(column) or not types.is_string_dtype(column):
            kind = "true or false" if types.is_bool_dtype(column) else f"of kind {column.dtype}"
            raise ValueError(
                f"{self.path} {self.place(0)}: column {name!r} is not numeric, it is {kind}; turn it into numbers, or "
                f"leave it out of data.{key}"
            )
        text = column.str.strip()
        spaced = text.str.fullmatch(SPACED_NUMBER).fillna(False).astype(bool)
        text = text.where(~spaced, text.str.replace(SPACE, "", regex=True))
        empty = text.isna() | text.isin(EMPTY)
        wrong = ~(empty | text.str.fullmatch(NUMBER, flags=re.IGNORECASE).fillna(False).astype(bool))
        if self.decimal == ",":
            grouped = text.str.fullmatch(rf"{COMMA_NUMBER}|{POINTED_NUMBER}").fillna(False).astype(bool)
            plain = text.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
            text = text.where(~grouped, plain)
            # 1.250 is no decimal here, and so 1.25 beside it may be none either
            wrong = ~grouped & (wrong | (text.str.contains(".", regex=False) & ~empty & bool(grouped.any())))
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            few = wrong.mean() < 0.5  # slips in a column of numbers, or units under its heading
            left = f"leave it out of data.{key}" + (", or name it in data.id_col" if key == "targets" else "")
            raise ValueError(
                f"{self.path} {self.place(row)}: column {name!r} is not numeric ({column.iloc[row]!r}); "
                f"{_cure(str(column.iloc[row]), self.decimal)}{'or leave the cell empty' if few else left}"
            )
        return text.where(~empty).astype(np.float64).to_numpy()


def _cure(cell: str, decimal: str) -> str:
    if decimal == "." and re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", cell):
        return f"write {cell.replace(',', '')} without commas, "
    if decimal == "." and re.fullmatch(COMMA_NUMBER, cell):
        return "write a decimal point, or part the cells by semicolons, "
    if decimal == "," and re.fullmatch(r"[+-]?\d*\.\d+", cell):
        return "write a decimal comma, as in other rows, "
    return "turn it into numbers, "


def decompressed(path: Path) -> bytes:
    """The bytes of a file, unpacked where it is packed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is truncated or damaged.
    """
    if path.is_dir():
        raise FileNotFoundError(f"{path}: this is a folder; name one file in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path or run `python -m data_prep timeseries`")
    raw = path.read_bytes()
    if not raw.startswith(GZIP):  # its name may say otherwise
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as err:
        raise ValueError(f"{path}: truncated or damaged gzip file ({err}); download it again") from err


def read_table(path: Path, names: Collection[str]) -> Table:
    """Read a csv (also .tsv, .txt, packed or not) or parquet file.

    Args:
        path: the file.
        names: columns that hold names or stamps, and stay the text that stands in the file: 007, NA, 1e5, 1.10.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or a column has no heading or that of another one.
    """
    raw = decompressed(path)
    sha256 = hashlib.sha256(raw).hexdigest()
    for start, what in OTHERS.items():
        if raw.startswith(start):
            raise ValueError(f"{path}: is {what}; export it as csv")
    if path.suffix.lower() in PARQUET or raw.startswith(b"PAR1"):  # its name may say otherwise
        with reading(path, "a parquet file", "export it again") as at:
            try:
                cells = pd.read_parquet(io.BytesIO(raw))
            except ImportError as err:
                raise at.error("reading parquet needs pyarrow", "pip install pyarrow, or export a csv") from err
            cells = _flat(path, cells)
        return Table(path, cells, np.arange(1, len(cells) + 1), sha256, unit="row")
    if not path.name.lower().removesuffix(".gz").endswith(TEXTS):
        raise ValueError(f"{path}: ends in neither .csv, .csv.gz nor .parquet; export it as one of these")
    return _read_csv(path, raw, sha256, names)


def frame_table(frame: pd.DataFrame, time_col: str) -> Table:
    """A pandas frame as a table; an index that is no plain count becomes columns.

    Args:
        frame: wide or long.
        time_col: what an index of times without a name is called.

    Raises:
        ValueError: it has no rows, or a heading twice.
    """
    path = Path(FRAME)
    cells = frame.copy()
    times = isinstance(cells.index, pd.DatetimeIndex | pd.PeriodIndex)
    if times and cells.index.name is None:
        cells.index.name = time_col
    cells = _flat(path, cells)
    periods = [name for name in cells if isinstance(cells[name].dtype, pd.PeriodDtype)]
    cells = cells.assign(**{name: cells[name].dt.to_timestamp() for name in periods})
    objects = {name: "str" for name in cells if pd.api.types.is_object_dtype(cells[name])}  # lists have no hash
    hashes = pd.util.hash_pandas_object(cells.astype(objects), index=False)
    checksum = hashlib.sha256(hashes.to_numpy().tobytes()).hexdigest()
    return Table(path, cells, np.arange(1, len(cells) + 1), checksum, unit="row")


def _flat(path: Path, cells: pd.DataFrame) -> pd.DataFrame:
    """A frame whose index is no column of its own, with headings of text and no categories."""
    if not isinstance(cells.index, pd.RangeIndex):  # pandas keeps a time index apart from the columns
        if both := [name for name in cells.index.names if name in cells]:
            raise ValueError(f"{path}: {both[0]!r} is the name of its index and of a column; rename one")
        numbered = cells.index.name is None and pd.api.types.is_integer_dtype(cells.index)
        cells = cells.reset_index(drop=numbered)  # row numbers without a name are what filtering and joining leave
    cells.columns = [str(name) for name in cells.columns]
    _refuse_headings(path, "", list(cells.columns))
    kinds = {name: cells[name].dtype for name in cells}
    cells = cells.astype({name: "str" for name in kinds if isinstance(kinds[name], pd.CategoricalDtype)})
    for name in kinds:  # bytes that are no text are found here, not where a cell is first looked at
        if pd.api.types.is_string_dtype(cells[name]):
            cells[name].to_numpy(object)
    return cells


def _read_csv(path: Path, raw: bytes, sha256: str, names: Collection[str]) -> Table:
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
        said.append(f"{int(empty.sum())} empty row{'s' if empty.sum() > 1 else ''} left out")
    cells = _without_unnamed(path, cells, said, first)
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
    _refuse_headings(path, f" line {first}", headings)
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


def _refuse_headings(path: Path, place: str, headings: list[str]) -> None:
    twice = [name for name, count in Counter(headings).items() if name and count > 1]
    if twice:
        columns = [i + 1 for i, name in enumerate(headings) if name == twice[0]]
        raise ValueError(
            f"{path}{place}: heading {twice[0]!r} stands over columns {' and '.join(map(str, columns))}; rename one"
        )


def _without_unnamed(path: Path, cells: pd.DataFrame, said: list[str], first: int) -> pd.DataFrame:
    """Leave out columns without a heading in line `first`: empty ones, and row names that count the rows.

    Raises:
        ValueError: one holds anything else.
    """
    left = []
    for i, name in enumerate(cells):
        if not name.startswith("\0") and name != "Unnamed: 0":
            continue
        column = cells[name]
        counts = pd.api.types.is_integer_dtype(column) and (column.diff().iloc[1:] == 1).all()
        if column.isna().all():
            said.append(f"column {i + 1} without heading or cells left out")
        elif i == 0 and counts and column.iloc[0] in (0, 1):
            said.append("the first column, which numbers the rows, left out")
        elif name == "Unnamed: 0":
            continue
        else:
            raise ValueError(f"{path} line {first}: column {i + 1} has no heading; give it one, or remove it")
        left.append(name)
    return cells.drop(columns=left)
