"""The best linear map from look-back to horizon, in closed form: a baseline, and where our forecaster starts."""

import torch
from torch import Tensor

from domains.timeseries.windows import Batch, Windows

CELLS = 16384  # look-backs of single variables whose products are formed at once
RIDGES = (1e-6, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)  # in multiples of the mean diagonal of X'X


def centred(past: Tensor) -> tuple[Tensor, Tensor]:
    """Look-backs [B, L, V] less their mean, [B * V, L], and that mean [B, 1, V]."""
    mean = past.mean(1, keepdim=True)
    return (past - mean).mT.flatten(0, 1), mean


def window_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread [B, 1, V] of each window [B, L, V]; the spread of a constant window is small but not zero."""
    return x.mean(1, keepdim=True), (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()


def scaled(x: Tensor, batch: Batch, mean: Tensor, std: Tensor) -> Tensor:
    """Values [B, ..., V] of a batch in the units of losses and metrics, float64.

    Args:
        x: in the file's own units.
        batch: says which series each window is of.
        mean: of each variable, or series of a panel, float64 [V].
        std: likewise.
    """
    return (x - of_series(mean, batch)) / of_series(std, batch)


def of_series(x: Tensor, batch: Batch) -> Tensor:
    """What [V] says of the variables of a batch's windows: [V], or [B, 1, 1] in a panel."""
    return x if batch.series is None else x[batch.series][:, None, None]


def linear_map(train: Windows, validation: Windows, mean: Tensor, std: Tensor) -> Tensor:
    """One ridge-regression map [L, H], float64, for all variables, of scaled windows less the mean of their look-back.

    Its ridge is the one of `RIDGES` with the least squared error on validation; the longer the look-back, the larger it
    wants to be. Windows with an unknown target are left out.

    Args:
        train: windows that it is fitted to.
        validation: windows that choose the ridge.
        mean: of each variable or series, [V].
        std: likewise.
    """
    gram, moment, _ = _products(train, mean, std)
    unit = gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    seen, wanted, squares = _products(validation, mean, std)
    best = None
    least = torch.inf
    for ridge in RIDGES:
        weight = torch.linalg.solve(gram + ridge * unit, moment)
        error = squares - 2 * (weight * wanted).sum() + (weight * (seen @ weight)).sum()
        if best is None or error < least:
            best = weight
            least = error
    return best


def _products(windows: Windows, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """X'X [L, L], X'Y [L, H] and the sum of Y * Y, of look-backs X and targets Y less the look-back's mean."""
    device = windows.origins.device
    mean = mean.to(device).double()
    std = std.to(device).double()
    gram = torch.zeros(windows.look_back, windows.look_back, dtype=torch.float64, device=device)
    moment = gram.new_zeros(windows.look_back, windows.horizon)
    squares = gram.new_zeros(())
    width = windows.rows.values.shape[1]
    for index in torch.arange(len(windows)).split(max(CELLS // width, 1)):
        batch = windows[index]
        x, level = centred(scaled(batch.past, batch, mean, std))
        y = (scaled(batch.target, batch, mean, std) - level).mT.flatten(0, 1)
        known = y.isfinite().all(1)
        x = x[known]
        y = y[known]
        gram += x.T @ x
        moment += x.T @ y
        squares += y.square().sum()
    return gram, moment, squares
