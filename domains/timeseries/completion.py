"""What completes a forecast beside the model: units, the window's level, the linear maps, covariates and the season."""

import torch
from torch import Tensor, nn

from app.head import Head
from domains.timeseries.covariates import CovariateInputs
from domains.timeseries.cycle import CycleTable
from domains.timeseries.units import centred, of_series, scaled, window_statistics
from domains.timeseries.windows import Batch


class CompletedHead(Head):
    """A head whose forecast is what the model adds to a start in closed form."""

    look_back: int
    horizon: int
    instance_norm: bool
    non_negative: bool
    into: nn.Linear
    mean: Tensor  # of each variable or series, float64 [V], and its spread
    std: Tensor
    linear: Tensor | None  # [L, H]
    own: Tensor | None  # [V, L, H]
    cycle: CycleTable | None
    covariates: CovariateInputs | None

    def completed(self, output: Tensor, batch: Batch) -> Tensor:
        """What the model adds [B, H, V, ...], and all that a scaled forecast is beside it."""
        x = self.scaled(batch.past, batch)
        if self.linear is not None:
            with torch.autocast(x.device.type, enabled=False):
                past, level = centred(self.seen(batch))
                mapped = (past @ self.linear).unflatten(0, (len(x), -1))  # [B, V, H]
                if self.own is not None:
                    mapped = mapped + torch.einsum("bvl,vlh->bvh", past.unflatten(0, (len(x), -1)), self.own)
                output = output + (mapped.mT + level)[..., None]
        if self.covariates is not None:
            output = output + self.covariates.forecast(batch.covariates)[..., None]
        if self.cycle is not None:
            rows = range(1, self.horizon + 1)
            output = output + self.cycle(batch.counts, rows, batch.series)[..., None]
        if self.instance_norm:
            centre, spread = window_statistics(x)
            output = output * spread[..., None] + centre[..., None]
        return output

    def seen(self, batch: Batch) -> Tensor:
        """What the model sees of the look-back, float32 [B, L, V]: scaled, less the window's level and the season."""
        x = self.scaled(batch.past, batch)
        if self.instance_norm:
            centre, spread = window_statistics(x)
            x = (x - centre) / spread
        x = x.to(self.into.weight.dtype)
        if self.cycle is not None:
            x = x - self.cycle(batch.counts, range(1 - self.look_back, 1), batch.series)
        return x

    def scaled(self, x: Tensor, batch: Batch) -> Tensor:
        """Values [B, ..., V] of a batch, in the file's own units, in those of losses and metrics, float64."""
        return scaled(x, batch, self.mean, self.std)

    def restored(self, x: Tensor, batch: Batch, more: int = 0) -> Tensor:
        """Scaled values [B, H, V, ...] in the file's own units; `more` dimensions follow the variables."""
        mean, std = (of_series(each, batch)[(..., *[None] * more)] for each in (self.mean, self.std))
        x = x * std + mean
        return x.clamp(min=0) if self.non_negative else x  # scaled zeros come back as zeros only nearly

    def _zero(self, batch: Batch) -> Tensor:
        """Zero in scaled units, [B, 1, V]."""
        return self.scaled(torch.zeros_like(batch.past[:, :1]), batch)
