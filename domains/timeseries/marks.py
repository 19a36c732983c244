"""Calendar marks: what a stamp says about hour, day and season, as numbers that need no scaling."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd

Mark = Literal["minute", "hour", "weekday", "day", "yearday"]

CYCLES: dict[str, Callable[[pd.DatetimeIndex], np.ndarray]] = {  # place in the cycle, from 0 up to 1
    "minute": lambda t: t.minute / 60,
    "hour": lambda t: (t.hour + t.minute / 60) / 24,
    "weekday": lambda t: t.day_of_week / 7,
    "day": lambda t: (t.day - 1) / t.days_in_month,
    "yearday": lambda t: (t.day_of_year - 1) / (365 + t.is_leap_year),
}


def calendar_marks(stamps: np.ndarray, marks: Sequence[Mark]) -> np.ndarray:
    """Float32 [T, 2 * len(marks)] of stamps int64 [T]: sine and cosine of each cycle, so that its end meets its start.

    Marks are of the file's own clock, UTC where it gives UTC offsets.
    """
    times = pd.DatetimeIndex(stamps.astype("datetime64[ns]"))
    angles = 2 * np.pi * np.array([CYCLES[mark](times) for mark in marks]).reshape(len(marks), len(times))  # [M, T]
    return np.concatenate([np.sin(angles), np.cos(angles)]).T.astype(np.float32)
