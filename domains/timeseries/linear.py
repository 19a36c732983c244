"""The best linear map from look-back to horizon, in closed form: a baseline, and where our forecaster starts."""

from collections.abc import Iterator
from typing import NamedTuple

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


class Products(NamedTuple):
    """What least squares need to know of look-backs X and targets Y, both less the look-back's mean, float64.

    Args:
        gram: X'X [L, L].
        moment: X'Y [L, H].
        squares: sum of Y * Y, a scalar.

    Sums of each variable apart have one dimension before these.
    """

    gram: Tensor
    moment: Tensor
    squares: Tensor

    @classmethod
    def none(cls, windows: Windows, *apart: int) -> "Products":
        """Those of no windows like these, of so many variables apart."""
        gram = windows.origins.new_zeros(*apart, windows.look_back, windows.look_back, dtype=torch.float64)
        return cls(gram, gram.new_zeros(*apart, windows.look_back, windows.horizon), gram.new_zeros(apart))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Count look-backs [..., N, L] and targets [..., N, H] in."""
        self.gram.add_(x.mT @ x)
        self.moment.add_(x.mT @ y)
        self.squares.add_(y.square().sum((-2, -1)))


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
    return ridge_map(_products(train, mean, std), _products(validation, mean, std))[0]


def ridge_map(train: Products, validation: Products) -> tuple[Tensor, Tensor]:
    """The map [L, H] whose ridge validation prefers, and the sum of its squared errors there; where all look-backs are
    constant, as those of one row are, a map of zeros: the forecast is their mean.
    """
    size = train.gram.diagonal().mean().clamp(min=1e-30)
    unit = size * torch.eye(len(train.gram), dtype=train.gram.dtype, device=train.gram.device)
    maps = [torch.linalg.solve(train.gram + ridge * unit, train.moment) for ridge in RIDGES]
    errors = torch.stack([squared_error(validation, weight) for weight in maps])
    best = int(errors.argmin())
    return maps[best], errors[best]


def squared_error(sums: Products, weight: Tensor) -> Tensor:
    """Sum of the squared errors of a map [L, H] over the windows of the sums."""
    return sums.squares - 2 * (weight * sums.moment).sum() + (weight * (sums.gram @ weight)).sum()


def known_cells(windows: Windows, mean: Tensor, std: Tensor) -> Iterator[tuple[Tensor, Tensor, Batch, Tensor]]:
    """Windows of single variables whose target is known: look-backs [N, L] and targets [N, H], both scaled and less the
    look-back's mean; the batch that they are of, and which of its windows of single variables they are, bool [B * V].
    """
    device = windows.origins.device
    mean = mean.to(device).double()
    std = std.to(device).double()
    width = windows.rows.values.shape[1]
    for index in torch.arange(len(windows)).split(max(CELLS // width, 1)):
        batch = windows[index]
        x, level = centred(scaled(batch.past, batch, mean, std))
        y = (scaled(batch.target, batch, mean, std) - level).mT.flatten(0, 1)
        known = y.isfinite().all(1)
        yield x[known], y[known], batch, known


def _products(windows: Windows, mean: Tensor, std: Tensor) -> Products:
    sums = Products.none(windows)
    for x, y, _, _ in known_cells(windows, mean, std):
        sums.add(x, y)
    return sums
