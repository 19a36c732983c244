"""Units of the forecaster: values scaled by the train rows, and windows less what is their own."""

from torch import Tensor

from domains.timeseries.windows import Batch


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
