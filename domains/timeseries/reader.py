"""A file becomes series: csv or parquet, one column per variable or one row per variable and moment."""

import hashlib
import io
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from app.reading import reading
from domains.timeseries.clock import (
    Defects,
    Policy,
    common_frequency,
    grid_of,
    infer_frequency,
    say,
    snapped,
    usual_frequency,
)
from domains.timeseries.columns import (
    NIXTLA,
    Keys,
    check_columns,
    ids_of,
    stamps_of,
    static_of,
    targets_of,
    tell_unread,
)
from domains.timeseries.series import Series
from domains.timeseries.table import Table
from domains.timeseries.table_file import decompressed, read_table


@dataclass
class Content:
    """What a file holds.

    Args:
        series: one of all its variables, or each of a panel.
        panel: whether each series stands alone, with a start and an end of its own.
        future_names: what the columns of `Series.future` are.
        said: what was found out about the file and what was left out, in words.
    """

    series: list[Series]
    panel: bool
    future_names: list[str]
    said: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Cells:
    """The rows of one series as they stand in the file.

    Args:
        names: of the columns.
        stamps: int64 [R].
        values: float64 [R, C]: variables, past covariates, future covariates.
        rows: int64 [R], of the table.
    """

    names: list[str]
    stamps: np.ndarray
    values: np.ndarray
    rows: np.ndarray


def read_series(path: Path, keys: Keys = Keys(), regular: bool = True) -> Series:
    """The one series of a file with one row per moment, see `read_file`.

    Raises:
        ValueError: the file is a panel.
    """
    content = read_file(path, keys, regular)
    if content.panel:
        raise ValueError(f"{path}: holds {len(content.series)} series of their own; read it with `read_file`")
    return content.series[0]


def read_file(path: Path, keys: Keys, regular: bool = True) -> Content:
    """Read a csv, csv.gz or parquet file.

    A wide file has one row per moment and one column per variable. A long one has one row per variable and moment; it
    is known by `id_col`, or by columns named `unique_id`, `ds` and `y`. A long file is a panel, and so is a wide one
    whose variables do not begin and end together.

    Args:
        path: the file.
        keys: what its columns are.
        regular: False takes rows and stamps as they are, and the commonest step for the frequency.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or not what the keys say; the message names the place and the cure.
    """
    known = [*NIXTLA[:2], *keys.times, *([keys.id_col] if keys.id_col else []), *keys.static_covariates]
    return content_of(read_table(path, known), keys, regular)


def content_of(table: Table, keys: Keys, regular: bool = True) -> Content:
    """What a table holds; see `read_file`."""
    path = table.path
    cells = table.cells
    named = set(keys.times) & set(cells)
    if keys.id_col is None and named <= {"ds"} and set(NIXTLA) <= set(cells):
        keys = replace(keys, id_col="unique_id", time_col="ds", targets=keys.targets or ["y"])
    if keys.id_col is not None and keys.targets is None and "y" in cells:
        keys = replace(keys, targets=["y"])
    check_columns(table, keys)
    if len(cells) < 3:
        raise ValueError(f"{path}: {len(cells)} rows are too few for a series; the file may be truncated")
    targets = targets_of(table, keys)
    covariates = [*keys.past_covariates, *keys.future_covariates]
    tell_unread(table, {*keys.times, keys.id_col, *targets, *covariates, *keys.static_covariates})
    codes, ids = ids_of(table, keys.id_col)
    stamps = stamps_of(table, keys, None if keys.id_col is None else codes)
    kinds = {"targets": targets, "past_covariates": keys.past_covariates, "future_covariates": keys.future_covariates}
    values = np.stack([table.numbers(name, key) for key, names in kinds.items() for name in names], axis=1)
    if keys.sentinel is not None:
        values[values == keys.sentinel] = np.nan
    everything = Cells([*targets, *covariates], stamps.at, values, np.arange(len(cells)))
    said = [*table.said, *stamps.said]
    sizes = len(keys.past_covariates), len(keys.future_covariates)
    noted = Defects(path, stamps.zone)
    if keys.id_col is None:
        if not regular:
            return Content([_as_it_is(table, everything, sizes, noted)], False, list(keys.future_covariates), said)
        parts = _columns(table, everything, sizes, noted, said)
    else:
        parts = _groups(table, everything, codes, ids, noted)
    panel = keys.id_col is not None or len(parts) > 1
    series = _on_one_clock(table, parts, sizes, keys, stamps.zone, noted, said)
    static, names = static_of(table, keys, codes, len(ids))
    if names:
        series = [_with_static(one, static[i]) for i, one in enumerate(series)]
    return Content(series, panel, [*keys.future_covariates, *names], said)


def read_bare(path: Path, start: str, freq: str) -> Series:
    """Read a csv, csv.gz or txt.gz of nothing but numbers, one row per moment and one column per variable.

    Args:
        path: the file.
        start: stamp of its first row, which it does not say itself.
        freq: frequency of its rows.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged or holds anything but finite numbers.
    """
    raw = decompressed(path)
    with reading(path, "a csv", "download it again"):
        cells = pd.read_csv(io.BytesIO(raw), header=None, low_memory=False).rename(columns=str)
    table = Table(path, cells, np.arange(1, len(cells) + 1), hashlib.sha256(raw).hexdigest())
    values = np.stack([table.numbers(name) for name in cells], axis=1)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"{path} {table.place(row)}: column '{column}' has no finite value; download the file again")
    stamps = pd.date_range(start, periods=len(values), freq=freq, unit="ns").asi8
    return Series(values, list(cells), stamps, freq, table.sha256)


def _sorted(cells: Cells) -> Cells:
    """Rows in the order of time; of those with the same stamp, the last."""
    order = np.argsort(cells.stamps, kind="stable")
    rows = order[np.append(np.diff(cells.stamps[order]) != 0, True)]
    return Cells(cells.names, cells.stamps[rows], cells.values[rows], cells.rows[rows])


def _groups(table: Table, cells: Cells, codes: np.ndarray, ids: list[str], noted: Defects) -> list[Cells]:
    """The rows of each series of a long file, whose target takes the series' name."""
    parts = []
    order = np.argsort(codes, kind="stable")  # the file's order within each series
    for rows, name in zip(np.split(order, np.cumsum(np.bincount(codes))[:-1]), ids, strict=True):
        noted.order(cells.stamps[rows], lambda row, rows=rows: table.place(rows[row]), name)
        parts.append(_sorted(Cells([name, *cells.names[1:]], cells.stamps[rows], cells.values[rows], rows)))
    return parts


def _columns(table: Table, cells: Cells, sizes: tuple[int, int], noted: Defects, said: list[str]) -> list[Cells]:
    """The rows of a wide file, or of each of its variables where they do not begin and end together."""
    noted.order(cells.stamps, table.place)
    cells = _sorted(cells)
    variables = len(cells.names) - sum(sizes)
    finite = np.isfinite(cells.values)
    empty = [name for name, holds in zip(cells.names, finite.any(0), strict=True) if not holds]
    if empty:
        raise ValueError(f"{table.path}: columns {empty} have no finite value at all; leave them out")
    known = ~np.isnan(cells.values[:, :variables])  # an infinity is no missing value: it is told of as a defect
    first = known.argmax(0)
    last = len(known) - 1 - known[::-1].argmax(0)
    if (first == first[0]).all() and (last == last[0]).all():
        return [cells]
    said.append("variables begin and end at their own times: each is a series of its own")
    beside = list(range(variables, len(cells.names)))
    return [
        Cells([cells.names[c] for c in (v, *beside)], cells.stamps, cells.values[:, [v, *beside]], cells.rows)
        for v in range(variables)
    ]


def _as_it_is(table: Table, cells: Cells, sizes: tuple[int, int], noted: Defects) -> Series:
    """A benchmark's rows, whose clock has gaps that everybody keeps."""
    noted.holes(~np.isfinite(cells.values), lambda r, c: f"{table.place(r)} {cells.names[c]!r}")
    noted.refuse("refuse")
    return Series(cells.values, cells.names, cells.stamps, usual_frequency(cells.stamps), table.sha256)


def _on_one_clock(
    table: Table,
    parts: list[Cells],
    sizes: tuple[int, int],
    keys: Keys,
    zone: str,
    noted: Defects,
    said: list[str],
) -> list[Series]:
    """Every part on a clock without gaps, all of one frequency, or an error that names every defect."""
    rows = sum(len(cells.stamps) for cells in parts)
    parts = [_trimmed(table, cells, sizes) for cells in parts]
    if len(parts) == 1 or keys.id_col is not None:  # of variables beside each other it is told already
        rows -= sum(len(cells.stamps) for cells in parts)
        if rows:
            said.append(f"{rows} row{'s' * (rows > 1)} without a value, before the first or after the last, left out")
    merged = [cells for cells in parts if len(cells.stamps) >= 3]
    if not merged:
        noted.refuse(keys.defects)
        most = max(len(cells.stamps) for cells in parts)
        raise ValueError(f"{table.path}: {most} moments are too few for a series; set data.time_col or data.id_col")
    noted.refuse("mask")  # stamps so often repeated that no clock would mean anything
    freq = keys.freq
    if freq is None:
        votes = Counter()
        for cells in merged:
            votes[infer_frequency(cells.stamps, zone)] += len(cells.stamps)
        freq = common_frequency(votes)
        if any((snapped(cells.stamps, freq, zone) != cells.stamps).any() for cells in merged):
            said.append("rows at varying days of their months: stamps are those of the first of the month")
    freq = _known_frequency(freq, zone)
    several = len(parts) > 1
    series = [_regular(table, cells, sizes, freq, zone, keys.defects, noted, several) for cells in parts]
    noted.refuse(keys.defects)
    repairs = noted.report()
    return [replace(one, repairs=repairs) for one in series]


def _known_frequency(freq: str, zone: str) -> str:
    """A frequency as pandas writes it; of plain integers it may be a number.

    Raises:
        ValueError: there is none of that name.
    """
    if re.fullmatch(r"\d*M@\d+", freq):
        return freq
    freq = f"{freq}ns" if zone == "integer" and freq.isdecimal() else freq
    cure = "write 15min, h, D, W-SUN, ME, ... or null"
    try:
        step = pd.tseries.frequencies.to_offset(freq)
    except ValueError as err:
        raise ValueError(f"data.freq {freq!r} is no frequency; {cure}") from err
    if step.n < 1:
        raise ValueError(f"data.freq {freq!r} does not go forward; {cure}")
    return step.freqstr


def _trimmed(table: Table, cells: Cells, sizes: tuple[int, int]) -> Cells:
    """Without the rows before the first value, and after the last one all that no future covariate speaks of."""
    variables = len(cells.names) - sum(sizes)
    if not np.isfinite(cells.values[:, :variables]).any():
        raise ValueError(f"{table.path}: {cells.names[0]!r} has no finite value at all; leave it out")
    known = ~np.isnan(cells.values)
    rows = np.flatnonzero(known[:, :variables].any(1))
    ahead = np.flatnonzero(known[:, len(cells.names) - sizes[1] :].any(1))
    end = max([rows[-1], *ahead[-1:]]) + 1
    part = slice(rows[0], end)
    return Cells(cells.names, cells.stamps[part], cells.values[part], cells.rows[part])


def _regular(
    table: Table,
    cells: Cells,
    sizes: tuple[int, int],
    freq: str,
    zone: str,
    defects: Policy,
    noted: Defects,
    several: bool,
) -> Series:
    """One series on its clock, of `several` by its name; its defects are noted, and mended as `fill` does it."""
    past, future = sizes
    variables = len(cells.names) - past - future
    stamps = snapped(cells.stamps, freq, zone)
    finite = np.isfinite(cells.values)
    # after the last value come rows of the future, of which nothing counts but what is known beforehand
    last = int(np.flatnonzero(~np.isnan(cells.values[:, :variables]).all(1))[-1])

    def place(row: int) -> str:
        return table.place(cells.rows[row])

    holes = ~finite
    holes[last + 1 :, : variables + past] = False
    noted.holes(holes, lambda r, c: f"{place(r)} {cells.names[c]!r}")
    of = f" of {cells.names[0]!r}" if several else ""
    grid, at = grid_of(table.path, stamps, freq, zone, place, of)
    noted.gaps(grid, at, place)
    whole = np.full((len(grid), cells.values.shape[1]), np.nan)
    whole[at] = np.where(finite, cells.values, np.nan)
    end = int(at[last]) + 1
    missing = np.isnan(whole[:end, :variables])
    whole = pd.DataFrame(whole).ffill().bfill().to_numpy(np.float64, copy=True)
    return Series(
        np.array(whole[:end, :variables]),
        cells.names[:variables],
        grid[:end],
        freq,
        table.sha256,
        missing=missing if defects == "mask" and missing.any() else None,
        past=whole[:end, variables : variables + past] if past else None,
        future=whole[:, variables + past :] if future else None,
        zone=zone,
    )


def _with_static(series: Series, static: np.ndarray) -> Series:
    """A series whose future holds what is always so; it is known as far ahead as is asked: see `TimeSeriesData`."""
    rows = len(series.stamps) if series.future is None else len(series.future)
    beside = np.broadcast_to(static, (rows, len(static)))
    known = [] if series.future is None else [series.future]
    return replace(series, future=np.concatenate([*known, beside], 1))


def describe(series: Series) -> str:
    """From when to when a series goes."""
    return f"{say(series.stamps[0], series.zone)} to {say(series.stamps[-1], series.zone)}"
