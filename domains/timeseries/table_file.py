"""A csv or parquet file, or a pandas frame, as a table."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from app.reading import reading
from domains.timeseries.csv_table import read_csv
from domains.timeseries.table import FRAME, Table, refuse_headings, tell_empty, without_unnamed

GZIP = b"\x1f\x8b"  # what such a file begins with
PARQUET = (".parquet", ".pq")
OTHERS = {b"PK\x03\x04": "an Excel file or a zip archive", b"\xd0\xcf\x11\xe0": "an Excel file"}
TEXTS = (".csv", ".tsv", ".txt")  # the separator is found out, so that all of them are read alike


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
        return _table(path, cells, sha256)
    if not path.name.lower().removesuffix(".gz").endswith(TEXTS):
        raise ValueError(f"{path}: ends in neither .csv, .csv.gz nor .parquet; export it as one of these")
    return read_csv(path, raw, sha256, names)


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
    return _table(path, cells, checksum)


def _table(path: Path, cells: pd.DataFrame, sha256: str) -> Table:
    """A frame without what holds nothing, as a csv is read."""
    said: list[str] = []
    empty = cells.isna().all(axis=1).to_numpy()
    places = np.arange(1, len(cells) + 1)[~empty]
    if empty.any():
        tell_empty(empty, said)
        cells = cells[~empty].reset_index(drop=True)
    return Table(path, without_unnamed(path, cells, said), places, sha256, said=said, unit="row")


def _flat(path: Path, cells: pd.DataFrame) -> pd.DataFrame:
    """A frame whose index is no column of its own, with headings of text and no categories."""
    if not isinstance(cells.index, pd.RangeIndex):  # pandas keeps a time index apart from the columns
        if both := [name for name in cells.index.names if name in cells]:
            raise ValueError(f"{path}: {both[0]!r} is the name of its index and of a column; rename one")
        nameless = cells.index.name is None and not isinstance(cells.index, pd.MultiIndex)
        if nameless and pd.api.types.is_float_dtype(cells.index):
            raise ValueError(
                f"{path}: its index holds numbers like {cells.index[0]} and has no name, as pandas makes of the first "
                "column where a csv has a heading too few; give every column a heading, or name the index"
            )
        numbered = nameless and pd.api.types.is_integer_dtype(cells.index)
        cells = cells.reset_index(drop=numbered)  # row numbers without a name are what filtering and joining leave
    cells.columns = [str(name) for name in cells.columns]
    refuse_headings(path, "", list(cells.columns))
    kinds = {name: cells[name].dtype for name in cells}
    cells = cells.astype({name: "str" for name in kinds if isinstance(kinds[name], pd.CategoricalDtype)})
    for name in kinds:  # bytes that are no text are found here, not where a cell is first looked at
        if pd.api.types.is_object_dtype(cells[name]):
            cells = cells.assign(**{str(name): _shown(cells[name])})
        elif pd.api.types.is_string_dtype(cells[name]):
            cells[name].to_numpy(object)
    return cells


def _shown(column: pd.Series) -> pd.Series:
    """A column whose bytes are no text, as Python shows them, b'\\xff': what needs a number or a time refuses that and
    names the cell, and ids stay apart; any other column as it is.
    """
    try:
        column.astype("str")
    except UnicodeDecodeError:
        return column.map(lambda cell: repr(cell) if isinstance(cell, bytes) else cell)
    return column
