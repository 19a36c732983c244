"""Stamps of ISO 8601."""

import re

import pandas as pd

from domains.timeseries.stamps import Stamps
from domains.timeseries.zones import OFFSET, zone_of_offsets

ISO = re.compile(  # its group is the offset
    rf"(?:\d{{4}}-\d\d(?:-\d\d)?|\d{{8}}(?=T))(?:(?:T|\s+)\d\d(?::?\d\d(?::?\d\d(?:[.,]\d+)?)?)?\s*({OFFSET})?)?",
    re.IGNORECASE | re.ASCII,
)


def iso(texts: pd.Series) -> Stamps | None:
    """Stamps of ISO 8601 in any mixture of its forms; None where some text is of another form."""
    if not texts.str.fullmatch(ISO).all():
        return None
    parsed = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=True)
    if parsed.isna().any():
        return None
    offsets = texts.str.extract(ISO, expand=False)
    if offsets.isna().any() and offsets.notna().any():
        return None
    zone, taken = ("", ()) if offsets.isna().all() else zone_of_offsets(parsed, offsets)
    wall = pd.DatetimeIndex(parsed).tz_localize(None)
    if ((wall.year < 1678) | (wall.year > 2261)).any():
        return None
    return Stamps(wall.as_unit("ns").asi8, zone, taken=taken)
