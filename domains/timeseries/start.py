"""Where a forecaster that adds to the linear map begins: the map, those of each variable, quantiles of its errors."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from domains.timeseries.linear import CELLS as LINES
from domains.timeseries.linear import Products, centred, linear_map, window_statistics
from domains.timeseries.seasonal import seasonal_map
from domains.timeseries.windows import Windows, on_device

if TYPE_CHECKING:
    from domains.timeseries.data import TimeSeriesData
    from domains.timeseries.head import ForecastHead

SHRINKAGES = (0.01, 0.1, 1.0, 10.0)  # of a variable's own map, in multiples of the mean diagonal of its X'X
CELLS = 2**22  # of the windows whose errors say where quantiles begin


@torch.no_grad()
def start_from_linear_map(head: ForecastHead, data: TimeSeriesData) -> None:
    """Give a fresh head the map that validation chooses, with it the course of a season and maps of each variable where
    the head has them, and where it forecasts quantiles those of the map's errors.

    Args:
        head: fitted to the scale of the data.
        data: after `setup`.
    """
    windows = data.windows["train"], data.windows["val"], head.mean, head.std
    if head.cycle is None:
        head.linear.copy_(linear_map(*windows))
    else:
        course, weight = seasonal_map(*windows, head.cycle.period, head.instance_norm)
        head.cycle.course.copy_(course)
        head.linear.copy_(weight)
    if head.own is not None:
        there = deepcopy(head).to(data.windows["train"].origins.device)
        head.own.copy_(own_maps(there, data.windows["train"], data.windows["val"]))
    if head.quantiles:
        _start_quantiles(head, data.windows["train"])


def own_maps(head: ForecastHead, train: Windows, validation: Windows) -> Tensor:
    """What a map of its own adds to each variable's forecasts, [V, L, H], float64: ridge regression of the errors that
    the head makes at its start. Validation chooses each variable's ridge; zero where all of them make it worse.
    """
    fitted, judged = (_errors_of_each(head, part) for part in (train, validation))
    unit = torch.eye(head.look_back, dtype=torch.float64, device=fitted.gram.device)
    unit = unit * fitted.gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp(min=1e-30)
    best = torch.zeros_like(fitted.moment)
    least = best.new_zeros(len(best))  # change of the squared errors on validation, by variable
    for ridge in SHRINKAGES:
        own = torch.linalg.solve(fitted.gram + ridge * unit, fitted.moment)
        change = (own * (judged.gram @ own - 2 * judged.moment)).sum((1, 2))
        better = change < least  # not so of NaN
        best[better] = own[better]
        least[better] = change[better]
    return best


def _errors_of_each(head: ForecastHead, windows: Windows) -> Products:
    """Products [V, ...] of what the map of the head sees of a window, times the spread, and of the head's errors."""
    width = windows.rows.values.shape[1]
    sums = Products.none(windows, width)
    for index in torch.arange(len(windows)).split(max(LINES // width, 1)):
        batch = windows[index]
        truth = head.scaled(batch.target, batch)
        error = truth - head.completed(truth.new_zeros(*truth.shape, 1), batch)[..., 0]  # [B, H, V]
        seen = centred(head.seen(batch))[0].double().unflatten(0, (len(index), width)).mT  # [B, L, V]
        if head.instance_norm:
            seen = seen * window_statistics(head.scaled(batch.past, batch))[1]
        known = error.isfinite().all(1, keepdim=True)
        x, y = (part.where(known, 0.0).permute(2, 0, 1) for part in (seen, error))  # [V, B, ...]
        sums.add(x, y)
    return sums


def _start_quantiles(head: ForecastHead, windows: Windows) -> None:
    """Let the bias of the last layer be the quantiles of the map's errors at each step, over some train windows."""
    cells = (head.look_back + head.horizon) * windows.rows.values.shape[1]
    some = max(min(len(windows), CELLS // cells), 1)
    batch = on_device(windows[torch.linspace(0, len(windows) - 1, some).long()], head.out.weight.device)
    truth = head.scaled(batch.target, batch)
    error = truth - head.completed(truth.new_zeros(*truth.shape, 1), batch)[..., 0]  # of the map alone
    if head.instance_norm:
        error = error / window_statistics(head.scaled(batch.past, batch))[1]
    sizes = error.transpose(0, 1).flatten(1)  # [H, B * V]
    head.out.bias.copy_(sizes.nanquantile(head.levels.to(sizes), 1).T.flatten())
