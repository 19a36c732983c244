"""What was understood of a file, in one block before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from domains.timeseries.clock import grid_after, say, step_of

if TYPE_CHECKING:
    from domains.timeseries.data import TimeSeriesData
    from domains.timeseries.series import Series

SHOWN = 6  # names in a list


def understood(data: TimeSeriesData) -> str:
    """Series, clock, parts, covariates, and what was found out, filled or left out.

    Args:
        data: of a file of your own, after `setup`.
    """
    all_series = data.content.series
    first = min(series.stamps[0] for series in all_series)
    last = max(series.stamps[-1] for series in all_series)
    lengths = sorted(len(series.stamps) for series in all_series)
    rows = f"{lengths[0]}" if lengths[0] == lengths[-1] else f"{lengths[0]} to {lengths[-1]}"
    kind = "series, each on its own" if data.panel else "variables"
    lines = {
        "targets": f"{len(data.columns)} {kind}: {_some(data.columns)}",
        "rows": f"{rows}, every {step_of(data.freq, data.zone)}, {say(first, data.zone)} to {say(last, data.zone)}",
        "zone": data.zone if data.zone != "integer" else "",
        "parts": _parts(data),
        "windows": f"look-back {data.look_back}, horizon {data.horizon}, "
        + ", ".join(f"{len(windows)} {name}" for name, windows in data.windows.items()),
        "past covariates": _some(data.keys.past_covariates),
        "known beforehand": _some([*data.content.future_names, *data.marks]),
        "found out": "; ".join(data.content.said),
        "mended": f"{data.series.repairs} ({data.keys.defects})" if data.series.repairs else "",
        "of their own": ended(data),
    }
    width = max(map(len, lines))
    return "\n".join([f"{data.file}", *(f"  {name:{width}}  {text}" for name, text in lines.items() if text)])


def _some(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(" ".join(name.split()) for name in names[:SHOWN]) + more  # a heading may be of two lines


def _parts(data: TimeSeriesData) -> str:
    """Rows of each part; of a panel, those of its series together."""
    ends = [data.ends(series) for series in data.content.series]
    train, val, test = (sum(max(part, 0) for part in column) for column in zip(*map(_lengths, ends), strict=True))
    text = f"{train} train, {val} validation, {test} test" + (" (all series together)" if data.panel else "")
    return text + ("; validation repeats the end of train: its score is too good" if data.val_rows == 0 else "")


def _lengths(ends: tuple[int, int, int]) -> tuple[int, int, int]:
    return ends[0], ends[1] - ends[0], ends[2] - ends[1]


def ended(data: TimeSeriesData) -> str:
    """Series of a panel that end a row or more before the others, and so have an origin of their own, or that are too
    short for one.

    Empty where there is none.
    """
    every = data.content.series
    last = max(int(series.stamps[-1]) for series in every)
    short = [series.columns[0] for series in every if len(series.stamps) < data.look_back]
    early = [
        f"{series.columns[0]} at {say(series.stamps[-1], series.zone)}"
        for series in every
        if _misses_a_row(series, last) and series.columns[0] not in short
    ]
    end = "ends early and is" if len(early) == 1 else "end early and are"
    parts = [f"{len(early)} series {end} forecast from there: {_some(early)}"] if early else []
    if short:
        are = "is" if len(short) == 1 else "are"
        parts.append(f"{len(short)} {are} shorter than the look-back of {data.look_back} and left out: {_some(short)}")
    return "; ".join(parts)


def _misses_a_row(series: Series, last: int) -> bool:
    end = int(series.stamps[-1])
    return end < last and grid_after(end, series.freq, 1, series.zone)[0] <= last
