"""The best linear map from look-back to horizon, in closed form: a floor for every forecaster, and a start for ours."""

import torch
from torch import Tensor

from domains.timeseries.windows import Batch, Windows

CELLS = 16384  # look-backs of single variables whose products are formed at once


def centred(past: Tensor) -> tuple[Tensor, Tensor]:
    """Look-backs [B, L, V] less their mean, [B * V, L], and that mean [B, 1, V]."""
    mean = past.mean(1, keepdim=True)
    return (past - mean).mT.flatten(0, 1), mean


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


def linear_map(windows: Windows, mean: Tensor, std: Tensor) -> Tensor:
    """One least-squares map [L, H], float64, for all variables, of scaled windows less the mean of their look-back.

    A ridge of 1e-6 of the mean diagonal keeps it defined; windows with an unknown target are left out.

    Args:
        windows: those of the train rows.
        mean: of each variable or series, [V].
        std: likewise.
    """
    gram, moment, device = 0.0, 0.0, windows.origins.device
    mean, std = mean.to(device).double(), std.to(device).double()
    width = windows.rows.values.shape[1]
    for index in torch.arange(len(windows)).split(max(CELLS // width, 1)):
        batch = windows[index]
        past, target = (scaled(part, batch, mean, std) for part in batch[:2])
        x, level = centred(past)
        y = (target - level).mT.flatten(0, 1)
        known = y.isfinite().all(1)
        gram, moment = gram + x[known].T @ x[known], moment + x[known].T @ y[known]
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=device)
    return torch.linalg.solve(gram + ridge, moment)
