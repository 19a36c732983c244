"""The best linear map from look-back to horizon, in closed form: a baseline, and where our forecaster starts."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from domains.timeseries.products import Products, products
from domains.timeseries.windows import Windows

Penalty = tuple[float, float]  # how far back a row is to the power of the first, times the second

DECAYS = (0.0, 2.0)
RIDGES = (1e-6, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
PENALTIES: tuple[Penalty, ...] = tuple(product(DECAYS, RIDGES))


def linear_map(train: Windows, validation: Windows, mean: Tensor, std: Tensor) -> Tensor:
    """One ridge-regression map [L, H], float64, for all variables, of scaled windows less the mean of their look-back.

    Its ridge and the decay of that are those with the least squared error on validation. Windows with an unknown
    target are left out.

    Args:
        train: windows that it is fitted to.
        validation: windows that choose.
        mean: of each variable or series, [V].
        std: likewise.
    """
    return ridge_map(products(train, mean, std), products(validation, mean, std))[0]


def penalised(gram: Tensor, penalty: Penalty) -> Tensor:
    """X'X [..., L, L] and a ridge on its diagonal, in multiples of the mean of that: the same for every row of a
    look-back, or the more the longer a row is before the forecast.

    What lies far back says less, so that its weights may be held closer to zero, as the Minnesota prior does (Litterman
    1986, doi 10.2307/1391384): a long look-back then need not lose to a short one.
    """
    decay, ridge = penalty
    lag = torch.arange(gram.shape[-1], 0, -1, dtype=gram.dtype, device=gram.device).pow(decay)
    size = gram.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).clamp(min=1e-30)
    held = gram.clone()
    held.diagonal(dim1=-2, dim2=-1).add_(ridge * size * lag / lag.mean())
    return held


def ridge_map(
    train: Products, validation: Products, penalties: Sequence[Penalty] = PENALTIES
) -> tuple[Tensor, Tensor, Penalty]:
    """The map [L, H] whose penalty validation prefers, the sum of its squared errors there, and the penalty; where all
    look-backs are constant, as those of one row are, a map of zeros: the forecast is their mean.

    A penalty too small to make the sums positive definite, but for rounding, is passed over.
    """
    best = torch.zeros_like(train.moment), torch.full_like(validation.squares, torch.inf), penalties[-1]
    for penalty in penalties:
        factor, fault = torch.linalg.cholesky_ex(penalised(train.gram, penalty))
        if fault:
            continue
        weight = torch.cholesky_solve(train.moment, factor)
        error = squared_error(validation, weight)
        if error < best[1]:
            best = weight, error, penalty
    return best


def squared_error(sums: Products, weight: Tensor) -> Tensor:
    """Sum of the squared errors of a map [L, H] over the windows of the sums."""
    return sums.squares - 2 * (weight * sums.moment).sum() + (weight * (sums.gram @ weight)).sum()
