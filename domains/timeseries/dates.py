"""Stamps whose day is of several parts: in either order, with names of months, by quarter or by week."""

import re
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from domains.timeseries.clock import regularity, zone_of
from domains.timeseries.months import bare, month_of
from domains.timeseries.stamps import CURE, Stamps, refuse, whole
from domains.timeseries.zones import OFFSET, offset_of, zone_of_offsets

MOMENT = re.compile(
    r"(?P<date>.*?)"
    r"(?:(?:T|\s+|,\s*|(?<=\d):)(?P<hour>\d{1,2})"
    r"(?:[:.h](?P<minute>\d{2})(?:[:.](?P<second>\d{2})(?:[.,](?P<part>\d+))?)?|(?=\s*[ap]\.?m))"
    rf"\s*(?P<half>[ap]\.?m\.?)?\s*(?P<zone>{OFFSET})?)?",
    re.IGNORECASE | re.ASCII,
)
ORDERS = {  # what the parts of a date may be, by whether each is a number (N) or a name (A)
    "NNN": ("dmy", "mdy", "ymd"),
    "NAN": ("dmy", "ymd"),
    "ANN": ("mdy",),
    "AN": ("my",),
    "NA": ("ym",),
    "NN": ("ym", "my"),
}
WORDS = {"d": "day", "m": "month", "y": "year"}


class Reading(NamedTuple):
    """What dates mean in one order of their parts.

    Args:
        days: datetime64 [R].
        short: whether their years are written with two digits.
    """

    days: pd.Series
    short: bool = False


def by_parts(path: Path, texts: pd.Series, where: Callable[[int], str], day_first: bool | None) -> Stamps:
    """Stamps whose date is of several parts, in an order that all of them share."""
    matches = [MOMENT.fullmatch(text) for text in texts]
    times, offsets = _times(path, texts, matches, where)
    dates = [bare(match["date"] if match else text) for match, text in zip(matches, texts, strict=True)]
    special = [_special(text) for text in dates]
    if all(special):
        readings = {"": Reading(pd.to_datetime(pd.Series(special)))}
    else:
        readings = _readings(path, texts, dates, where, day_first)
    walls = {order: whole(path, pd.DatetimeIndex(read.days + times), texts, where) for order, read in readings.items()}
    order, said = _regular(path, texts, walls, where)
    at = walls[order]
    if readings[order].short:
        years = sorted({readings[order].days.dt.year.min(), readings[order].days.dt.year.max()})
        said += (f"years of two digits read as {' to '.join(map(str, years))} (for others write all four)",)
    if offsets.isna().all():
        return Stamps(at, "", said)
    refuse(path, texts, offsets.isna(), where, "has no offset, where others have one", "give all of them one")
    named = [offset_of(text) for text in offsets]
    shift = [zone_of(name).utcoffset(None) if name != "UTC" else pd.Timedelta(0) for name in named]
    at = at - pd.to_timedelta(pd.Series(shift)).astype("timedelta64[ns]").astype(np.int64).to_numpy()
    zone, taken = zone_of_offsets(pd.Series(pd.DatetimeIndex(at.astype("datetime64[ns]"), tz="UTC")), offsets)
    return Stamps(at, zone, said, taken)


def _times(
    path: Path, texts: pd.Series, matches: list[re.Match | None], where: Callable[[int], str]
) -> tuple[pd.Series, pd.Series]:
    """Time of day, and the offset from UTC or NaN, of each text."""
    seconds = []
    offsets = []
    wrong = []
    for match in matches:
        hour, minute, second = (int(match[name] or 0) if match else 0 for name in ("hour", "minute", "second"))
        half = (match["half"] or "").lower().replace(".", "") if match else ""
        wrong.append(hour > (12 if half else 24) or minute > 59 or second > 60)
        hour = hour % 12 + 12 * (half == "pm") if half else hour
        part = float(f"0.{match['part']}") if match and match["part"] else 0.0
        seconds.append(3600 * hour + 60 * minute + second + part)
        offsets.append(match["zone"] if match else None)
    refuse(path, texts, pd.Series(wrong), where, "has no such time of day", CURE)
    return pd.to_timedelta(pd.Series(seconds), unit="s"), pd.Series(offsets, dtype=object)


def _special(text: str) -> date | None:
    """The first day of 2024Q1, Q1 2024, 2024M05, 2024-W05 or 2024-W05-1, or the day of 20240131 or 2024-031; None of
    anything else.
    """
    if match := re.fullmatch(r"(\d{4})[ :/-]?Q([1-4])|(?:Q([1-4])|([1-4])Q)[ :/-]?(\d{4})", text, re.IGNORECASE):
        return date(int(match[1] or match[5]), 3 * int(match[2] or match[3] or match[4]) - 2, 1)
    try:
        if match := re.fullmatch(r"(\d{4})-?W(\d{2}|\d(?=-|$))(?:-?([1-7]))?", text):
            return date.fromisocalendar(int(match[1]), int(match[2]), int(match[3] or 1))
        if match := re.fullmatch(r"(\d{4})(\d{2})(\d{2})", text):
            return date(*(int(part) for part in match.groups()))
        if match := re.fullmatch(r"(\d{4})[ :-]?M(\d{1,2})", text, re.IGNORECASE):
            return date(int(match[1]), int(match[2]), 1)
        if match := re.fullmatch(r"(\d{4})-(\d{3})", text):
            return datetime.strptime(text, "%Y-%j").date()
    except ValueError:
        return None
    return None


def _kind(part: str) -> str:
    """Whether a part of a date is a number (N), the name of a month (A), or neither (?)."""
    if re.fullmatch(r"[0-9]{1,2}|[0-9]{4}", part):
        return "N"
    return "A" if month_of(part) else "?"


def _readings(
    path: Path, texts: pd.Series, dates: list[str], where: Callable[[int], str], day_first: bool | None
) -> dict[str, Reading]:
    """Days by the order of their parts, of every order in which all dates can be read."""
    parts = [re.split(r"\s*[/.,\-]\s*|\s+|(?<=\d)(?=[^\W\d])|(?<=[^\W\d])(?=\d)", text) for text in dates]
    mixed = [len(set(re.findall(r"[/.\-]", text))) > 1 for text in dates]
    kinds = ["?" if two else "".join(map(_kind, each)) for two, each in zip(mixed, parts, strict=True)]
    known = Counter(kind for kind in kinds if kind in ORDERS)
    kind = known.most_common(1)[0][0] if known else None
    refuse(path, texts, pd.Series([each != kind for each in kinds]), where, "is no time stamp", CURE)
    numbers = np.array([[int(p) if _kind(p) == "N" else month_of(p) for p in each] for each in parts])
    lengths = np.array([[len(p) for p in each] for each in parts])
    readings = {}
    fitting = []  # which rows each order can read
    for order in ORDERS[kind]:
        if day_first is not None and kind == "NNN" and order != "ymd" and (order == "dmy") != day_first:
            continue
        columns = {name: numbers[:, i] for i, name in enumerate(order)}
        digits = lengths[:, order.index("y")]
        short = (digits == 2).all()
        # two numbers could be a day of no year just as well: only a year in full tells them apart
        if not (digits == 4).all() and not (short and kind != "NN"):
            continue
        years = columns["y"] + _century(columns["y"]) * short
        ymd = {"year": years, "month": columns["m"], "day": columns.get("d", np.ones_like(years))}
        try:
            days = pd.to_datetime(pd.DataFrame(ymd), errors="coerce")
        except (ValueError, OverflowError):
            continue
        fitting.append(days.notna())
        if days.notna().all():
            readings[order] = Reading(days, bool(short))
    if not readings:
        several = ", ".join(map(repr, texts[:3]))
        if kind == "NN" and (lengths <= 2).all() and ((numbers[:, 1] >= 1) & (numbers[:, 1] <= 12)).all():
            raise ValueError(
                f"{path} {where(0)}: {several} name no year in full; if they are year and month, such as "
                f"{2000 + numbers[0, 0]}-{numbers[0, 1]:02} for the first, set data.time_format to '%y-%m'"
            )
        most = max(fitting, key=lambda fits: fits.sum(), default=None)
        if most is not None and most.mean() > 0.5:
            refuse(path, texts, ~most, where, "is no day of the calendar", CURE)
        raise ValueError(f"{path} {where(0)}: {several} fit no order of day, month and year in all rows; {CURE}")
    return readings


def _century(years: np.ndarray) -> np.ndarray:
    """What to add to years of two digits: 69 to 99 are of the last century, and 0 to 68 too where that joins them."""
    usual = np.where(years < 69, 2000, 1900)
    return usual if np.ptp(years + usual) <= np.ptp(years) else np.full_like(years, 1900)


def _regular(
    path: Path, texts: pd.Series, walls: dict[str, np.ndarray], where: Callable[[int], str]
) -> tuple[str, tuple[str, ...]]:
    """The one order that gives a regular clock, and what to say about it.

    Raises:
        ValueError: none or several do.
    """
    first = next(iter(walls))
    if all((at == walls[first]).all() for at in walls.values()):  # one reading, or days that are months as well
        return first, ()
    scores = {order: regularity(np.unique(at)) for order, at in walls.items()}
    best = max(scores, key=scores.get)
    others = [score for order, score in scores.items() if order != best]
    if scores[best] < 0.8 or max(others) > scores[best] / 2:
        ways = "; ".join(
            f"{' '.join(WORDS[letter] for letter in order)} gives "
            + ", ".join(str(stamp) for stamp in pd.DatetimeIndex(at[:3].astype("datetime64[ns]")))
            for order, at in walls.items()
        )
        raise ValueError(
            f"{path} {where(0)}: {', '.join(map(repr, texts[:3]))} can be read in {len(walls)} ways ({ways}); set "
            "data.day_first to true or false, or data.time_format"
        )
    return best, (f"{texts[0]} read as {' '.join(WORDS[letter] for letter in best)}",)
