"""One multivariate series: read from a csv and checked, or generated."""

import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Series:
    """V variables at T regular moments.

    Args:
        values: float32 [T, V], in the file's own units.
        columns: V names.
        stamps: int64 [T], nanoseconds since 1970; UTC where the file gives UTC offsets, else its own clock.
        freq: pandas frequency between stamps, e.g. `h` or `15min`.
        sha256: checksum of the decompressed csv; empty for generated data.
    """

    values: np.ndarray
    columns: list[str]
    stamps: np.ndarray
    freq: str
    sha256: str = ""


def read_series(path: Path, time_col: str = "date", sha256: str | None = None, regular: bool = True) -> Series:
    """Read a csv or csv.gz with one time column; every other column is a variable.

    Args:
        path: the file.
        time_col: name of the time column.
        sha256: expected checksum of the decompressed csv; None checks nothing.
        regular: False accepts gaps and repeated stamps and takes the commonest step as the frequency.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is cut, altered or not a clean table; the message names the line and the cure.
    """
    raw = _decompressed(path)
    found = hashlib.sha256(raw).hexdigest()
    if sha256 is not None and found != sha256:
        raise ValueError(f"{path}: sha256 of the csv is {found}, expected {sha256}; delete it and download it again")
    try:
        table = pd.read_csv(io.BytesIO(raw), encoding_errors="replace", low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as err:
        raise ValueError(f"{path}: not a readable csv ({' '.join(str(err).split())}); export it again") from err
    if time_col not in table:
        raise ValueError(f"{path}: no column {time_col!r} among {list(table)}; set data.time_col to the time column")
    stamps, freq = _checked_stamps(path, table.pop(time_col), regular)
    return Series(_checked_values(path, table), list(table), stamps, freq, found)


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


def _line(row: int) -> str:
    return f"line {row + 2}"  # rows count from 0 and the header is line 1


def _checked_values(path: Path, table: pd.DataFrame) -> np.ndarray:
    """Float32 [T, V] of finite numbers."""
    if table.shape[1] == 0:
        raise ValueError(f"{path}: there is no value column beside the time column; add at least one")
    for name in table:
        column = table[name]
        if not pd.api.types.is_numeric_dtype(column):
            text = pd.to_numeric(column, errors="coerce").isna() & column.notna()
            row = int(text.to_numpy().argmax())
            raise ValueError(
                f"{path} {_line(row)}: column {name!r} is not numeric ({column.iloc[row]!r}); "
                "drop it or turn it into numbers"
            )
    values = table.to_numpy(np.float32)
    holes = np.argwhere(~np.isfinite(values))
    if len(holes):
        row, column = holes[0]
        raise ValueError(
            f"{path} {_line(row)}: column {list(table)[column]!r} has no finite value "
            f"(NaN or inf, {len(holes)} such cells); fill or drop them first"
        )
    return values


def _checked_stamps(path: Path, column: pd.Series, regular: bool) -> tuple[np.ndarray, str]:
    """Nanoseconds [T] and their frequency."""
    if pd.api.types.is_numeric_dtype(column):  # pandas would take it for nanoseconds since 1970
        raise ValueError(
            f"{path} {_line(0)}: {column.iloc[0]} is a number, not a time stamp; write it as 2024-01-31 23:00:00"
        )
    parsed = pd.to_datetime(column, utc=True, errors="coerce")
    if parsed.isna().any():
        row = int(parsed.isna().to_numpy().argmax())
        raise ValueError(f"{path} {_line(row)}: {column.iloc[row]!r} is no time stamp; write it as 2024-01-31 23:00:00")
    index = pd.DatetimeIndex(parsed).tz_localize(None).as_unit("ns")
    if len(index) < 3:
        raise ValueError(f"{path}: {len(index)} rows are too few for a series; the file may be truncated")
    steps = np.diff(index.asi8)
    usual = pd.Timedelta(int(pd.Series(steps).mode()[0]))
    if not regular:
        return index.asi8, pd.tseries.frequencies.to_offset(usual).freqstr
    for bad, what, cure in (
        (steps == 0, "duplicate stamp", "keep one row per stamp (local time repeats an hour each autumn: use UTC)"),
        (steps < 0, "unsorted stamp", "sort the rows by time"),
    ):
        if bad.any():
            row = int(bad.argmax()) + 1
            raise ValueError(f"{path} {_line(row)}: {what} {index[row]}; {cure}")
    with pd.option_context("future.infer_freq_returns_offset", False):
        freq = pd.infer_freq(index)  # knows calendar steps (months, business days), whose length in hours varies
    if freq is None:
        row = int((steps != usual.value).argmax()) + 1
        raise ValueError(
            f"{path} {_line(row)}: gap in time, {index[row - 1]} is followed by {index[row]} "
            f"where the usual step is {usual}; fill the missing rows (local time skips an hour each spring: use UTC)"
        )
    return index.asi8, freq


def sample_series(variables: int = 7, rows: int = 14400, seed: int = 0) -> Series:
    """A generated hourly series with daily and weekly seasons, a slow drift and noise; the same for the same seed."""
    random = np.random.default_rng(seed)
    hours = np.arange(rows)[:, None]

    def season(period: int, harmonics: int) -> np.ndarray:
        """[rows, variables]: a periodic curve of its own for each variable."""
        order = np.arange(1, harmonics + 1)[:, None]
        height, phase = random.normal(size=(2, harmonics, variables)) / order
        return (height * np.sin(2 * np.pi * order * hours[:, None] / period + np.pi * phase)).sum(1)

    drift = random.normal(size=(rows, variables)).cumsum(0) / np.sqrt(rows)
    noise = random.normal(size=(rows, variables))
    values = 10 + 2 * season(24, 3) + season(168, 2) + drift + 0.5 * noise
    stamps = pd.date_range("2020-01-01", periods=rows, freq="h", unit="ns").asi8
    return Series(values.astype(np.float32), [f"series_{i}" for i in range(variables)], stamps, "h")
