"""The linear map and the course of a season together, in closed form: what a forecaster with both starts from.

A window of one variable v whose origin has phase p is, less its mean, x [L] and y [H]; s is its spread, c the course of
the variable in units of spreads. With a row of the course for every row of the window, less the mean of those of the
look-back, both parts of the forecast y = s c_ahead + W (x - s c_past) are least squares: W for a given c, c for a given
W. They are solved in turn, on sums over the windows of a phase, so that the windows are read once.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.timeseries.cycle import cycle_step
from domains.timeseries.linear import Products, known_cells, ridge_map
from domains.timeseries.windows import Windows

SHRINKAGES = (0.01, 0.1, 1.0)  # of the course, in multiples of the mean diagonal of its own normal equations
TURNS = 4


class Folded(NamedTuple):
    """Sums over the windows of a part, [P, V, ...] over those of a phase and variable.

    Args:
        whole: over all windows.
        weight: of the squared spread, [P, V].
        past: of look-back times spread, [P, V, L].
        ahead: of target times spread, [P, V, H].
    """

    whole: Products
    weight: Tensor
    past: Tensor
    ahead: Tensor


class Places(NamedTuple):
    """Which phases the rows of a window show whose origin has phase p, less the mean of those of its look-back.

    Args:
        past: [P, L, P].
        ahead: [P, H, P].
    """

    past: Tensor
    ahead: Tensor


def seasonal_map(
    train: Windows, validation: Windows, mean: Tensor, std: Tensor, period: int, freq: str, spreads: bool
) -> tuple[Tensor, Tensor]:
    """The course of a season [P, V] and the linear map [L, H] beside it, float64.

    Ridge and shrinkage are those with the least squared error on validation; where every course makes it worse, the
    course is zero and the map is that of `linear_map`. Windows with an unknown target are left out.

    Args:
        train: windows that both are fitted to.
        validation: windows that choose.
        mean: of each variable or series, [V].
        std: likewise.
        period: rows P of the season.
        freq: of the rows.
        spreads: whether the course is in units of each window's spread, or in those of the scaler.
    """
    fitted, judged = (fold(part, mean, std, period, freq, spreads) for part in (train, validation))
    places = places_of(period, train.look_back, train.horizon, fitted.weight)
    alone, error = ridge_map(fitted.whole, judged.whole)
    found = [(error, torch.zeros_like(fitted.weight), alone)]
    for shrinkage in SHRINKAGES:
        weight = alone
        for _ in range(TURNS):
            course = course_beside(fitted, weight, places, shrinkage)
            weight, error = ridge_map(without_course(fitted, course, places), without_course(judged, course, places))
            found.append((error, course, weight))
    _, course, weight = min(found, key=lambda one: one[0])
    return course, weight


def fold(windows: Windows, mean: Tensor, std: Tensor, period: int, freq: str, spreads: bool) -> Folded:
    """The sums of a part."""
    device = windows.origins.device
    variables = len(mean)
    sizes = windows.look_back, windows.horizon
    gram = torch.zeros(windows.look_back, windows.look_back, dtype=torch.float64, device=device)
    moment = gram.new_zeros(sizes)
    squares = gram.new_zeros(())
    weight = gram.new_zeros(period * variables)
    past, ahead = (gram.new_zeros(period * variables, size) for size in sizes)
    for x, y, batch, known in known_cells(windows, mean, std):
        phase = (batch.origins // cycle_step(freq) % period)[:, None]
        of = torch.arange(variables, device=device) if batch.series is None else batch.series[:, None]
        place = (phase * variables + of).flatten()[known]
        spread = (x.square().mean(1, keepdim=True) + 1e-5).sqrt() if spreads else torch.ones_like(x[:, :1])
        gram += x.T @ x
        moment += x.T @ y
        squares += y.square().sum()
        weight.index_add_(0, place, spread[:, 0].square())
        past.index_add_(0, place, x * spread)
        ahead.index_add_(0, place, y * spread)
    folded = (sums.unflatten(0, (period, variables)) for sums in (weight, past, ahead))
    return Folded(Products(gram, moment, squares), *folded)


def places_of(period: int, look_back: int, horizon: int, like: Tensor) -> Places:
    """The places of every phase, of the dtype and device of `like`."""
    phase = torch.arange(period, device=like.device)[:, None]
    rows = torch.arange(1 - look_back, horizon + 1, device=like.device)
    shown = F.one_hot((phase + rows) % period, period).to(like)
    shown = shown - shown[:, :look_back].mean(1, keepdim=True)
    return Places(shown[:, :look_back], shown[:, look_back:])


def without_course(sums: Folded, course: Tensor, places: Places) -> Products:
    """The sums over all windows once a course [P, V] is taken away from look-backs and targets."""
    past, ahead = ((shown @ course).mT.flatten(0, 1) for shown in places)  # [P * V, L], [P * V, H]
    weight = sums.weight.flatten()[:, None]
    seen, wanted = sums.past.flatten(0, 1), sums.ahead.flatten(0, 1)
    crossed = past.T @ seen
    return Products(
        sums.whole.gram - crossed - crossed.T + past.T @ (weight * past),
        sums.whole.moment - past.T @ wanted - seen.T @ ahead + past.T @ (weight * ahead),
        sums.whole.squares - 2 * (ahead * wanted).sum() + (weight * ahead.square()).sum(),
    )


def course_beside(sums: Folded, weight: Tensor, places: Places, shrinkage: float) -> Tensor:
    """The course [P, V] that leaves the least squared errors beside a map [L, H]; its mean is zero."""
    shown = places.ahead - weight.T @ places.past  # [P, H, P]: what a course adds to the forecasts of each phase
    left = sums.ahead - sums.past @ weight  # [P, V, H]
    normal = torch.einsum("pv,pqr->vqr", sums.weight, shown.mT @ shown)
    wanted = torch.einsum("pvh,phq->vq", left, shown)
    size = normal.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp(min=torch.finfo(normal.dtype).tiny)
    unit = torch.eye(normal.shape[-1], dtype=normal.dtype, device=normal.device)
    course = torch.linalg.solve(normal + shrinkage * size * unit, wanted).T
    return course - course.mean(0)
