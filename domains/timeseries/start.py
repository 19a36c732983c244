"""Where a forecaster that adds to the linear map begins: the map, and quantiles of its errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from domains.timeseries.linear import linear_map, window_statistics
from domains.timeseries.seasonal import seasonal_map
from domains.timeseries.windows import Windows, on_device

if TYPE_CHECKING:
    from domains.timeseries.data import TimeSeriesData
    from domains.timeseries.head import ForecastHead

CELLS = 2**22  # of the windows whose errors say where quantiles begin


@torch.no_grad()
def start_from_linear_map(head: ForecastHead, data: TimeSeriesData) -> None:
    """Give a fresh head the map that validation chooses, with it the course of a season where the head learns one, and
    where it forecasts quantiles those of the map's errors.

    Args:
        head: fitted to the scale of the data.
        data: after `setup`.
    """
    windows = data.windows["train"], data.windows["val"], head.mean, head.std
    if head.cycle is None:
        head.linear.copy_(linear_map(*windows))
    else:
        course, weight = seasonal_map(*windows, head.cycle.period, data.freq, head.instance_norm)
        head.cycle.course.copy_(course)
        head.linear.copy_(weight)
    if head.quantiles:
        _start_quantiles(head, data.windows["train"])


def _start_quantiles(head: ForecastHead, windows: Windows) -> None:
    """Let the bias of the last layer be the quantiles of the map's errors at each step, over some train windows."""
    cells = (head.look_back + head.horizon) * windows.rows.values.shape[1]
    some = max(min(len(windows), CELLS // cells), 1)
    batch = on_device(windows[torch.linspace(0, len(windows) - 1, some).long()], head.out.weight.device)
    truth = head.scaled(batch.target, batch)
    hidden = head.out.weight.new_zeros(truth.shape[0] * truth.shape[2], head.tokens, head.into.out_features)
    head.out.bias.zero_()
    error = truth - head.readout(hidden, batch)[..., 0]  # of the map alone: nothing is added to it yet
    if head.instance_norm:
        error = error / window_statistics(head.scaled(batch.past, batch))[1]
    sizes = error.transpose(0, 1).flatten(1)  # [H, B * V]
    head.out.bias.copy_(sizes.nanquantile(head.levels.to(sizes), 1).T.flatten())
