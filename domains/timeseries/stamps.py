"""Time stamps of a file as instants, and what each reading of them refuses alike."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from app.reading import reading

CURE = "write it as 2024-01-31 23:00:00, or set data.time_format"


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


def refuse(path: Path, column: pd.Series, wrong: pd.Series, place: Callable[[int], str], why: str, cure: str) -> None:
    """Refuse a column in which some rows are wrong, naming the first of them and its place.

    Raises:
        ValueError: there is one.
    """
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        what = f"the time column {column.name!r}" if why == "is empty" else repr(column.iloc[row])
        remove = "" if wrong.all() else ", or remove the row"  # units under the headings, totals under the last row
        raise ValueError(f"{path} {place(row)}: {what} {why}; {cure}{remove}")


def whole(path: Path, wall: pd.DatetimeIndex, texts: pd.Series, place: Callable[[int], str]) -> np.ndarray:
    """Nanoseconds int64 of a wall clock, which must lie in the years that they can count."""
    outside = pd.Series((wall.year < 1678) | (wall.year > 2261))
    refuse(path, texts, outside, place, "is outside the years 1678 to 2261", "name the right column in data.time_col")
    with reading(path, "a column of time stamps", CURE):
        return wall.as_unit("ns").asi8
