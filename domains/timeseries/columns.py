"""What the columns of a file are: time, series, targets and covariates."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from app.reading import reading
from domains.timeseries.clock import Policy
from domains.timeseries.stamps import Stamps
from domains.timeseries.table import FRAME, Table
from domains.timeseries.time_column import read_stamps

NIXTLA = ("unique_id", "ds", "y")  # columns by which a long file is recognised without any key


@dataclass(frozen=True)
class Keys:
    """What a file's columns are and how its stamps are read, as the keys under `data` say it.

    Args:
        time_col: name of the time column, or of several that say it together (date and time of day).
        targets: columns to forecast; None takes every column that is nothing else (`y` of a long file).
        id_col: column that names the series, where the file has one row per series and moment; None for a file with one
            column per series, or with columns `unique_id`, `ds` and `y`.
        past_covariates: columns known up to the moment of a forecast.
        future_covariates: columns known beforehand; to forecast the future of a file, append rows that hold them alone.
        static_covariates: columns of a long file that say the same in every row of a series, numbers or names.
        freq: pandas frequency of the rows, or the number from one to the next where times are plain integers; None
            infers it.
        sentinel: number that stands for an empty cell, such as -9999.
        defects: what to do about gaps, cells without a finite value, repeated and unsorted stamps: `refuse` names them
            in an error. `fill` and `mask` sort the rows, keep the last of repeated ones and carry the last value
            forward (the first one backward before it); `mask` also keeps such cells out of every loss and metric.
        time_format: how stamps are written, as for `strptime` (`%d.%m.%y %H:%M`); `s`, `ms`, `us` or `ns` since 1970;
            or `integer`; None finds out.
        day_first: whether 01/02/2024 is the first of February; None finds out.
        time_zone: of a clock without offsets, such as Europe/Berlin, or the one that the file's offsets belong to.
    """

    time_col: str | list[str] = "date"
    targets: Sequence[str] | None = None
    id_col: str | None = None
    past_covariates: Sequence[str] = ()
    future_covariates: Sequence[str] = ()
    static_covariates: Sequence[str] = ()
    freq: str | None = None
    sentinel: float | None = None
    defects: Policy = "refuse"
    time_format: str | None = None
    day_first: bool | None = None
    time_zone: str | None = None

    def __post_init__(self) -> None:
        for name in ("past_covariates", "future_covariates", "static_covariates"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list of the configuration equals no default

    @property
    def times(self) -> list[str]:
        """Names of the time columns."""
        return [self.time_col] if isinstance(self.time_col, str) else list(self.time_col)


def _names(table: Table) -> str:
    """Its columns in an error message, not all of 862."""
    names = [str(name) for name in table.cells]
    return f"{names[:12]}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def check_columns(table: Table, keys: Keys) -> None:
    """Refuse keys that name a column which is not there, or one column for two things.

    Raises:
        ValueError: names the key and the column.
    """
    taken: dict[str, str] = {}
    columns = {
        "time_col": keys.times,
        "id_col": [keys.id_col] if keys.id_col else [],
        "targets": keys.targets or [],
        "past_covariates": keys.past_covariates,
        "future_covariates": keys.future_covariates,
        "static_covariates": keys.static_covariates,
    }
    for key, names in columns.items():
        for name in names:
            if name not in table.cells:
                what = "the time column" if key == "time_col" else "columns it has"
                raise ValueError(f"{table.path}: no column {name!r} among {_names(table)}; set data.{key} to {what}")
            if name in taken:
                raise ValueError(
                    f"{table.path}: column {name!r} stands in data.{taken[name]} and in data.{key}; drop one of them"
                )
            taken[name] = key
    if keys.static_covariates and keys.id_col is None:
        raise ValueError(f"{table.path}: data.static_covariates belong to the series of a long file; set data.id_col")


def targets_of(table: Table, keys: Keys) -> list[str]:
    """The value columns: those that are named, or all that are nothing else and not empty.

    Raises:
        ValueError: there is none, or several in a long file.
    """
    targets = list(keys.targets or [])
    if keys.targets is None:
        others = {*keys.times, keys.id_col, *keys.past_covariates, *keys.future_covariates, *keys.static_covariates}
        targets = [name for name in table.cells if name not in others]
        empty = [name for name in targets if table.cells[name].isna().all()]
        if empty and len(empty) < len(targets):
            table.said.append(f"empty column{'s' * (len(empty) > 1)} {', '.join(empty)} left out")
            targets = [name for name in targets if name not in empty]
    if not targets or (keys.id_col and len(targets) > 1):
        one = "exactly one value column, data.targets: [y]"
        wanted = one if keys.id_col else "a value column beside the time column"
        raise ValueError(f"{table.path}: needs {wanted}; its columns are {_names(table)}")
    return targets


def tell_unread(table: Table, read: Collection[str | None]) -> None:
    """Say which columns nothing is made of; those that are empty are told already."""
    unread = [str(name) for name in table.cells if name not in read and table.cells[name].notna().any()]
    if unread:
        more = f" and {len(unread) - 12} more" if len(unread) > 12 else ""
        table.said.append(f"column{'s' * (len(unread) > 1)} {', '.join(unread[:12])}{more} not read")


def ids_of(table: Table, id_col: str | None) -> tuple[np.ndarray, list[str]]:
    """Which series each row is of [R], and their names in the order of the file."""
    if id_col is None:
        return np.zeros(len(table.cells), np.int64), []
    column = table.cells[id_col]
    empty = (column.isna() | (column.astype("str").str.strip() == "")).to_numpy()
    if empty.any():
        row = int(empty.argmax())
        known = " (pandas reads NA as empty, unless read_csv has keep_default_na=False)" * (str(table.path) == FRAME)
        raise ValueError(
            f"{table.path} {table.place(row)}: column {id_col!r} is empty; name the series of this row{known}"
        )
    with reading(table.path, "a column of names", "write them as text"):
        codes, names = pd.factorize(column.astype("str"))
    return codes, [str(name) for name in names]


def stamps_of(table: Table, keys: Keys, series: np.ndarray | None) -> Stamps:
    """The stamps of all rows, [R], of one time column or of several that are read as one.

    Raises:
        ValueError: one cannot be read.
    """
    columns = [table.cells[name] for name in keys.times]
    column = columns[0]
    for more in columns[1:]:
        column = column.astype("str").str.strip() + " " + more.astype("str").str.strip()
    column = column.rename(" ".join(keys.times))
    if len(columns) == 1:
        _refuse_time_elsewhere(table, keys)
    return read_stamps(table.path, column, table.place, keys.time_format, keys.day_first, keys.time_zone, series)


def _refuse_time_elsewhere(table: Table, keys: Keys) -> None:
    """Refuse a column of dates beside one of times of day."""
    first = table.cells[keys.times[0]]
    if not pd.api.types.is_string_dtype(first) or first.str.contains(r"\d:\d\d|\d\.\d\d\.\d\d$").any():
        return
    for name in table.cells:
        column = table.cells[name]
        if name == keys.times[0] or not pd.api.types.is_string_dtype(column):
            continue
        if column.str.fullmatch(r"\s*\d{1,2}[:.h]\d{2}([:.]\d{2})?(\s*[aApP]\.?[mM]\.?)?").all():
            raise ValueError(
                f"{table.path}: column {name!r} holds the time of day; set data.time_col to [{keys.times[0]}, {name}]"
            )


def static_of(table: Table, keys: Keys, codes: np.ndarray, count: int) -> tuple[np.ndarray, list[str]]:
    """What static covariates say of each series as numbers, float64 [S, C], and the names of the C columns.

    Raises:
        ValueError: a series says two things, or nothing that is finite.
    """
    parts = []
    names = []
    first = np.unique(codes, return_index=True)[1]  # the row in which each series stands first
    for name in keys.static_covariates:
        column = table.cells[name]
        each = column.iloc[first].reset_index(drop=True)
        if column.isna().any():
            place = table.place(int(column.isna().to_numpy().argmax()))
            raise ValueError(f"{table.path} {place}: static covariate {name!r} is empty; write what it is in all rows")
        other = column != each.iloc[codes].to_numpy()
        if other.any():
            row = int(other.to_numpy().argmax())
            raise ValueError(
                f"{table.path} {table.place(row)}: static covariate {name!r} is {column.iloc[row]!r} here and "
                f"{each.iloc[codes[row]]!r} in another row of the same series; write the same in all, or name it in "
                "data.past_covariates"
            )
        try:
            numbers = table.numbers(name)[first]
        except ValueError:
            numbers = np.full(count, np.nan)  # names
        if np.isinf(numbers).any():
            place = table.place(first[int(np.isinf(numbers).argmax())])
            raise ValueError(f"{table.path} {place}: static covariate {name!r} is infinite; write a number")
        if not np.isnan(numbers).any():
            parts.append(numbers[:, None])
            names.append(name)
        else:
            texts = each.astype("str")
            kinds = sorted(set(texts))
            parts.append(np.array([[text == kind for kind in kinds] for text in texts], np.float64))
            names += [f"{name}={kind}" for kind in kinds]
    return np.concatenate(parts, 1) if parts else np.zeros((count, 0)), names
