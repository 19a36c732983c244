"""Calendar marks: what a stamp says about hour, day and season, as numbers that need no scaling."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from domains.timeseries.clock import local

Mark = Literal["minute", "hour", "weekday", "day", "yearday"]

CYCLES: dict[str, Callable[[pd.DatetimeIndex], np.ndarray]] = {  # place in the cycle, from 0 up to 1
    "minute": lambda t: t.minute / 60,
    "hour": lambda t: (t.hour + t.minute / 60) / 24,
    "weekday": lambda t: t.day_of_week / 7,
    "day": lambda t: (t.day - 1) / t.days_in_month,
    "yearday": lambda t: (t.day_of_year - 1) / (365 + t.is_leap_year),
}


def calendar_marks(stamps: np.ndarray, marks: Sequence[Mark], zone: str = "") -> np.ndarray:
    """Float32 [T, 2 * len(marks)] of stamps int64 [T]: sine and cosine of each cycle, so that its end meets its start.

    Marks are of the wall clock of the stamps' zone.

    Raises:
        ValueError: the file counts integers, which have no calendar.
    """
    if marks and zone == "integer":
        raise ValueError(f"data.marks {list(marks)} need a calendar, but times are plain integers; drop them")
    times = local(stamps, zone)
    angles = 2 * np.pi * np.array([CYCLES[mark](times) for mark in marks]).reshape(len(marks), len(times))  # [M, T]
    return np.concatenate([np.sin(angles), np.cos(angles)]).T.astype(np.float32)
