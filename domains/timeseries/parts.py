"""Which windows train, validate, test, and forecast the future: their first rows in every series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from domains.timeseries.windows import PARTS, refuse_empty, split_rows, starts_of

if TYPE_CHECKING:
    from domains.timeseries.data import TimeSeriesData

RECENT = 1024  # windows at most whose errors a forecast of the future learns its intervals from


def starts_by_part(data: TimeSeriesData, horizon: int, ahead: bool) -> dict[str, list[range]]:
    """First rows of the windows of each part, of each series, counted from its own first row.

    Args:
        data: says where the parts of a series end.
        horizon: rows that a window forecasts.
        ahead: the parts are `future`, the one window at the end of each series, and `recent`, those before it whose
            truth is known; else train, val and test.

    Raises:
        ValueError: a part has no window at all.
    """
    starts = _ahead(data) if ahead else _known(data, horizon)
    needed = ("future",) if ahead else PARTS[:2]
    source = str(data.file or data.name)
    if all(any(map(len, starts[name])) for name in needed):
        return starts
    if ahead:
        most = max(len(series.values) for series in data.content.series)
        raise ValueError(
            f"{source}: look_back {data.look_back} is longer than the series of {most} rows; bring a longer one"
        )
    longest = max((data.ends(series) for series in data.content.series), key=lambda ends: ends[2])
    refuse_empty(source, longest, data.look_back, horizon)
    return starts


def _ahead(data: TimeSeriesData) -> dict[str, list[range]]:
    starts: dict[str, list[range]] = {"recent": [], "future": []}
    for series in data.content.series:
        last = len(series.values) - data.look_back
        first = max(data.ends(series)[1] - data.look_back, last - data.horizon - RECENT + 1, 0)
        starts["future"].append(range(last, last + 1) if last >= 0 else range(0))
        starts["recent"].append(range(first, last - data.horizon + 1))
    return starts


def _known(data: TimeSeriesData, horizon: int) -> dict[str, list[range]]:
    starts: dict[str, list[range]] = {name: [] for name in PARTS}
    for i, series in enumerate(data.content.series):
        ends = data.ends(series) if data.fold is None else data.fold[i]
        if ends is None:  # too short for this fold of a backtest
            for name in PARTS:
                starts[name].append(range(0))
            continue
        if not data.panel:
            refuse_empty(str(data.file or data.name), ends, data.look_back, horizon)
        for name, part in split_rows(ends, data.look_back, horizon).items():
            every = data.every if name == "test" else 1
            starts[name].append(starts_of(part, data.look_back, horizon, every))
    return starts
