"""Forecasts for people: a picture and a table."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from domains.timeseries.clock import grid_after, shown
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
            low, high = _array(lower)[0, :, i], _array(upper)[0, :, i]
            axis.fill_between(after, low, high, color="tab:orange", alpha=0.2, linewidth=0, label=label)
        axis.set_ylabel(name)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3 + len(bands))
    axes[-1].set_xlabel("rows from the origin")
    return figure


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
