"""The clock of a file: its zone, its frequency, the grid of its stamps, and everything that is wrong with them.

A frequency is one of pandas (`h`, `15min`, `D`, `W-SUN`, `ME`), or `M@15`: the 15th of every month, `3M@31` the last
day of every third. Hours and minutes are counted in absolute time, days, weeks and months by the local calendar, so
that a local midnight is followed by the next one, 23, 24 or 25 hours later.
"""

import re
import warnings
from collections import Counter
from collections.abc import Callable
from datetime import timedelta, timezone, tzinfo
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

Policy = Literal["refuse", "fill", "mask"]

SHOWN = 3  # places of each kind of defect in a message
KINDS = {  # name: one, several, cure
    "unsorted": ("unsorted stamp", "unsorted stamps", "sort the rows by time"),
    "repeated": ("duplicate stamp", "duplicate stamps", "keep one row per stamp"),
    "gaps": ("gap in time", "gaps in time", "add the missing rows"),
    "holes": ("cell without a finite value", "cells without a finite value", "fill the cells"),
}
MANY = 0.05  # share of repeated stamps above which they are no slips but several series
DAY = 86_400_000_000_000  # nanoseconds
MONTHS = re.compile(r"(\d*)M@(\d+)")


def zone_of(zone: str) -> tzinfo:
    """The zone that a name such as `Europe/Berlin`, `UTC` or `+01:00` means.

    Raises:
        ValueError: there is none of that name.
    """
    offset = re.fullmatch(r"([+-])(\d\d):?(\d\d)", zone)
    if offset:
        minutes = 60 * int(offset[2]) + int(offset[3])
        return timezone(timedelta(minutes=-minutes if offset[1] == "-" else minutes))
    try:
        return ZoneInfo(zone)
    except (OSError, ValueError, LookupError) as err:  # zoneinfo's own error is a KeyError
        raise ValueError(f"data.time_zone {zone!r} is no zone; write Europe/Berlin, UTC, +01:00, ... or null") from err


def local(stamps: np.ndarray, zone: str) -> pd.DatetimeIndex:
    """The wall clock, without a zone, of stamps int64 [R]."""
    index = pd.DatetimeIndex(np.asarray(stamps).astype("datetime64[ns]"))
    if zone in ("", "integer", "UTC"):
        return index
    return index.tz_localize("UTC").tz_convert(zone_of(zone)).tz_localize(None)


def instants(wall: pd.DatetimeIndex, zone: str) -> np.ndarray:
    """Stamps int64 [R] of a wall clock; an hour that a zone leaves out becomes the next, one it repeats the first."""
    if zone not in ("", "integer", "UTC"):
        first = np.ones(len(wall), bool)
        wall = wall.tz_localize(zone_of(zone), ambiguous=first, nonexistent="shift_forward").tz_convert("UTC")
        wall = wall.tz_localize(None)
    return wall.as_unit("ns").asi8


def shown(stamps: np.ndarray, zone: str) -> pd.Index:
    """Stamps int64 [R] as tables and messages write them: with the zone's offset, or as the integers they are."""
    if zone == "integer":
        return pd.Index(np.asarray(stamps))
    index = pd.DatetimeIndex(np.asarray(stamps).astype("datetime64[ns]"))
    return index.tz_localize("UTC").tz_convert(zone_of(zone)) if zone else index


def say(stamp: int, zone: str) -> str:
    """One stamp in a message."""
    return str(shown(np.array([stamp]), zone)[0])


def fixed_step(freq: str) -> int | None:
    """Nanoseconds from one row to the next; None for weeks, months and other calendar steps."""
    if MONTHS.fullmatch(freq):
        return None
    try:
        return int(pd.tseries.frequencies.to_offset(freq).nanos)
    except ValueError:
        return None


def counted(stamps: np.ndarray, freq: str, zone: str = "") -> np.ndarray:
    """Which row of a clock each of the stamps int64 [R] is: int64 [R], one more from each row to the next.

    Days are those of the wall clock, of which a season of seven is a week in summer and winter. Rows of calendar steps,
    such as months, have no such number: all are 0.
    """
    step = fixed_step(freq)
    if step is None:
        return np.zeros_like(stamps)
    return (stamps if step % DAY else instants(local(stamps, zone), "")) // step


def grid_after(last: int, freq: str, count: int, zone: str = "") -> np.ndarray:
    """The `count` stamps int64 that follow the stamp `last`."""
    step = fixed_step(freq)
    if step is not None and (step % DAY or zone in ("", "integer", "UTC")):
        return last + step * np.arange(1, count + 1)
    return instants(_calendar(local(np.array([last]), zone)[0], freq, count + 1), zone)[1:]


def step_of(freq: str, zone: str) -> str:
    """A frequency in a message: of plain integers the number from one row to the next."""
    return freq.removesuffix("ns") or "1" if zone == "integer" else freq


def grid_between(first: int, last: int, freq: str, zone: str = "") -> np.ndarray:
    """Stamps int64 of a frequency from `first` up to `last`."""
    step = fixed_step(freq)
    if step is not None and (step % DAY or zone in ("", "integer", "UTC")):
        return first + step * np.arange((last - first) // step + 1)
    start, end = local(np.array([first, last]), zone)
    match = MONTHS.fullmatch(freq)
    if match:
        months = 12 * (end.year - start.year) + end.month - start.month
        wall = _calendar(start, freq, months // int(match[1] or 1) + 1)
    else:
        wall = pd.date_range(start, end, freq=freq, unit="ns")
    return instants(wall, zone)


def _calendar(start: pd.Timestamp, freq: str, count: int) -> pd.DatetimeIndex:
    """`count` wall-clock stamps from `start` on."""
    match = MONTHS.fullmatch(freq)
    if not match:
        return pd.date_range(start, periods=count, freq=freq, unit="ns")
    periods = pd.period_range(start, periods=int(match[1] or 1) * (count - 1) + 1, freq="M")[:: int(match[1] or 1)]
    days = np.minimum(int(match[2]), periods.days_in_month) - 1
    time = start - start.normalize()
    return periods.to_timestamp().as_unit("ns") + pd.to_timedelta(days, unit="D").as_unit("ns") + time


class Defects:
    """What is wrong with a file, gathered first and told at once.

    Args:
        path: the file.
        zone: that its stamps are told in.
    """

    def __init__(self, path: Path, zone: str = "") -> None:
        self.path = path
        self.zone = zone
        self.places: dict[str, tuple[int, list[str]]] = {}  # kind: how many, and where the first ones are
        self.rows = 0
        self.daily = True  # no local time repeats a day
        self.invented = 0  # rows that filling would add

    def _add(self, kind: str, rows: np.ndarray, place: Callable[..., str]) -> None:
        if len(rows):
            count, places = self.places.get(kind, (0, []))
            more = [place(*np.atleast_1d(row)) for row in rows[: SHOWN - len(places)]]
            self.places[kind] = (count + len(rows), places + more)

    def order(self, stamps: np.ndarray, place: Callable[[int], str], of: str = "") -> None:
        """Note stamps int64 [R] of one series (its name is `of`) that stand before their predecessor or repeat one."""

        def where(row: int) -> str:
            return f"{place(row)}: {say(stamps[row], self.zone)}{f' of {of!r}' if of else ''}"

        self.rows += len(stamps)
        self.daily &= not (stamps % DAY).any()
        self._add("unsorted", np.flatnonzero(np.diff(stamps) < 0) + 1, where)
        self._add("repeated", np.flatnonzero(pd.Series(stamps).duplicated()), where)

    def holes(self, holes: np.ndarray, cell: Callable[[int, int], str]) -> None:
        """Note the cells that are True in `holes` [R, C]."""
        self._add("holes", np.argwhere(holes), cell)

    def gaps(self, grid: np.ndarray, at: np.ndarray, row: Callable[[int], str]) -> None:
        """Note where the rows, which stand at `at` int64 [R] of `grid`, leave moments of it out."""

        def where(after: int) -> str:
            before, stamp = (say(grid[at[after - back]], self.zone) for back in (1, 0))
            return f"{row(after)}: {before} is followed by {stamp}"

        self.invented += len(grid) - len(at)
        self._add("gaps", np.flatnonzero(np.diff(at) > 1) + 1, where)

    def report(self) -> str:
        """All that was noted, in one line; empty for nothing."""
        parts = []
        for kind, (count, places) in self.places.items():
            more = f", and {count - SHOWN} more" if count > SHOWN else ""
            parts.append(f"{count} {KINDS[kind][count > 1]} ({', '.join(places)}{more})")
        return "; ".join(parts)

    def refuse(self, policy: Policy) -> None:
        """Raise a ValueError that names all that was noted, unless `policy` mends it.

        Nothing mends stamps so often repeated that the file must hold several series, which would be merged.
        """
        merged = self.places.get("repeated", (0, []))[0] > max(MANY * self.rows, SHOWN)
        if not self.places or (policy != "refuse" and not merged):
            return
        cures = [KINDS[kind][2] for kind in self.places]
        if merged:
            cures = ["name the column that tells the series apart in data.id_col (make one of several)"]
            cures += ["or keep one row per stamp"]
        clock = {"repeated", "gaps"} & self.places.keys() and not (self.zone or merged or self.daily)
        hint = (
            " (local time repeats an hour each autumn and lacks one each spring: write UTC, or set data.time_zone)"
            if clock
            else ""
        )
        offer = "" if merged else ", or set data.defects to fill or mask"
        raise ValueError(f"{self.path}: {self.report()}; {', '.join(cures)}{hint}{offer}")


def usual_frequency(stamps: np.ndarray) -> str:
    """The commonest step between stamps int64 [R]."""
    return pd.tseries.frequencies.to_offset(pd.Timedelta(int(pd.Series(np.diff(stamps)).mode()[0]))).freqstr


def _inferred(index: pd.DatetimeIndex) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a string before pandas 4, with a warning from 3.1 on; then an offset
        inferred = pd.infer_freq(index)
    return getattr(inferred, "freqstr", inferred)


def infer_frequency(stamps: np.ndarray, zone: str = "") -> str:
    """Frequency of at least three sorted stamps int64 [R], calendar steps included; gaps may occur."""
    if zone == "integer":
        return f"{int(np.diff(stamps).min())}ns"
    hourly = np.median(np.diff(stamps)) < DAY * 23 / 24
    index = pd.DatetimeIndex(stamps.astype("datetime64[ns]")) if hourly else local(stamps, zone)
    whole = _inferred(index)
    if whole is not None:
        return whole
    # a run of eight rows without a gap tells the frequency, business days by the weekend that it holds
    starts = np.unique(np.linspace(0, max(len(index) - 8, 0), 64).astype(int))
    runs = Counter(_inferred(index[start : start + 8]) for start in starts)
    runs.pop(None, None)
    commonest = runs.most_common(1)[0][0] if runs else None
    months = None if hourly else _months(index)
    if months and not (commonest and _on_grid(stamps, commonest, zone)):
        return months
    return commonest or usual_frequency(stamps)


def common_frequency(votes: Counter[str]) -> str:
    """The frequency of several series, of which each row has a vote.

    That is the commonest one, but seven days or some months (`3M@1`) where all have a row a week, a month, a quarter or
    a year, and not on the same day.
    """
    if len(votes) > 1 and all(freq.startswith("W-") for freq in votes):
        return "7D"
    months = {_months_of(freq) for freq in votes}
    if len(votes) > 1 and len(months) == 1 and months != {0}:
        return "M@1" if months == {1} else f"{months.pop()}M@1"
    return votes.most_common(1)[0][0]


def _months_of(freq: str) -> int:
    """How many months a row is, on whatever day; 0 where it is of another length."""
    if match := MONTHS.fullmatch(freq):
        return int(match[1] or 1)
    match = re.fullmatch(r"B?([MQY])[SE](?:-[A-Z]{3})?", freq)
    return {"M": 1, "Q": 3, "Y": 12}[match[1]] if match else 0


def _on_grid(stamps: np.ndarray, freq: str, zone: str) -> bool:
    return bool(np.isin(stamps, grid_between(int(stamps[0]), int(stamps[-1]), freq, zone)).all())


def _months(index: pd.DatetimeIndex) -> str | None:
    """`M@DAY` of stamps with one row in a month at most, `M@1` where their days differ; None of any others."""
    months = 12 * index.year.to_numpy() + index.month.to_numpy()
    steps = np.diff(months)
    if len(index) < 3 or steps.min() < 1 or len(set(index - index.normalize())) > 1:
        return None
    count = int(np.gcd.reduce(steps))
    days = index.day.to_numpy()
    lengths = index.days_in_month.to_numpy()
    if (days == np.minimum(days.max(), lengths)).all():
        return f"{count if count > 1 else ''}M@{days.max()}"
    return f"{count if count > 1 else ''}M@1"


def snapped(stamps: np.ndarray, freq: str, zone: str) -> np.ndarray:
    """Stamps int64 [R] of months at varying days, as the first of each; those of every other frequency as they are."""
    match = MONTHS.fullmatch(freq)
    if not match:
        return stamps
    index = local(stamps, zone)
    days = np.minimum(int(match[2]), index.days_in_month.to_numpy()) - 1
    return instants(index + pd.to_timedelta(days - (index.day.to_numpy() - 1), unit="D"), zone)


def regularity(stamps: np.ndarray) -> float:
    """How much of a regular clock sorted stamps int64 [R] without zone are: the share of its moments that they fill."""
    if len(stamps) < 3:
        return 0.0
    freq = infer_frequency(stamps)
    step = fixed_step(freq)
    if step and (int(stamps[-1]) - int(stamps[0])) / step > 100 * len(stamps):  # may be more than int64 holds
        return 0.0
    stamps = snapped(stamps, freq, "")
    grid = grid_between(int(stamps[0]), int(stamps[-1]), freq)
    return float(np.isin(stamps, grid).mean() * min(len(stamps) / max(len(grid), 1), 1.0))


def grid_of(
    path: Path, stamps: np.ndarray, freq: str, zone: str, row: Callable[[int], str], of: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Every stamp from the first to the last by a frequency, and the places int64 [R] of sorted `stamps` among them.

    Args:
        path: the file.
        stamps: int64 [R].
        freq: of the rows.
        zone: of the stamps.
        row: where a row stands in the file.
        of: names one series of several in errors.

    Raises:
        ValueError: stamps lie between those of the grid, or most of the grid has no row.
    """
    start, end = map(int, stamps[[0, -1]])
    # a calendar step has no one length: the first one tells a year from a day
    step = fixed_step(freq) or int(grid_after(start, freq, 1, zone)[0]) - start
    moments = (end - start) / step  # 300 years are more nanoseconds than int64 holds
    grid = grid_between(start, end, freq, zone) if moments <= 100 * len(stamps) + 1000 else None
    apart = "forecast series of other frequencies in files of their own, or " if of else ""
    if grid is None or len(grid) > 2 * len(stamps):
        first, last = (say(stamps[at], zone) for at in (0, -1))
        dates = ", or data.time_format to the form of dates in digits" if zone == "integer" else ""
        count = f"{len(stamps)} rows" if grid is None else f"{len(stamps)} rows, not {len(grid)},"
        raise ValueError(
            f"{path}: {count}{of} from {first} to {last} are nearly all gaps at {step_of(freq, zone)!r}; "
            f"{apart}set data.freq to the frequency of the rows{dates}"
        )
    off = ~np.isin(stamps, grid)
    if off.any():
        first = int(off.argmax())
        since = f" from {say(grid[0], zone)} on" if len(grid) else ""
        # days that begin at midnight of another zone
        days = (
            ", or data.time_zone to the zone whose days these are"
            if zone not in ("", "integer") and step >= DAY
            else ""
        )
        raise ValueError(
            f"{path} {row(first)}: {say(stamps[first], zone)}{of} is none of the stamps of {step_of(freq, zone)!r} "
            f"rows{since} ({int(off.sum())} such); {apart}resample the file, or set data.freq{days}"
        )
    return grid, np.searchsorted(grid, stamps)
