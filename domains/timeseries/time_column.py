"""One reading of a time column: ISO 8601, days and months in either order, names of months, quarters, numbers.

What can be read in two ways is read in the one that gives a regular clock, and that is told; where both do, or neither,
the stamps are refused with the key that decides.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from app.reading import reading
from domains.timeseries.dates import by_parts
from domains.timeseries.formats import UNITS, by_format, numbers
from domains.timeseries.iso import iso
from domains.timeseries.stamps import CURE, Stamps, refuse, whole
from domains.timeseries.zones import placed, zone_of_frame


def read_stamps(
    path: Path,
    column: pd.Series,
    place: Callable[[int], str],
    time_format: str | None = None,
    day_first: bool | None = None,
    time_zone: str | None = None,
    series: np.ndarray | None = None,
) -> Stamps:
    """Read a time column.

    Args:
        path: of the file, for errors.
        column: [R], text as it stands in the file, or what a parquet file holds.
        place: what a row is called in the file.
        time_format: as of `strptime`, where numbers of one digit are as good as of two; `s`, `ms`, `us` or `ns` for
            counts since 1970, whole or not; `integer` for counts of nothing; None finds out.
        day_first: whether 01/02/2024 is the first of February; None finds out.
        time_zone: of the file's clock where it gives no offsets, or the one that its offsets belong to.
        series: int64 [R], which series each row is of; None for one series.

    Raises:
        ValueError: a stamp cannot be read, or in more than one way; names it and the key.
    """
    kind = column.dtype
    if isinstance(kind, pd.DatetimeTZDtype) or pd.api.types.is_datetime64_dtype(kind):
        refuse(path, column, column.isna(), place, "is empty", "give every row its time")
        wall = pd.DatetimeIndex(column)
        zone, taken = zone_of_frame(wall)
        wall = wall.tz_convert("UTC").tz_localize(None) if zone else wall
        stamps = placed(path, whole(path, wall, column, place), zone, time_zone, series, place)
        return Stamps(stamps.at, stamps.zone, taken if time_zone is None else ())
    if pd.api.types.is_float_dtype(kind) and time_format is None and (column % 1 == 0).all():
        column = column.astype(np.int64)  # pandas makes 20240131.0 of 20240131 where an empty row stands in the column
        kind = column.dtype
    counted = pd.api.types.is_float_dtype(kind) and time_format in (*UNITS, "integer")
    if (pd.api.types.is_float_dtype(kind) or pd.api.types.is_bool_dtype(kind)) and not counted:
        raise ValueError(f"{path} {place(0)}: {column.iloc[0]} is a number, not a time stamp; {CURE}")
    with reading(path, "a column of time stamps", CURE):
        text = column.astype("str").str.strip().mask(column.isna())
    refuse(path, column, text.isna() | (text == ""), place, "is empty", "give every row its time")
    codes, unique = pd.factorize(text)
    texts = pd.Series(np.asarray(unique, object))
    first = pd.Series(codes).drop_duplicates().index.to_numpy()  # the row in which each text stands first

    def where(i: int) -> str:
        return place(int(first[i]))

    if time_format is not None:
        read = by_format(path, texts, where, time_format)
    elif texts.str.fullmatch(r"[+-]?\d+").all():
        read = numbers(path, texts, where)
    else:
        read = iso(texts) or by_parts(path, texts, where, day_first)
    stamps = placed(path, read.at[codes], read.zone, time_zone, series, place)
    return Stamps(stamps.at, stamps.zone, read.said + (read.taken if time_zone is None else ()))
