"""Forecasts for people: pictures and a table."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from torch import Tensor

from domains.timeseries.clock import grid_after, shown, zone_of
from domains.timeseries.series import Series
from domains.timeseries.windows import Batch

SHOWN = 3  # variables in a picture


def forecast_figure(
    past: Tensor, truth: Tensor, forecast: Tensor, columns: list[str], bands: dict[str, tuple[Tensor, Tensor]]
) -> Figure:
    """Look-back, truth, forecast and intervals of the first window of a batch, one panel per variable.

    Args:
        past: look-back [B, L, V] in the file's own units.
        truth: [B, H, V].
        forecast: [B, H, V].
        columns: V names.
        bands: lower and upper bound [B, H, V] of each interval, by its label; NaN is not drawn.
    """
    drawn = columns[:SHOWN]
    figure = Figure(figsize=(9, 2.2 * len(drawn)), layout="constrained")  # no pyplot: nothing to close, no display
    axes = np.atleast_1d(figure.subplots(len(drawn), sharex=True))
    before, after = range(-past.shape[1] + 1, 1), range(1, truth.shape[1] + 1)
    for i, (name, axis) in enumerate(zip(drawn, axes, strict=True)):
        axis.plot(before, _array(past)[0, :, i], color="grey", label="look-back")
        axis.plot(after, _array(truth)[0, :, i], color="black", label="truth")
        axis.plot(after, _array(forecast)[0, :, i], color="tab:orange", label="forecast")
        for label, (lower, upper) in bands.items():
            low = _array(lower)[0, :, i]
            high = _array(upper)[0, :, i]
            axis.fill_between(after, low, high, color="tab:orange", alpha=0.2, linewidth=0, label=label)
        axis.set_ylabel(name)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3 + len(bands))
    axes[-1].set_xlabel("rows from the origin")
    return figure


def future_figure(series: Sequence[Series], predictions: pd.DataFrame, history: int) -> Figure:
    """What came before, the forecasts from one origin and their intervals, one panel for each of up to three series.

    Args:
        series: those that are forecast.
        predictions: rows of `forecast_table`; of each series its first origin is drawn.
        history: rows before it that are drawn.
    """
    names = list(dict.fromkeys(predictions["series"]))[:SHOWN]
    figure = Figure(figsize=(9, 2.2 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), squeeze=False)[:, 0]
    for name, axis in zip(names, axes, strict=True):
        own = next(one for one in series if name in one.columns)
        table = predictions[predictions["series"] == name]
        table = table[table["origin"] == table["origin"].iloc[0]]
        known = int(np.searchsorted(own.stamps, instants_of(table["origin"])[0])) + 1
        rows = slice(max(known - history, 0), known)
        axis.plot(
            shown(own.stamps[rows], own.zone), own.truth[rows, own.columns.index(name)], color="grey", label="known"
        )
        axis.plot(table["stamp"], table["prediction"], color="tab:orange", label="forecast")
        if table["truth"].notna().any():
            axis.plot(table["stamp"], table["truth"], color="black", label="truth")
        for label, (lower, upper) in _bands(table).items():
            axis.fill_between(table["stamp"], lower, upper, color="tab:orange", alpha=0.2, linewidth=0, label=label)
        axis.set_ylabel(name)
        if own.zone != "integer":
            zone = zone_of(own.zone) if own.zone else None
            locator = AutoDateLocator(zone, minticks=3, maxticks=8)  # five at least do not fit into four days of hours
            axis.xaxis.set_major_locator(locator)
            axis.xaxis.set_major_formatter(ConciseDateFormatter(locator, zone))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))
    return figure


def _bands(table: pd.DataFrame) -> dict[str, tuple[pd.Series, pd.Series]]:
    """Lower and upper bounds of every interval, and of the outermost quantiles, by their labels."""
    bands = {}
    for lower in table.filter(regex="^lower_"):
        level = lower.removeprefix("lower_")
        bands[f"{level} %"] = table[lower], table[f"upper_{level}"]
    quantiles = list(table.filter(regex=r"^q0\."))
    if len(quantiles) > 1:
        bands[f"{quantiles[0]} to {quantiles[-1]}"] = table[quantiles[0]], table[quantiles[-1]]
    return {label: (low.astype(float), high.astype(float)) for label, (low, high) in bands.items() if low.notna().any()}


def instants_of(stamps: pd.Series) -> np.ndarray:
    """Stamps int64 [N] of a column of `forecast_table`."""
    if pd.api.types.is_integer_dtype(stamps):
        return stamps.to_numpy(np.int64)
    index = pd.DatetimeIndex(stamps)
    return (index if index.tz is None else index.tz_convert("UTC").tz_localize(None)).as_unit("ns").asi8


def forecast_table(
    forecast: Tensor, batch: Batch, columns: list[str], freq: str, zone: str, more: dict[str, Tensor]
) -> pd.DataFrame:
    """Rows of series, origin, step, stamp, prediction, what `more` holds, and truth (NaN past the end of the data).

    Args:
        forecast: [B, H, V] in the file's own units.
        batch: what was forecast.
        columns: names of the variables, or of the series of a panel.
        freq: of the rows.
        zone: of the stamps.
        more: further columns, {name: [B, H, V]}.
    """
    count, horizon, variables = forecast.shape
    origins = batch.origins.cpu().numpy()
    unique, places = np.unique(origins, return_inverse=True)  # the series of a panel share most of theirs
    stamps = np.stack([grid_after(int(origin), freq, horizon, zone) for origin in unique])[places]
    names = np.array(columns, dtype=object)
    names = names[None] if batch.series is None else names[batch.series.cpu().numpy()][:, None]
    shape = (count, variables, horizon)
    return pd.DataFrame(
        {
            "series": np.broadcast_to(names[:, :, None], shape).ravel(),
            "origin": shown(np.broadcast_to(origins[:, None, None], shape).ravel(), zone),
            "step": np.broadcast_to(np.arange(1, horizon + 1), shape).ravel(),
            "stamp": shown(np.broadcast_to(stamps[:, None, :], shape).ravel(), zone),
            **{
                name: _array(values).transpose(0, 2, 1).ravel()
                for name, values in {"prediction": forecast, **more, "truth": batch.target}.items()
            },
        }
    )


def _array(x: Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy()
