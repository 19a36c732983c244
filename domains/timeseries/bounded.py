"""A head that says how sure it is: the half-widths of its intervals, their calibration, and their bounds."""

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.timeseries.completion import CompletedHead
from domains.timeseries.intervals import LEAST, Conformal, half_widths
from domains.timeseries.windows import Batch


class BoundedHead(CompletedHead):
    """A head with conformal intervals around its point forecast."""

    quantiles: list[float]
    intervals: list[float]
    conformal: Conformal | None
    growth: Tensor  # of the half-widths, [H, V, intervals]
    harder: Tensor  # see `beyond_validation`, [H, intervals]
    calibrates: bool

    def point(self, output: Tensor) -> Tensor:
        """The forecast [B, H, V] of an answer: itself, or the median of its quantiles."""
        return output[..., self.quantiles.index(0.5)] if self.quantiles else output

    def halves(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Half-widths below and above the point, [B, H, V, intervals], that calibration multiplies, in scaled units."""
        x = self.scaled(batch.past, batch)
        spread = (x.var(1, correction=0, keepdim=True) + LEAST**2).sqrt()
        return half_widths(self.point(output), spread, output, self.quantiles, self.intervals)

    def scores(self, output: Tensor, batch: Batch) -> Tensor:
        """How many half-widths the truth is away from the point, [B, H, V, intervals]; NaN where it is unknown."""
        below, above = self.halves(output, batch)
        missed = (self.scaled(batch.target, batch) - self.point(output))[..., None]
        return torch.where(missed < 0, -missed / below, missed / above)

    def interval(self, output: Tensor, batch: Batch, growth: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds [B, H, V, intervals] in scaled units; NaN before a calibration.

        Args:
            output: the answer.
            batch: what was asked.
            growth: factor of the half-widths, [B, H, V, intervals]; None for that of the last validation.
        """
        if growth is None:
            growth = self.growth if batch.series is None else self.growth[:, batch.series].transpose(0, 1)[:, :, None]
        below, above = self.halves(output, batch)
        more = max(output.shape[1] - self.horizon, 0)  # nobody calibrated what a forecast of forecasts is off by
        growth = F.pad(growth[..., : output.shape[1], :, :], (0, 0, 0, 0, 0, more), value=torch.nan)
        point = self.point(output)[..., None]
        lower = point - growth * below
        upper = point + growth * above
        if self.non_negative:
            lower = lower.maximum(self._zero(batch)[..., None])
        return lower.cummin(-1).values, upper.cummax(-1).values  # an interval of a higher level holds one of a lower

    def collect(self, output: Tensor, batch: Batch) -> None:
        """Note how far the truths of one validation batch are from their forecasts."""
        if self.conformal is not None and self.calibrates:
            self.conformal.update(self.scores(output, batch), batch.series)

    def calibrate(self) -> None:
        """Set the widths of the intervals by what was collected since the last time."""
        if self.conformal is not None and self.calibrates:
            self.growth.copy_(self.conformal.compute(len(self.mean), self.harder))
            self.conformal.reset()
