"""Both ends of the forecaster: windows to tokens, hidden states to a forecast."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection

from app.head import Head
from domains.timeseries.covariates import CovariateInputs
from domains.timeseries.data import TimeSeriesData
from domains.timeseries.einfft import EinFFT
from domains.timeseries.report import forecast_figure, forecast_table
from domains.timeseries.windows import Covariates
from memory import SwiGLU

# look-back [B, L, V], target [B, H, V] (NaN where unknown), origin stamp [B], and covariates where there are any
Batch = tuple[Tensor, Tensor, Tensor] | tuple[Tensor, Tensor, Tensor, Covariates]

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": F.smooth_l1_loss,
}


class NoMixing(nn.Module):
    """In place of channel mixing: adds nothing to the residual stream."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Zeros of the shape of `x`."""
        return torch.zeros_like(x)


MIXINGS: dict[str, Callable[[int], nn.Module]] = {"einfft": EinFFT, "swiglu": SwiGLU, "none": NoMixing}


class ForecastHead(Head):
    """SiMBA's shell for forecasting: each variable is a sequence of its own, cut into patches; flatten head.

    The scaler, the column names and the frequency travel in the checkpoint, which alone is enough to forecast. Answers,
    losses and metrics are in scaled units, as every published table is; pictures and tables in the file's own.

    Args:
        dim: width of the backbone.
        input_size: variables V.
        output_size: rows H to forecast.
        look_back: rows L of a window.
        patch: rows per token; 1 makes every row a token.
        stride: rows from one token to the next, at most `patch`; the last row is repeated to fill the last patch.
        instance_norm: take mean and spread of each window away before the model and give them back after it.
        channel_mixing: what follows the memory in a block, over features: `einfft` (SiMBA), `swiglu` or `none`.
        loss: `mse`, `mae` or `huber`.
        dropout: on tokens and on the flattened hidden states.
        past_size: covariates of the data known over the look-back alone.
        future_size: covariates and calendar marks of the data known over the horizon too.
    """

    monitor = "mse"

    def __init__(
        self,
        dim: int,
        input_size: int,
        output_size: int,
        look_back: int = 96,
        patch: int = 1,
        stride: int = 1,
        instance_norm: bool = True,
        channel_mixing: Literal["einfft", "swiglu", "none"] = "einfft",
        loss: Literal["mse", "mae", "huber"] = "mse",
        dropout: float = 0.0,
        past_size: int = 0,
        future_size: int = 0,
    ) -> None:
        super().__init__()
        if not 1 <= stride <= patch <= look_back:
            raise ValueError(f"head needs 1 <= stride <= patch <= look_back; got {stride}, {patch}, {look_back}")
        self.patch, self.stride, self.look_back = patch, stride, look_back
        self.instance_norm, self.criterion = instance_norm, LOSSES[loss]
        self.feed_forward = MIXINGS[channel_mixing]
        self.tokens = -(-look_back // stride)
        self.into = nn.Linear(patch, dim)
        self.position = nn.Parameter(0.02 * torch.randn(self.tokens, dim))
        self.out = nn.Linear(self.tokens * dim, output_size)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mean", torch.zeros(input_size))
        self.register_buffer("std", torch.ones(input_size))
        self.covariates: CovariateInputs | None = None
        if past_size or future_size:
            self.covariates = CovariateInputs(dim, input_size, past_size, future_size, patch, stride, self.tokens)
        self.columns: list[str] = []
        self.time_col, self.freq = "date", "h"

    def fit_to(self, data: TimeSeriesData) -> None:
        """Mean and population spread of each variable over the train rows, its name, and the frequency of the rows."""
        rows = data.train_values.double()  # NaN where nothing was measured
        constant = rows.nan_to_num(-torch.inf).amax(0) == rows.nan_to_num(torch.inf).amin(0)  # becomes zero, not NaN
        self.mean.copy_(rows.nanmean(0))
        self.std.copy_((rows - rows.nanmean(0)).square().nanmean(0).sqrt().masked_fill(constant, 1.0))
        if self.covariates is not None:
            self.covariates.fit(data.train_covariates)
        self.columns, self.freq, self.time_col = list(data.series.columns), data.series.freq, data.time_col

    def check(self, data: TimeSeriesData) -> None:
        """Refuse data whose variables or frequency are not those that the head was fitted to.

        Raises:
            ValueError: names the columns or frequencies that differ.
        """
        found = data.series.columns
        if found != self.columns:
            missing = [name for name in self.columns if name not in found]
            unknown = [name for name in found if name not in self.columns]
            what = f"missing {missing}, unknown {unknown}" if missing or unknown else f"order is {found}"
            raise ValueError(f"columns differ from the checkpoint's {self.columns}: {what}; rename or reorder them")
        if data.series.freq != self.freq:  # the forecast's stamps would be wrong
            raise ValueError(
                f"rows come every {data.series.freq!r}, the checkpoint's every {self.freq!r}; resample them"
            )

    def get_extra_state(self) -> dict[str, Any]:
        """What a forecast needs beside tensors, as plain values."""
        return {"columns": self.columns, "freq": self.freq, "time_col": self.time_col}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Names and frequency of a checkpoint."""
        self.columns, self.freq, self.time_col = state["columns"], state["freq"], state["time_col"]

    def embed(self, batch: Batch) -> tuple[Tensor, None]:
        """Tokens [B * V, tokens, dim] of the scaled look-back; no padding, so no mask."""
        x = self._scaled(batch[0])  # [B, L, V]
        if self.instance_norm:
            centre, spread = _statistics(x)
            x = (x - centre) / spread
        x = x.transpose(1, 2).flatten(0, 1)  # [B * V, L]
        missing = (self.tokens - 1) * self.stride + self.patch - self.look_back
        x = torch.cat([x, x[:, -1:].expand(-1, missing)], dim=1)
        tokens = self.into(x.unfold(1, self.patch, self.stride)) + self.position
        if self.covariates is not None:
            tokens = (tokens.unflatten(0, (len(batch[0]), -1)) + self.covariates.tokens(batch[3])).flatten(0, 1)
        return self.dropout(tokens), None

    def readout(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Scaled forecast [B, H, V] from hidden states [B * V, tokens, dim]."""
        x = self._scaled(batch[0])
        output = self.out(self.dropout(hidden.flatten(1))).float()  # [B * V, H]
        output = output.unflatten(0, (len(x), -1)).transpose(1, 2)  # [B, H, V]
        if self.covariates is not None:
            output = output + self.covariates.forecast(batch[3])
        if self.instance_norm:
            centre, spread = _statistics(x)
            output = output * spread + centre
        return output

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean over windows, horizon and variables, in scaled units; a target that is NaN counts for nothing."""
        truth = self._scaled(batch[1])
        known = truth.isfinite()
        loss = self.criterion(output.where(known, 0.0), truth.where(known, 0.0))
        return loss * (known.numel() / known.sum().clamp(min=1))

    def metrics(self) -> MetricCollection:
        """MSE and MAE as sums and counts: no batch size can change them."""
        return MetricCollection({"mse": MeanSquaredError(), "mae": MeanAbsoluteError()})

    def update(self, metrics: MetricCollection, output: Tensor, batch: Batch) -> None:
        """Count the windows of one batch, in scaled units; a target that is NaN counts for nothing."""
        truth = self._scaled(batch[1])
        known = truth.isfinite()
        metrics.update(output[known], truth[known])

    def pictures(self, output: Tensor, batch: Batch) -> dict[str, Figure]:
        """The first window's look-back, truth and forecast, for up to three variables."""
        return {"forecast": forecast_figure(batch[0], batch[1], self._restored(output), self.columns)}

    def table(self, output: Tensor, batch: Batch) -> DataFrame:
        """One row per series, origin and step, in the file's own units; see `forecast_table`."""
        return forecast_table(self._restored(output), batch[1], batch[2], self.columns, self.freq)

    def _scaled(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def _restored(self, x: Tensor) -> Tensor:
        return x * self.std + self.mean


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread [B, 1, V] of each window [B, L, V]; the spread of a constant window is small but not zero."""
    return x.mean(1, keepdim=True), (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
