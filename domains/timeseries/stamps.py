"""One reading of time stamps: ISO 8601, days and months in either order, names of months, quarters, numbers.

What can be read in two ways is read in the one that gives a regular clock, and that is told; where both do, or neither,
the stamps are refused with the key that decides.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import NamedTuple
from zoneinfo import available_timezones

import numpy as np
import pandas as pd

from app.reading import reading
from domains.timeseries.clock import instants, regularity, zone_of
from domains.timeseries.months import bare, month_of

UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
OFFSET = r"(?:z|utc|gmt|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)"
MOMENT = re.compile(
    r"(?P<date>.*?)"
    r"(?:(?:T|\s+|,\s*|(?<=\d):)(?P<hour>\d{1,2})"
    r"(?:[:.h](?P<minute>\d{2})(?:[:.](?P<second>\d{2})(?:[.,](?P<part>\d+))?)?|(?=\s*[ap]\.?m))"
    rf"\s*(?P<half>[ap]\.?m\.?)?\s*(?P<zone>{OFFSET})?)?",
    re.IGNORECASE | re.ASCII,
)
ISO = re.compile(  # its group is the offset
    rf"(?:\d{{4}}-\d\d(?:-\d\d)?|\d{{8}}(?=T))(?:(?:T|\s+)\d\d(?::?\d\d(?::?\d\d(?:[.,]\d+)?)?)?\s*({OFFSET})?)?",
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
FIRST_ZONES = ("Europe/Berlin", "Europe/London", "America/New_York", "America/Chicago", "America/Los_Angeles")
CURE = "write it as 2024-01-31 23:00:00, or set data.time_format"


class Reading(NamedTuple):
    """What dates mean in one order of their parts.

    Args:
        days: datetime64 [R].
        short: whether their years are written with two digits.
    """

    days: pd.Series
    short: bool = False


@dataclass(frozen=True)
class Stamps:
    """The time column of a file.

    Args:
        at: int64 [R], nanoseconds: UTC where there is a zone, else the file's own clock.
        zone: see `Series`.
        said: how they were read, where that had to be found out, in words.
        taken: how the zone was found out, in words.
    """

    at: np.ndarray
    zone: str = ""
    said: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()


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
        _refuse(path, column, column.isna(), place, "is empty", "give every row its time")
        wall = pd.DatetimeIndex(column)
        zone, taken = _zone_of_frame(wall)
        wall = wall.tz_convert("UTC").tz_localize(None) if zone else wall
        stamps = _placed(path, _whole(path, wall, column, place), zone, time_zone, series, place)
        return Stamps(stamps.at, stamps.zone, taken if time_zone is None else ())
    counted = pd.api.types.is_float_dtype(kind) and time_format in (*UNITS, "integer")
    if (pd.api.types.is_float_dtype(kind) or pd.api.types.is_bool_dtype(kind)) and not counted:
        raise ValueError(f"{path} {place(0)}: {column.iloc[0]} is a number, not a time stamp; {CURE}")
    with reading(path, "a column of time stamps", CURE):
        text = column.astype("str").str.strip().mask(column.isna())
    _refuse(path, column, text.isna() | (text == ""), place, "is empty", "give every row its time")
    codes, unique = pd.factorize(text)
    texts = pd.Series(np.asarray(unique, object))
    first = pd.Series(codes).drop_duplicates().index.to_numpy()  # the row in which each text stands first

    def where(i: int) -> str:
        return place(int(first[i]))

    if time_format is not None:
        read = _by_format(path, texts, where, time_format)
    elif texts.str.fullmatch(r"[+-]?\d+").all():
        read = _numbers(path, texts, where)
    else:
        read = _iso(texts) or _by_parts(path, texts, where, day_first)
    stamps = _placed(path, read.at[codes], read.zone, time_zone, series, place)
    return Stamps(stamps.at, stamps.zone, read.said + (read.taken if time_zone is None else ()))


def _refuse(path: Path, column: pd.Series, wrong: pd.Series, place: Callable[[int], str], why: str, cure: str) -> None:
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        what = f"the time column {column.name!r}" if why == "is empty" else repr(column.iloc[row])
        remove = "" if wrong.all() else ", or remove the row"  # units under the headings, totals under the last row
        raise ValueError(f"{path} {place(row)}: {what} {why}; {cure}{remove}")


def _whole(path: Path, wall: pd.DatetimeIndex, texts: pd.Series, place: Callable[[int], str]) -> np.ndarray:
    """Nanoseconds int64 of a wall clock, which must lie in the years that they can count."""
    outside = pd.Series((wall.year < 1678) | (wall.year > 2261))
    _refuse(path, texts, outside, place, "is outside the years 1678 to 2261", "name the right column in data.time_col")
    with reading(path, "a column of time stamps", CURE):
        return wall.as_unit("ns").asi8


def _placed(
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
    placed = np.empty_like(at)
    every = [np.arange(len(at))] if series is None else pd.Series(series).groupby(series).indices.values()
    for rows in every:
        wall = pd.DatetimeIndex(at[rows].astype("datetime64[ns]"))
        if (wall == wall.normalize()).all():  # days, of which some may begin an hour late or twice
            placed[rows] = instants(wall, time_zone)
        else:
            placed[rows] = _told_by_order(path, wall, time_zone, lambda row, rows=rows: place(rows[row]))
    return Stamps(placed, time_zone)


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


def _by_format(path: Path, texts: pd.Series, where: Callable[[int], str], form: str) -> Stamps:
    if form in UNITS or form == "integer":
        counts = [_count(text, UNITS.get(form, 1)) for text in texts]
        whole = form == "integer"
        wrong = pd.Series([not count.is_finite() or (whole and count != count.to_integral_value()) for count in counts])
        kind = "integer" if whole else "number"
        _refuse(path, texts, wrong, where, f"is no {kind}, as data.time_format {form} wants", "set another format")
        wide = pd.Series([abs(count) >= 2**63 for count in counts])
        _refuse(path, texts, wide, where, "is too large", "set another data.time_format")
        return Stamps(np.array([int(count) for count in counts], np.int64), "integer" if whole else "UTC")
    if form == "mixed":  # a word of pandas
        raise ValueError(
            "data.time_format 'mixed' would guess the form of each stamp by itself; write one form, or null"
        )
    padded = texts.str.replace(r"(?<!\d)(\d)(?!\d)", r"0\1", regex=True)
    aware = "%z" in form.lower()
    with reading(path, "a column of time stamps", "set another data.time_format"):
        try:
            parsed = pd.to_datetime(padded, format=form, errors="coerce", utc=aware)
        except ValueError as err:
            raise ValueError(f"data.time_format {form!r}: {err}") from err
    _refuse(path, texts, parsed.isna(), where, f"is not written as data.time_format {form!r} says", "set another")
    offsets = texts.str.extract(rf"({OFFSET})$", flags=re.IGNORECASE, expand=False)
    told = aware and offsets.notna().all()
    zone, taken = _zone(parsed, offsets) if told else ("UTC" if aware else "", ())
    return Stamps(_whole(path, pd.DatetimeIndex(parsed).tz_localize(None), texts, where), zone, taken=taken)


def _count(text: str, unit: int) -> Decimal:
    """A number times its unit, exactly; NaN of anything else."""
    try:
        return Decimal(text) * unit
    except InvalidOperation:
        return Decimal("nan")


def _numbers(path: Path, texts: pd.Series, where: Callable[[int], str]) -> Stamps:
    """Days, months and years written without signs, or plain counts."""
    lengths = set(texts.str.len())
    for length, form, word in (
        (14, "%Y%m%d%H%M%S", "20240131230000"),
        (12, "%Y%m%d%H%M", "202401312300"),
        (8, "%Y%m%d", "20240131"),
        (6, "%Y%m", "202401"),
        (4, "%Y", "years"),
    ):
        if lengths == {length}:
            parsed = pd.to_datetime(texts, format=form, errors="coerce")
            if parsed.notna().all() and parsed.dt.year.between(1500 if length > 4 else 1678, 2261).all():
                said = f"times read as {word}"
                return Stamps(_whole(path, pd.DatetimeIndex(parsed), texts, where), "", (said,))
    for length, digits, cure in (
        (6, r"\d{4}(?:0[1-9]|[1-4]\d|5[0-3])", "if they are year and week, write them as 2024-W05"),
        (7, r"\d{4}(?:[0-2]\d\d|3[0-5]\d|36[0-6])", "if they are year and day, set data.time_format to '%Y%j'"),
    ):  # as counts they would go on past the end of a year
        if (
            lengths == {length}
            and texts.str.fullmatch(digits).all()
            and texts.str[:4].astype(int).between(1678, 2261).all()
        ):
            several = ", ".join(map(repr, texts[:3]))
            raise ValueError(f"{path} {where(0)}: {several} are times or plain counts; {cure}, else set it to integer")
    if max(lengths) > 8:
        example = "s, ms, us or ns (since 1970) or integer"
        raise ValueError(
            f"{path} {where(0)}: {texts[0]} is a number, not a time stamp; set data.time_format to {example}, or write "
            "it as 2024-01-31 23:00:00"
        )
    return Stamps(texts.astype(np.int64).to_numpy(), "integer", ("times are plain integers",))


def _iso(texts: pd.Series) -> Stamps | None:
    """Stamps of ISO 8601 in any mixture of its forms; None where some text is of another form."""
    if not texts.str.fullmatch(ISO).all():
        return None
    parsed = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=True)
    if parsed.isna().any():
        return None
    offsets = texts.str.extract(ISO, expand=False)
    if offsets.isna().any() and offsets.notna().any():
        return None
    zone, taken = ("", ()) if offsets.isna().all() else _zone(parsed, offsets)
    wall = pd.DatetimeIndex(parsed).tz_localize(None)
    if ((wall.year < 1678) | (wall.year > 2261)).any():
        return None
    return Stamps(wall.as_unit("ns").asi8, zone, taken=taken)


def _offset(text: str) -> str:
    """`+01:00` of any way to write it; UTC of Z."""
    if text.lower() in ("z", "utc", "gmt"):
        return "UTC"
    digits = text[1:].replace(":", "").ljust(4, "0")
    return "UTC" if digits == "0000" else f"{text[0]}{digits[:2]}:{digits[2:]}"


def _zone(moments: pd.Series, offsets: pd.Series) -> tuple[str, tuple[str, ...]]:
    """The zone of stamps (UTC) with these offsets: the offset itself, or a place that had the same ones."""
    each = offsets.map(_offset)
    different = list(dict.fromkeys(each))
    if len(different) == 1:
        return different[0], ()
    order = np.argsort(moments.to_numpy(), kind="stable")
    each = each.iloc[order].reset_index(drop=True)
    moments = moments.iloc[order].reset_index(drop=True)
    changes = np.flatnonzero((each != each.shift()).to_numpy())
    telling = np.unique(np.concatenate([changes, np.maximum(changes - 1, 0), [len(each) - 1]]))
    index = pd.DatetimeIndex(moments.iloc[telling])
    wanted = ["+00:00" if offset == "UTC" else offset for offset in each.iloc[telling]]
    for name in (*FIRST_ZONES, *_zones()):
        there = index.tz_convert(zone_of(name)).strftime("%z")
        if [f"{text[:3]}:{text[3:5]}" for text in there] == wanted:
            return name, (f"offsets {' and '.join(different)} taken for {name} (another: data.time_zone)",)
    return "UTC", (f"offsets {', '.join(different)} belong to no one zone: times are in UTC (another: data.time_zone)",)


def _zone_of_frame(index: pd.DatetimeIndex) -> tuple[str, tuple[str, ...]]:
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
        return _zone(index.tz_convert("UTC").to_series(), pd.Series(index.strftime("%z")))
    return name, ()


@cache
def _zones() -> tuple[str, ...]:
    return tuple(sorted(name for name in available_timezones() if "/" in name and not name.startswith("Etc/")))


def _by_parts(path: Path, texts: pd.Series, where: Callable[[int], str], day_first: bool | None) -> Stamps:
    """Stamps whose date is of several parts, in an order that all of them share."""
    matches = [MOMENT.fullmatch(text) for text in texts]
    times, offsets = _times(path, texts, matches, where)
    dates = [bare(match["date"] if match else text) for match, text in zip(matches, texts, strict=True)]
    special = [_special(text) for text in dates]
    if all(special):
        readings = {"": Reading(pd.to_datetime(pd.Series(special)))}
    else:
        readings = _readings(path, texts, dates, where, day_first)
    walls = {order: _whole(path, pd.DatetimeIndex(read.days + times), texts, where) for order, read in readings.items()}
    order, said = _regular(path, texts, walls, where)
    at = walls[order]
    if readings[order].short:
        years = sorted({readings[order].days.dt.year.min(), readings[order].days.dt.year.max()})
        said += (f"years of two digits read as {' to '.join(map(str, years))} (for others write all four)",)
    if offsets.isna().all():
        return Stamps(at, "", said)
    _refuse(path, texts, offsets.isna(), where, "has no offset, where others have one", "give all of them one")
    shift = [zone_of(_offset(text)).utcoffset(None) if _offset(text) != "UTC" else pd.Timedelta(0) for text in offsets]
    at = at - pd.to_timedelta(pd.Series(shift)).astype("timedelta64[ns]").astype(np.int64).to_numpy()
    zone, taken = _zone(pd.Series(pd.DatetimeIndex(at.astype("datetime64[ns]"), tz="UTC")), offsets)
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
    _refuse(path, texts, pd.Series(wrong), where, "has no such time of day", CURE)
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
    _refuse(path, texts, pd.Series([each != kind for each in kinds]), where, "is no time stamp", CURE)
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
            _refuse(path, texts, ~most, where, "is no day of the calendar", CURE)
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
