"""The clock of a file: its frequency, the grid of its stamps, and everything that is wrong with them."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

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


class Defects:
    """What is wrong with a file, gathered first and told at once.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[str, tuple[int, list[str]]] = {}  # kind: how many, and where the first ones are

    def _add(self, kind: str, rows: np.ndarray, place: Callable[..., str]) -> None:
        if len(rows):
            self.places[kind] = (len(rows), [place(*np.atleast_1d(row)) for row in rows[:SHOWN]])

    def order(
        self,
        stamps: np.ndarray,
        place: Callable[[int], str],
        codes: np.ndarray | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        """Note stamps int64 [R] that stand before their predecessor or repeat another; with `codes`, of each series."""

        def where(row: int) -> str:
            of = f" of {columns[codes[row]]!r}" if codes is not None else ""
            return f"{place(row)}: {pd.Timestamp(stamps[row])}{of}"

        back = np.diff(stamps) < 0
        if codes is not None:
            back &= np.diff(codes) == 0
        self._add("unsorted", np.flatnonzero(back) + 1, where)
        keys = pd.DataFrame({"stamp": stamps, "code": 0 if codes is None else codes})
        self._add("repeated", np.flatnonzero(keys.duplicated()), where)

    def holes(self, holes: np.ndarray, cell: Callable[[int, int], str]) -> None:
        """Note the cells that are True in `holes` [R, C]."""
        self._add("holes", np.argwhere(holes), cell)

    def gaps(self, grid: np.ndarray, at: np.ndarray, row: Callable[[int], str]) -> None:
        """Note where the rows, which stand at `at` int64 [R] of `grid`, leave moments of it out."""

        def where(after: int) -> str:
            stamp, before = pd.Timestamp(grid[at[after]]), pd.Timestamp(grid[at[after - 1]])
            return f"{row(after)}: {before} is followed by {stamp}"

        self._add("gaps", np.flatnonzero(np.diff(at) > 1) + 1, where)

    def report(self) -> str:
        """All that was noted, in one line; empty for nothing."""
        parts = []
        for kind, (count, places) in self.places.items():
            more = f", and {count - SHOWN} more" if count > SHOWN else ""
            parts.append(f"{count} {KINDS[kind][count > 1]} ({', '.join(places)}{more})")
        return "; ".join(parts)

    def refuse(self) -> None:
        """Raise a ValueError that names all that was noted, if anything was."""
        if self.places:
            cures = ", ".join(KINDS[kind][2] for kind in self.places)
            clock = {"repeated", "gaps"} & self.places.keys()
            hint = " (local time repeats an hour each autumn and lacks one each spring: write UTC)" if clock else ""
            raise ValueError(f"{self.path}: {self.report()}; {cures}{hint}, or set data.defects to fill or mask")


def usual_frequency(stamps: np.ndarray) -> str:
    """The commonest step between stamps int64 [R]."""
    return pd.tseries.frequencies.to_offset(pd.Timedelta(int(pd.Series(np.diff(stamps)).mode()[0]))).freqstr


def _inferred(index: pd.DatetimeIndex) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a string before pandas 4, with a warning from 3.1 on; then an offset
        found = pd.infer_freq(index)
    return getattr(found, "freqstr", found)


def infer_frequency(stamps: np.ndarray) -> str:
    """Pandas frequency of sorted stamps int64 [R], calendar steps (months, business days) included; gaps may occur."""
    index = pd.DatetimeIndex(stamps.astype("datetime64[ns]"))
    whole = _inferred(index)
    if whole is not None:
        return whole
    # a run of eight rows without a gap tells the frequency, business days by the weekend that it holds
    starts = np.unique(np.linspace(0, max(len(index) - 8, 0), 64).astype(int))
    runs = Counter(_inferred(index[start : start + 8]) for start in starts)
    runs.pop(None, None)
    return runs.most_common(1)[0][0] if runs else usual_frequency(stamps)


def grid_of(
    path: Path, stamps: np.ndarray, freq: str | None, row: Callable[[int], str]
) -> tuple[str, np.ndarray, np.ndarray]:
    """Frequency, every stamp from the first to the last by it, and the places int64 [R] of sorted `stamps` among them.

    Raises:
        ValueError: `freq` is none that pandas knows, or stamps lie between those of the grid.
    """
    try:
        offset = pd.tseries.frequencies.to_offset(freq or infer_frequency(stamps))
    except ValueError as err:
        raise ValueError(f"data.freq {freq!r} is no frequency; write 15min, h, D, W-SUN, ME, ... or null") from err
    first, last = pd.Timestamp(stamps[0]), pd.Timestamp(stamps[-1])
    try:
        moments = (last - first) / pd.Timedelta(offset)
    except (TypeError, ValueError):  # a calendar step has no one length, and none is shorter than a day
        moments = (last - first) / pd.Timedelta("1D")
    if moments > 100 * len(stamps) + 1000:
        raise ValueError(
            f"{path}: {len(stamps)} rows from {first} to {last} are nearly all gaps at {offset.freqstr!r}; "
            "set data.freq to the frequency of the rows"
        )
    grid = pd.date_range(first, last, freq=offset, unit="ns")
    at = grid.get_indexer(pd.DatetimeIndex(stamps.astype("datetime64[ns]")))
    if (at < 0).any():
        off = int((at < 0).argmax())
        raise ValueError(
            f"{path} {row(off)}: {pd.Timestamp(stamps[off])} is between the stamps of {offset.freqstr!r} rows from "
            f"{first} on ({int((at < 0).sum())} such); resample the file, or set data.freq"
        )
    return offset.freqstr, grid.asi8, at
