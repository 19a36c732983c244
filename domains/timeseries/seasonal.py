"""The linear map and the course of a season together, in closed form: what a forecaster with both starts from.

A window of one variable v whose origin has phase p is, less its mean, x [L] and y [H]; s is its spread, c the course of
the variable in units of spreads. With a row of the course for every row of the window, less the mean of those of the
look-back, both parts of the forecast y = s c_ahead + W (x - s c_past) are least squares: W for a given c, c for a given
W. They are solved in turn, on sums over the windows of a phase, so that the windows are read once.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from domains.timeseries.linear import RIDGES
from domains.timeseries.nested import nested_map
from domains.timeseries.products import Products, consecutive, known_cells, products, scaled_rows
from domains.timeseries.windows import Windows

SHRINKAGES = (0.01, 0.1, 1.0)  # of the course, in multiples of the mean diagonal of its own normal equations
TURNS = 2


class Folded(NamedTuple):
    """Sums over the windows of a part, [P, V, ...] over those of a phase and variable.

    Args:
        whole: over all windows, of all variables together or of each apart.
        weight: of the squared spread, [P, V].
        past: of look-back times spread, [P, V, L].
        ahead: of target times spread, [P, V, H].
    """

    whole: Products
    weight: Tensor
    past: Tensor
    ahead: Tensor


def seasonal_map(
    train: Windows, validation: Windows, mean: Tensor, std: Tensor, period: int, spreads: bool
) -> tuple[Tensor, Tensor]:
    """The course of a season [P, V] and the linear map [L, H] beside it, float64.

    Ridge and shrinkage are those with the least squared error on validation; where every course makes it worse, the
    course is zero and the map is that of `nested_map`. Windows with an unknown target are left out.

    Args:
        train: windows that both are fitted to.
        validation: windows that choose.
        mean: of each variable or series, [V].
        std: likewise.
        period: rows P of the season.
        spreads: whether the course is in units of each window's spread, or in those of the scaler.
    """
    fitted, judged = (fold(part, mean, std, period, spreads) for part in (train, validation))
    alone, error, (decay, ridge) = nested_map(fitted.whole, judged.whole)
    place = RIDGES.index(ridge)
    # A course changes little of what the map beside it wants.
    near = [(decay, other) for other in RIDGES[max(place - 1, 0) : place + 2]]
    found = [(error, torch.zeros_like(fitted.weight), alone)]
    for shrinkage in SHRINKAGES:
        weight = alone
        for _ in range(TURNS):
            course = course_beside(fitted, weight, shrinkage)
            weight, error, _ = nested_map(without_course(fitted, course), without_course(judged, course), near)
            found.append((error, course, weight))
    _, course, weight = min(found, key=lambda one: one[0])
    return course, weight


def fold(windows: Windows, mean: Tensor, std: Tensor, period: int, spreads: bool, apart: bool = False) -> Folded:
    """The sums of a part; those over all phases of all variables together, or of each apart."""
    whole = products(windows, mean, std, apart)
    if consecutive(windows):
        return Folded(whole, *_sliding(windows, mean, std, period, spreads))
    device = windows.origins.device
    variables = len(mean)
    sizes = windows.look_back, windows.horizon
    weight = whole.gram.new_zeros(period * variables)
    past, ahead = (weight.new_zeros(period * variables, size) for size in sizes)
    for x, y, batch, known in known_cells(windows, mean, std):
        phase = (cast(Tensor, batch.counts) % period)[:, None]  # those that are cut from rows have them
        of = torch.arange(variables, device=device) if batch.series is None else batch.series[:, None]
        place = (phase * variables + of).flatten()[known]
        x, y = x[known], y[known]
        spread = (x.square().mean(1, keepdim=True) + 1e-5).sqrt() if spreads else torch.ones_like(x[:, :1])
        weight.index_add_(0, place, spread[:, 0].square())
        past.index_add_(0, place, x * spread)
        ahead.index_add_(0, place, y * spread)
    folded = (sums.unflatten(0, (period, variables)) for sums in (weight, past, ahead))
    return Folded(whole, *folded)


def _sliding(windows: Windows, mean: Tensor, std: Tensor, period: int, spreads: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, past and ahead of windows that follow each other, none of which is spelt out."""
    rows = scaled_rows(windows, mean, std)
    count = len(windows)
    seen = rows.unfold(1, windows.look_back, 1)[:, :count]
    level = seen.mean(-1)  # [V, N]
    spread = (seen.var(-1, correction=0) + 1e-5).sqrt() if spreads else torch.ones_like(level)
    phase = windows.counts % period

    def by_phase(values: Tensor) -> Tensor:
        return values.new_zeros(len(values), period).index_add_(1, phase, values)

    steps = range(windows.look_back + windows.horizon)
    sums = torch.stack([by_phase(spread * (rows[:, step : step + count] - level)) for step in steps], 2)
    past, ahead = sums.transpose(0, 1).split((windows.look_back, windows.horizon), 2)
    return by_phase(spread.square()).T.contiguous(), past.contiguous(), ahead.contiguous()


def shown(course: Tensor, phase: Tensor, look_back: int, horizon: int) -> tuple[Tensor, Tensor]:
    """A course [P, ...] at the rows of windows with origins of phases [N], less its mean over those of the look-back:
    [N, L, ...] and [N, H, ...].
    """
    rows = torch.arange(1 - look_back, horizon + 1, device=course.device)
    values = course[(phase[:, None] + rows) % len(course)]
    values = values - values[:, :look_back].mean(1, keepdim=True)
    return values[:, :look_back], values[:, look_back:]


def without_course(sums: Folded, course: Tensor) -> Products:
    """The sums over all windows once a course [P, V] is taken away from look-backs and targets."""
    phase = torch.arange(len(course), device=course.device)
    shape = sums.past.shape[-1], sums.ahead.shape[-1]
    shows = [values.mT for values in shown(course, phase, *shape)]
    parts = [part.transpose(0, 1) for part in (*shows, sums.past, sums.ahead, sums.weight[..., None])]  # [V, P, ...]
    if sums.whole.gram.dim() == 2:
        parts = [part.flatten(0, 1) for part in parts]
    past, ahead, seen, wanted, weight = parts
    crossed = past.mT @ seen
    return Products(
        sums.whole.gram - crossed - crossed.mT + past.mT @ (weight * past),
        sums.whole.moment - past.mT @ wanted - seen.mT @ ahead + past.mT @ (weight * ahead),
        sums.whole.squares - 2 * (ahead * wanted).sum((-2, -1)) + (weight * ahead.square()).sum((-2, -1)),
    )


def course_beside(sums: Folded, weight: Tensor, shrinkage: float) -> Tensor:
    """The course [P, V] that leaves the least squared errors beside a map [L, H]; its mean is zero.

    What a course adds to the forecasts of a phase is what it adds to those of phase 0, turned. The normal equations are
    therefore convolutions over phases: nothing of P * P * P is made, so that a season may be the minutes of a day.
    Variables share nothing, and are solved for one by one.
    """
    period = len(sums.weight)
    unit = torch.eye(period, dtype=weight.dtype, device=weight.device)
    place = torch.arange(period, device=weight.device)
    (past,), (ahead,) = shown(unit, place[:1], *weight.shape)  # [L, P], [H, P]
    adds = ahead - weight.T @ past  # [H, P]: to the forecasts of phase 0
    later = (place + place[:, None]) % period
    turn = (place - place[:, None]) % period  # [i, j]: from i to j
    pairs = torch.fft.rfft((adds.T @ adds).gather(1, later), dim=0)  # over i, of places i and i + j
    courses = []
    for scale, left in zip(sums.weight.T, (sums.ahead - sums.past @ weight).unbind(1), strict=True):
        normal = torch.fft.irfft(torch.fft.rfft(scale)[:, None] * pairs, period, dim=0).gather(1, turn)
        wanted = (left @ adds).gather(1, turn).sum(0)
        size = normal.diagonal().mean().clamp(min=torch.finfo(normal.dtype).tiny)
        courses.append(torch.linalg.solve(normal + shrinkage * size * unit, wanted))
    course = torch.stack(courses, 1)
    return course - course.mean(0)
