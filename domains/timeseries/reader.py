"""A file becomes a series: csv or parquet, one column per variable or one row per variable and moment."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from domains.timeseries.clock import Defects, Policy, grid_of, usual_frequency
from domains.timeseries.series import Series

NIXTLA = ("unique_id", "ds", "y")  # columns by which a long file is recognised without any key


@dataclass(frozen=True)
class Cells:
    """What a file says, moment by moment, before its clock is checked.

    Args:
        stamps: int64 [R], nanoseconds.
        values: float32 [R, C], variables first, then past covariates, then future covariates.
        names: of the C columns.
        cell: where a cell stands in the file, from its row and column here.
        row: where a row stands in the file.
    """

    stamps: np.ndarray
    values: np.ndarray
    names: list[str]
    cell: Callable[[int, int], str]
    row: Callable[[int], str]


def read_series(
    path: Path,
    time_col: str = "date",
    targets: Sequence[str] | None = None,
    id_col: str | None = None,
    past_covariates: Sequence[str] = (),
    future_covariates: Sequence[str] = (),
    freq: str | None = None,
    sentinel: float | None = None,
    defects: Policy = "refuse",
    regular: bool = True,
) -> Series:
    """Read a csv, csv.gz or parquet file.

    A wide file has one row per moment and one column per variable. A long one has one row per variable and moment; it
    is known by `id_col`, or by columns named `unique_id`, `ds` and `y`. Covariates belong to all variables alike.

    Args:
        path: the file.
        time_col: name of the time column.
        targets: columns to forecast; None takes every column that is no covariate (`y` of a long file).
        id_col: column that names the variable, in a long file.
        past_covariates: columns known up to the moment of a forecast.
        future_covariates: columns known beforehand; rows at the end that hold nothing else are the future.
        freq: pandas frequency of the rows; None infers it.
        sentinel: number that stands for an empty cell, such as -9999.
        defects: what to do about gaps, cells without a finite value, repeated and unsorted stamps: `refuse` names them
            in an error. `fill` and `mask` sort the rows, keep the last of repeated ones and carry the last value
            forward (the first one backward before it); `mask` also keeps such cells out of every loss and metric.
        regular: False takes rows and stamps as they are, and the commonest step for the frequency.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or not what the arguments say; the message names the place and the cure.
    """
    table, sha256, place = _read_table(path)
    if id_col is None and time_col not in table and set(NIXTLA) <= set(table):
        id_col, time_col, targets = "unique_id", "ds", targets or ["y"]
    if id_col is not None and targets is None and "y" in table:
        targets = ["y"]
    keys = {
        "time_col": [time_col],
        "id_col": [id_col] if id_col else [],
        "targets": targets or [],
        "past_covariates": past_covariates,
        "future_covariates": future_covariates,
    }
    _check_columns(path, table, keys)
    if len(table) < 3:
        raise ValueError(f"{path}: {len(table)} rows are too few for a series; the file may be truncated")
    stamps = _stamps(path, table[time_col], place)
    covariates = [*past_covariates, *future_covariates]
    if targets is None:
        targets = [name for name in table if name not in (time_col, id_col, *covariates)]
    if not targets or (id_col and len(targets) > 1):
        wanted = "exactly one value column, data.targets: [y]" if id_col else "a value column beside the time column"
        raise ValueError(f"{path}: needs {wanted}; its columns are {_names(table)}")
    found = Defects(path)
    if id_col is None:
        values = np.stack([_numbers(path, table[name], place) for name in (*targets, *covariates)], axis=1)
        names = [str(name) for name in (*targets, *covariates)]
        cells = Cells(stamps, values, names, lambda r, c: f"{place(r)} {names[c]!r}", place)
        if regular:
            found.order(stamps, place)
            cells = _sorted(cells)
    else:
        cells = _pivot(path, table, stamps, targets[0], id_col, covariates, place, found)
    if sentinel is not None:
        cells.values[cells.values == np.float32(sentinel)] = np.nan
    return _regular(cells, len(past_covariates), len(future_covariates), freq, defects, regular, found, sha256)


def read_bare(path: Path, start: str, freq: str) -> Series:
    """Read a csv, csv.gz or txt.gz of nothing but numbers, one row per moment and one column per variable.

    Args:
        path: the file.
        start: stamp of its first row, which it does not say itself.
        freq: pandas frequency of its rows.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged or holds anything but finite numbers.
    """
    raw = _decompressed(path)
    table = _parsed(path, lambda: pd.read_csv(io.BytesIO(raw), header=None, low_memory=False)).rename(columns=str)

    def line(row: int) -> str:
        return f"line {row + 1}"

    values = np.stack([_numbers(path, table[name], line) for name in table], axis=1)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"{path} {line(row)}: column '{column}' has no finite value; download the file again")
    stamps = pd.date_range(start, periods=len(values), freq=freq, unit="ns").asi8
    return Series(values, list(table), stamps, freq, hashlib.sha256(raw).hexdigest())


def _read_table(path: Path) -> tuple[pd.DataFrame, str, Callable[[int], str]]:
    """Table, checksum of the decompressed file, and what a row of it is called in the file."""
    raw = _decompressed(path)
    if path.suffix in (".parquet", ".pq"):
        try:
            table = _parsed(path, lambda: pd.read_parquet(io.BytesIO(raw)))
        except ImportError as err:
            raise ValueError(f"{path}: reading parquet needs pyarrow; pip install pyarrow, or export a csv") from err
        if not isinstance(table.index, pd.RangeIndex):  # pandas keeps a time index apart from the columns
            table = table.reset_index()
        return table, hashlib.sha256(raw).hexdigest(), lambda row: f"row {row + 1}"
    if path.name.removesuffix(".gz").endswith(".csv"):
        table = _parsed(path, lambda: pd.read_csv(io.BytesIO(raw), encoding_errors="replace", low_memory=False))
        return table, hashlib.sha256(raw).hexdigest(), lambda row: f"line {row + 2}"  # the header is line 1
    raise ValueError(f"{path}: ends in neither .csv, .csv.gz nor .parquet; export it as one of these")


def _parsed(path: Path, parse: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    try:
        return parse()
    except (ValueError, OSError) as err:  # pandas' and pyarrow's own errors are ValueErrors too
        kind = "parquet file" if path.suffix in (".parquet", ".pq") else "csv"
        raise ValueError(f"{path}: not a readable {kind} ({' '.join(str(err).split())}); export it again") from err


def _decompressed(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path or run `python -m data_prep timeseries`")
    raw = path.read_bytes()
    if path.suffix != ".gz":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as err:
        raise ValueError(f"{path}: truncated or damaged gzip file ({err}); download it again") from err


def _names(table: pd.DataFrame) -> str:
    """Its columns in an error message, not all of 862."""
    names = [str(name) for name in table]
    return f"{names[:12]}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _check_columns(path: Path, table: pd.DataFrame, keys: dict[str, Sequence[str]]) -> None:
    taken: dict[str, str] = {}
    for key, names in keys.items():
        for name in names:
            if name not in table:
                what = "the time column" if key == "time_col" else "columns it has"
                raise ValueError(f"{path}: no column {name!r} among {_names(table)}; set data.{key} to {what}")
            if name in taken:
                raise ValueError(
                    f"{path}: column {name!r} stands in data.{taken[name]} and in data.{key}; drop one of them"
                )
            taken[name] = key


def _numbers(path: Path, column: pd.Series, place: Callable[[int], str]) -> np.ndarray:
    """Float32 [R]; what is missing is NaN."""
    if not pd.api.types.is_numeric_dtype(column):
        text = pd.to_numeric(column, errors="coerce").isna() & column.notna()
        if text.any():
            row = int(text.to_numpy().argmax())
            raise ValueError(
                f"{path} {place(row)}: column {column.name!r} is not numeric ({column.iloc[row]!r}); "
                "turn it into numbers, leave it out of data.targets, or name it in data.id_col"
            )
        column = pd.to_numeric(column, errors="coerce")
    return column.to_numpy(np.float32, na_value=np.nan)


def _stamps(path: Path, column: pd.Series, place: Callable[[int], str]) -> np.ndarray:
    """Nanoseconds int64 [R]."""
    if len(column) and pd.api.types.is_numeric_dtype(column):  # pandas would take it for nanoseconds since 1970
        raise ValueError(
            f"{path} {place(0)}: {column.iloc[0]} is a number, not a time stamp; write it as 2024-01-31 23:00:00"
        )
    parsed = pd.to_datetime(column, utc=True, errors="coerce")
    if parsed.isna().any():
        row = int(parsed.isna().to_numpy().argmax())
        raise ValueError(f"{path} {place(row)}: {column.iloc[row]!r} is no time stamp; write it as 2024-01-31 23:00:00")
    return pd.DatetimeIndex(parsed).tz_localize(None).as_unit("ns").asi8


def _sorted(cells: Cells) -> Cells:
    """Rows in the order of time; of those with the same stamp, the last."""
    order = np.argsort(cells.stamps, kind="stable")
    last = np.append(np.diff(cells.stamps[order]) != 0, True)
    kept = order[last]
    return Cells(
        cells.stamps[kept],
        cells.values[kept],
        cells.names,
        lambda r, c: cells.cell(kept[r], c),
        lambda r: cells.row(kept[r]),
    )


def _pivot(
    path: Path,
    table: pd.DataFrame,
    stamps: np.ndarray,
    target: str,
    id_col: str,
    covariates: list[str],
    place: Callable[[int], str],
    found: Defects,
) -> Cells:
    """One row per moment that any variable knows, in order; what a variable does not know there is NaN."""
    if table[id_col].isna().any():
        row = int(table[id_col].isna().to_numpy().argmax())
        raise ValueError(f"{path} {place(row)}: column {id_col!r} is empty; name the series of this row")
    codes, names = pd.factorize(table[id_col].astype(str))
    columns = [str(name) for name in names]
    moments, at = np.unique(stamps, return_inverse=True)
    by_series = np.argsort(codes, kind="stable")  # the file's order within each series
    found.order(stamps[by_series], lambda r: place(by_series[r]), codes[by_series], columns)
    values = np.full((len(moments), len(columns) + len(covariates)), np.nan, np.float32)
    values[at, codes] = _numbers(path, table[target], place)  # of repeated rows the last stays
    for c, name in enumerate(covariates, start=len(columns)):
        numbers = _numbers(path, table[name], place)
        said = np.isfinite(numbers)
        values[at[said], c] = numbers[said]
        other = said & (values[at, c] != numbers)
        if other.any():
            row = int(other.argmax())
            raise ValueError(
                f"{path} {place(row)}: covariate {name!r} is {numbers[row]:g} for one series and {values[at[row], c]:g}"
                f" for another at {pd.Timestamp(stamps[row])}; covariates belong to all series alike: give each series"
                " a column of its own"
            )
    names = [*columns, *covariates]

    def moment(row: int) -> str:
        return str(pd.Timestamp(moments[row]))

    return Cells(moments, values, names, lambda r, c: f"{names[c]!r} at {moment(r)}", lambda r: f"at {moment(r)}")


def _regular(
    cells: Cells, past: int, future: int, freq: str | None, defects: Policy, regular: bool, found: Defects, sha256: str
) -> Series:
    """The cells on a clock without gaps, or an error that names every defect."""
    path, stamps, values, variables = found.path, cells.stamps, cells.values, len(cells.names) - past - future
    columns = cells.names[:variables]
    finite = np.isfinite(values)
    if not finite.any(0).all():
        empty = [name for name, holds in zip(cells.names, finite.any(0), strict=True) if not holds]
        raise ValueError(f"{path}: columns {empty} have no finite value at all; leave them out")
    known = len(stamps)  # rows that are not the future
    if future:
        known = int(np.flatnonzero(finite[:, : variables + past].any(1))[-1]) + 1
    holes = ~finite
    holes[known:, : variables + past] = False
    found.holes(holes, cells.cell)
    if not regular:
        found.refuse()
        return Series(values, columns, stamps, usual_frequency(stamps), sha256)
    if len(stamps) < 3:
        if defects == "refuse":
            found.refuse()
        raise ValueError(f"{path}: {len(stamps)} moments are too few for a series; set data.time_col or data.id_col")
    freq, grid, at = grid_of(path, stamps, freq, cells.row)
    found.gaps(grid, at, cells.row)
    if defects == "refuse":
        found.refuse()
    whole = np.full((len(grid), values.shape[1]), np.nan, np.float32)
    whole[at] = np.where(finite, values, np.nan)
    end = int(at[known - 1]) + 1
    missing = np.isnan(whole[:end, :variables])
    whole = _carried(whole)
    return Series(
        np.array(whole[:end, :variables]),
        columns,
        grid[:end],
        freq,
        sha256,
        missing=missing if defects == "mask" and missing.any() else None,
        past=np.array(whole[:end, variables : variables + past]) if past else None,
        future=np.array(whole[:, variables + past :]) if future else None,
        repairs=found.report(),
    )


def _carried(values: np.ndarray) -> np.ndarray:
    """`values` [T, C] with each NaN replaced by the last number before it, or else the first one after it."""
    return pd.DataFrame(values).ffill().bfill().to_numpy(np.float32, copy=True)
