"""Zones of stamps: which one offsets belong to, and where a wall clock stands in one."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from zoneinfo import available_timezones

import numpy as np
import pandas as pd

from domains.timeseries.clock import instants, zone_of
from domains.timeseries.stamps import Stamps

FIRST_ZONES = ("Europe/Berlin", "Europe/London", "America/New_York", "America/Chicago", "America/Los_Angeles")
OFFSET = r"(?:z|utc|gmt|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)"


def placed(
    path: Path,
    at: np.ndarray,
    zone: str,
    time_zone: str | None,
    series: np.ndarray | None,
    place: Callable[[int], str],
) -> Stamps:
    """Stamps in the zone that is asked for: UTC already if they have a zone, else still a wall clock."""
    if time_zone is None or zone == "integer":
        return Stamps(at, zone)
    zone_of(time_zone)
    if zone:
        return Stamps(at, time_zone)
    moved = np.empty_like(at)
    every = [np.arange(len(at))] if series is None else pd.Series(series).groupby(series).indices.values()
    for rows in every:
        wall = pd.DatetimeIndex(at[rows].astype("datetime64[ns]"))
        if (wall == wall.normalize()).all():  # days, of which some may begin an hour late or twice
            moved[rows] = instants(wall, time_zone)
        else:
            moved[rows] = _told_by_order(path, wall, time_zone, lambda row, rows=rows: place(rows[row]))
    return Stamps(moved, time_zone)


def _told_by_order(path: Path, wall: pd.DatetimeIndex, time_zone: str, place: Callable[[int], str]) -> np.ndarray:
    """UTC int64 of a wall clock; of an hour that comes twice, the order of the rows tells which is which."""
    tz = zone_of(time_zone)
    missing = pd.isna(wall.tz_localize(tz, ambiguous=np.ones(len(wall), bool), nonexistent="NaT"))
    cure = "name the zone that the stamps were written in, or null"
    if missing.any():
        row = int(missing.argmax())
        raise ValueError(f"{path} {place(row)}: data.time_zone {time_zone} leaves {wall[row]} out in spring; {cure}")
    try:
        return wall.tz_localize(tz, ambiguous="infer").tz_convert("UTC").tz_localize(None).as_unit("ns").asi8
    except ValueError as err:
        row = int(wall.tz_localize(tz, ambiguous="NaT").isna().argmax())
        raise ValueError(
            f"{path} {place(row)}: {wall[row]} comes twice in data.time_zone {time_zone}, and no row beside it tells "
            f"which one is meant; write offsets (2024-10-27 02:30:00+01:00), or {cure}"
        ) from err


def offset_of(text: str) -> str:
    """`+01:00` of any way to write it; UTC of Z."""
    if text.lower() in ("z", "utc", "gmt"):
        return "UTC"
    digits = text[1:].replace(":", "").ljust(4, "0")
    return "UTC" if digits == "0000" else f"{text[0]}{digits[:2]}:{digits[2:]}"


def zone_of_offsets(moments: pd.Series, offsets: pd.Series) -> tuple[str, tuple[str, ...]]:
    """The zone of stamps (UTC) with these offsets: the offset itself, or a place that had the same ones.

    Of several it is a usual one, else the first of those that most of them agree with in the two years ahead: Coyhaique
    left the time of Santiago in 2025.
    """
    each = offsets.map(offset_of)
    different = list(dict.fromkeys(each))
    if len(different) == 1:
        return different[0], ()
    order = np.argsort(moments.to_numpy(), kind="stable")
    each = each.iloc[order].reset_index(drop=True)
    moments = moments.iloc[order].reset_index(drop=True)
    changes = np.flatnonzero((each != each.shift()).to_numpy())
    telling = np.unique(np.concatenate([changes, np.maximum(changes - 1, 0), [len(each) - 1]]))
    index = pd.DatetimeIndex(moments.iloc[telling])
    wanted = tuple("+0000" if offset == "UTC" else offset.replace(":", "") for offset in each.iloc[telling])
    fitting = next(([name] for name in FIRST_ZONES if _offsets_there(name, index) == wanted), None)
    fitting = fitting or [name for name in _zones() if _offsets_there(name, index) == wanted]
    if not fitting:
        said = f"offsets {', '.join(different)} belong to no one zone: times are in UTC (another: data.time_zone)"
        return "UTC", (said,)
    ahead = pd.date_range(index[-1], periods=24, freq="30D")
    later = [_offsets_there(name, ahead) for name in fitting]
    name = fitting[later.index(Counter(later).most_common(1)[0][0])]
    return name, (f"offsets {' and '.join(different)} taken for {name} (another: data.time_zone)",)


def _offsets_there(zone: str, moments: pd.DatetimeIndex) -> tuple[str, ...]:
    """The offsets, as +0100, of a zone at some moments."""
    return tuple(moments.tz_convert(zone_of(zone)).strftime("%z"))


def zone_of_frame(index: pd.DatetimeIndex) -> tuple[str, tuple[str, ...]]:
    """The zone of stamps that are no text; empty for a clock that names none.

    Offsets, and zones of other libraries than zoneinfo, have names that mean nothing outside of Python: theirs is found
    as that of offsets in a file is.
    """
    if index.tz is None:
        return "", ()
    name = str(index.tz)
    try:
        zone_of(name)
    except ValueError:
        return zone_of_offsets(index.tz_convert("UTC").to_series(), pd.Series(index.strftime("%z")))
    return name, ()


@cache
def _zones() -> tuple[str, ...]:
    return tuple(sorted(name for name in available_timezones() if "/" in name and not name.startswith("Etc/")))
