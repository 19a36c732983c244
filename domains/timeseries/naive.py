"""The forecasts that need no model: the last value, and the last season, repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from domains.timeseries.units import scaled

if TYPE_CHECKING:
    from domains.timeseries.data import TimeSeriesData

SEASONAL = "seasonal naive"


def naive_forecasts(data: TimeSeriesData, index: Tensor) -> dict[str, Tensor]:
    """`naive` and `seasonal naive` forecasts of some test windows, in the file's own units, float64 [B, H, V].

    Step h of a season of m rows takes row t + h - m ceil(h / m) (Hyndman and Athanasopoulos, fpp3, section 5.2), which
    may lie before the look-back. The seasonal one is left out where there is no season, or where a window has less than
    one behind it in its series.

    Args:
        data: after `setup`.
        index: which of its test windows, int64 [B].
    """
    windows = data.windows["test"]
    season = data.season
    batch = windows[index]
    forecasts = {"naive": batch.past[:, -1:].expand_as(batch.target)}
    steps = torch.arange(1, windows.horizon + 1, device=batch.past.device)
    known = windows.starts[index.to(windows.starts.device)] + windows.look_back  # rows known at each origin
    rows = known[:, None] - 1 + steps - season * -(-steps // season)
    first = torch.zeros_like(known)
    if batch.series is not None:
        lengths = torch.tensor([0, *(len(series.values) for series in data.content.series)])
        first = lengths.cumsum(0).to(known.device)[batch.series]
    if season > 1 and (rows >= first[:, None]).all():
        forecasts[SEASONAL] = windows.rows.values[rows]
    return forecasts


def naive_scores(data: TimeSeriesData) -> dict[str, dict[str, float]]:
    """Errors of the naive forecasts over every test window, as `test` gives those of a model.

    Returns:
        by forecast: `mse` and `mae` in scaled units, `mae_file` and `rmse_file` in those of the file.
    """
    windows = data.windows["test"]
    mean, std = (each.to(windows.starts.device) for each in data.scale())
    sums: dict[str, Tensor] = {}
    parts = torch.arange(len(windows)).split(data.batch_size)
    for index in parts:
        batch = windows[index]
        known = batch.target.isfinite()
        for name, forecast in naive_forecasts(data, index).items():
            error = (forecast - batch.target)[known]
            unit = (scaled(forecast, batch, mean, std) - scaled(batch.target, batch, mean, std))[known]
            four = [unit.square().sum(), unit.abs().sum(), error.abs().sum(), error.square().sum()]
            counted = torch.stack([*four, known.sum()])
            sums.setdefault(name, torch.zeros_like(counted)).add_(counted)
    every = sums["naive"][-1]
    scores = {}
    for name, (*four, count) in ((name, each.unbind()) for name, each in sums.items()):
        if count == every:  # of all windows, or comparable with nothing
            mse, mae, mae_file, mse_file = ((each / count).item() for each in four)
            label = f"{name} ({data.season} rows)" if name == SEASONAL else name
            scores[label] = {"mse": mse, "mae": mae, "mae_file": mae_file, "rmse_file": mse_file**0.5}
    return scores
