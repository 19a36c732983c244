"""Where a forecaster that adds to the linear map begins: the map, those of each variable, quantiles of its errors."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from domains.timeseries.linear import DECAYS, penalised
from domains.timeseries.nested import nested_map
from domains.timeseries.products import Products, products
from domains.timeseries.seasonal import fold, seasonal_map, without_course
from domains.timeseries.units import window_statistics
from domains.timeseries.windows import Windows, on_device

if TYPE_CHECKING:
    from domains.timeseries.data import TimeSeriesData
    from domains.timeseries.head import ForecastHead

SHRINKAGES = tuple(product(DECAYS, (0.03, 0.3, 3.0, 30.0)))  # penalties of a variable's own map
CELLS = 2**22  # of the windows whose errors say where quantiles begin


@torch.no_grad()
def start_from_linear_map(head: ForecastHead, data: TimeSeriesData) -> None:
    """Give a fresh head the map that validation chooses, with it the course of a season and maps of each variable where
    the head has them, and where it forecasts quantiles those of the map's errors.

    Args:
        head: fitted to the scale of the data.
        data: after `setup`.
    """
    assert head.linear is not None
    train, validation = data.windows["train"], data.windows["val"]
    units = head.mean, head.std
    if head.cycle is None:
        weight, _, _ = nested_map(products(train, *units), products(validation, *units))
        head.linear.copy_(weight)
    else:
        course, weight = seasonal_map(train, validation, *units, head.cycle.period, head.instance_norm)
        head.cycle.course.copy_(course)
        head.linear.copy_(weight)
    if head.own is not None:
        head.own.copy_(own_maps(head, train, validation))
    if head.quantiles:
        _start_quantiles(head, train)


def own_maps(head: ForecastHead, train: Windows, validation: Windows) -> Tensor:
    """What a map of its own adds to each variable's forecasts, [V, L, H], float64: ridge regression of the errors that
    the head makes at its start. Validation chooses each variable's penalty; zero where all of them make it worse.
    """
    fitted, judged = (_errors_of_each(head, part) for part in (train, validation))
    best = torch.zeros_like(fitted.moment)
    least = best.new_zeros(len(best))  # change of the squared errors on validation, by variable
    for penalty in SHRINKAGES:
        own = torch.linalg.solve(penalised(fitted.gram, penalty), fitted.moment)
        change = (own * (judged.gram @ own - 2 * judged.moment)).sum((1, 2))
        better = change < least  # not so of NaN
        best[better] = own[better]
        least[better] = change[better]
    return best


def _errors_of_each(head: ForecastHead, windows: Windows) -> Products:
    """Products [V, ...] of what the map of the head sees of a window, times the spread, and of the head's errors."""
    assert head.linear is not None
    units = windows, head.mean, head.std
    if head.cycle is None:
        sums = products(*units, apart=True)
    else:
        folded = fold(*units, head.cycle.period, head.instance_norm, apart=True)
        sums = without_course(folded, head.cycle.course.to(folded.weight))
    weight = head.linear.to(sums.gram)
    explained = sums.gram @ weight
    squares = sums.squares + (weight * (explained - 2 * sums.moment)).sum((-2, -1))
    return Products(sums.gram, sums.moment - explained, squares)


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
