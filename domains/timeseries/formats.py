"""Stamps in a format that is named, and those that are written in digits alone."""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
import pandas as pd

from app.reading import reading
from domains.timeseries.stamps import Stamps, refuse, whole
from domains.timeseries.zones import OFFSET, zone_of_offsets

UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def by_format(path: Path, texts: pd.Series, where: Callable[[int], str], form: str) -> Stamps:
    """Stamps in one format.

    Args:
        path: of the file, for errors.
        texts: the stamps, each once.
        where: what the place of one is called in the file.
        form: as `data.time_format` says: one of UNITS, `integer`, or as of `strptime`.

    Raises:
        ValueError: one is not in it; names it.
    """
    if form in UNITS or form == "integer":
        counts = [_count(text, UNITS.get(form, 1)) for text in texts]
        counted = form == "integer"
        wrong = pd.Series([not each.is_finite() or (counted and each != each.to_integral_value()) for each in counts])
        kind = "integer" if counted else "number"
        refuse(path, texts, wrong, where, f"is no {kind}, as data.time_format {form} wants", "set another format")
        wide = pd.Series([abs(count) >= 2**63 for count in counts])
        refuse(path, texts, wide, where, "is too large", "set another data.time_format")
        return Stamps(np.array([int(count) for count in counts], np.int64), "integer" if counted else "UTC")
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
    refuse(path, texts, parsed.isna(), where, f"is not written as data.time_format {form!r} says", "set another")
    offsets = texts.str.extract(rf"({OFFSET})$", flags=re.IGNORECASE, expand=False)
    told = aware and offsets.notna().all()
    zone, taken = zone_of_offsets(parsed, offsets) if told else ("UTC" if aware else "", ())
    return Stamps(whole(path, pd.DatetimeIndex(parsed).tz_localize(None), texts, where), zone, taken=taken)


def _count(text: str, unit: int) -> Decimal:
    """A number times its unit, exactly; NaN of anything else."""
    try:
        return Decimal(text) * unit
    except InvalidOperation:
        return Decimal("nan")


def numbers(path: Path, texts: pd.Series, where: Callable[[int], str]) -> Stamps:
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
                return Stamps(whole(path, pd.DatetimeIndex(parsed), texts, where), "", (said,))
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
