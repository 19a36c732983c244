"""Both ends of the forecaster: windows to tokens, hidden states to a forecast."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning import Callback
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError, Metric, MetricCollection

from domains.timeseries.agreement import refuse_negative, refuse_other, will_calibrate
from domains.timeseries.bounded import BoundedHead
from domains.timeseries.covariates import CovariateInputs
from domains.timeseries.cycle import CycleTable, refuse_calendar
from domains.timeseries.data import TimeSeriesData
from domains.timeseries.drawing import DrawErrors
from domains.timeseries.einfft import EinFFT, NoMixing
from domains.timeseries.harder import beyond_validation
from domains.timeseries.intervals import (
    Conformal,
    Coverage,
    check_levels,
    crps,
    percent,
    pinball,
)
from domains.timeseries.report import forecast_figure, forecast_table
from domains.timeseries.rolling import roll
from domains.timeseries.start import start_from_linear_map
from domains.timeseries.tracked import Tracked
from domains.timeseries.windows import Batch
from memory import SwiGLU
from memory.bounds import check_bounds

LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": F.smooth_l1_loss,
}


MIXINGS: dict[str, Callable[[int], nn.Module]] = {"einfft": EinFFT, "swiglu": SwiGLU, "none": NoMixing}


class ForecastHead(BoundedHead):
    """SiMBA's shell for forecasting: each variable is a sequence of its own, cut into patches; flatten head.

    The scaler, the column names, the frequency and the widths of intervals travel in the checkpoint, which alone is
    enough to forecast. Answers, losses and metrics are in scaled units, as every published table is; pictures and
    tables in the file's own. An answer is [B, H, V], or [B, H, V, Q] with quantiles, whose median is the forecast.
    Levels are taken away and given back in float64, so that a meter at 6.8e9 keeps its last digit; the model between
    computes in float32.

    Args:
        dim: width of the backbone.
        input_size: variables V, or series of a panel.
        output_size: rows H to forecast.
        look_back: rows L of a window.
        patch: rows per token; 1 makes every row a token; None takes a sixth of the look-back, at most 16.
        stride: rows from one token to the next, at most `patch`; the last row is repeated to fill the last patch; None
            takes half a patch.
        instance_norm: take mean and spread of each window away before the model and give them back after it.
        channel_mixing: what follows the memory in a block, over features: `einfft` (SiMBA), `swiglu` or `none`.
        loss: `mse`, `mae` or `huber`; `quantiles` put the pinball loss in its place.
        dropout: on tokens and on the flattened hidden states.
        past_size: covariates of the data known over the look-back alone.
        future_size: covariates and calendar marks of the data known over the horizon too.
        quantiles: levels to forecast, 0.5 among them, e.g. 0.1, 0.5, 0.9; none forecasts the point alone.
        intervals: share of truths that each conformal interval is to hold, calibrated at every validation; `predict`
            and `test` go on adapting them to the errors of the forecasts whose truth is known by then.
        cycle: rows of a season whose course is learned for each variable (see `CycleTable`); 0 learns none.
        linear: add the closed-form linear map of the train windows (see `nested_map`), which stays as it is; the model
            then forecasts what that leaves over, at the start nothing. With `cycle`, map and course are solved for
            together and the course is learned on from there (see `seasonal_map`). The start is validated before the
            first step, so that it is the best checkpoint where training makes nothing better of it.
        own_maps: with `linear`, add a map of its own for each variable, shrunk towards none by as much as validation
            wants for it (see `own_maps`); it stays as it is, too. They are numbers by variables, look-back and horizon,
            and take thirteen times their memory while they are solved for: not for hundreds of long series.
        panel: the data are a panel; its series share what covariates do.
        non_negative: the series cannot fall below zero, and so no forecast, quantile or interval does; data that do are
            refused. Training is not affected.
    """

    monitor = "mse"

    def __init__(
        self,
        dim: int,
        input_size: int,
        output_size: int,
        look_back: int = 96,
        patch: int | None = 1,
        stride: int | None = 1,
        instance_norm: bool = True,
        channel_mixing: Literal["einfft", "swiglu", "none"] = "einfft",
        loss: Literal["mse", "mae", "huber"] = "mse",
        dropout: float = 0.0,
        past_size: int = 0,
        future_size: int = 0,
        quantiles: tuple[float, ...] = (),
        intervals: tuple[float, ...] = (0.9,),
        cycle: int = 0,
        linear: bool = False,
        own_maps: bool = False,
        panel: bool = False,
        non_negative: bool = False,
    ) -> None:
        super().__init__()
        patch = max(min(look_back // 6, 16), 1) if patch is None else patch
        stride = max(patch // 2, 1) if stride is None else stride
        if not 1 <= stride <= patch <= look_back:
            raise ValueError(f"head needs 1 <= stride <= patch <= look_back; got {stride}, {patch}, {look_back}")
        check_levels(quantiles, intervals)
        check_bounds("model.head", {"dropout": dropout}, {"dropout": (0, 1)})
        self.patch = patch
        self.stride = stride
        self.look_back = look_back
        self.horizon = output_size
        self.instance_norm = instance_norm
        self.non_negative = non_negative
        self.criterion = LOSSES[loss]
        self.feed_forward = MIXINGS[channel_mixing]
        self.tokens = -(-look_back // stride)
        self.into = nn.Linear(patch, dim)
        self.position = nn.Parameter(0.02 * torch.randn(self.tokens, dim))
        self.out = nn.Linear(self.tokens * dim, output_size * max(len(quantiles), 1))
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mean", torch.zeros(input_size, dtype=torch.float64))
        self.register_buffer("std", torch.ones(input_size, dtype=torch.float64))
        self.covariates: CovariateInputs | None = None
        if past_size or future_size:
            own = 1 if panel else input_size
            self.covariates = CovariateInputs(dim, own, past_size, future_size, patch, stride, self.tokens)
        self.quantiles = list(quantiles)
        self.intervals = list(intervals)
        if quantiles:
            self.monitor = "crps"  # the median's squared error says nothing of the others
        self.register_buffer("levels", torch.tensor(self.quantiles), persistent=False)
        self.conformal = Conformal(intervals) if intervals else None
        # NaN, and so are the intervals, until a validation has calibrated them
        self.register_buffer("growth", torch.full((output_size, input_size, len(intervals)), torch.nan))
        self.register_buffer("harder", torch.ones(output_size, len(intervals)), persistent=False)
        self.tracked: Tracked | None = None  # in `predict`: where the intervals have gone since
        self.cycle = CycleTable(cycle, input_size) if cycle else None
        self.register_buffer("linear", torch.zeros(look_back, output_size) if linear else None)
        if own_maps and (panel or not linear):
            raise ValueError("head.own_maps needs head.linear (set both or neither), and windows of all variables")
        self.register_buffer("own", torch.zeros(input_size, look_back, output_size) if own_maps else None)
        self.answers_untrained = linear
        if linear:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)
        self.columns: list[str] = []
        self.freq = "h"
        self.zone = ""
        self.inputs: list[str] = []
        self.calibrates = True

    def fit_to(self, data: TimeSeriesData) -> None:
        """Mean and population spread of each variable over the train rows, its name, and the clock of the rows."""
        if self.non_negative:
            refuse_negative(data)
        mean, std = data.scale()
        self.mean.copy_(mean)
        self.std.copy_(std)
        if self.covariates is not None:
            self.covariates.fit(data.train_covariates())
        self.columns = list(data.columns)
        self.inputs = list(data.input_names)
        self.freq = data.freq
        self.zone = data.zone
        if self.cycle is not None:
            refuse_calendar(self.freq)
        if self.linear is not None:
            start_from_linear_map(self, data)
        if self.intervals:
            self.calibrates = will_calibrate(self, data)
        if self.intervals and self.calibrates:
            self.harder.copy_(beyond_validation(self, data))

    def check(self, data: TimeSeriesData) -> None:
        """Refuse data whose variables, inputs or frequency are not those that the head was fitted to.

        Raises:
            ValueError: names what differs.
        """
        refuse_other(self, data)
        self.zone = data.zone
        self.tracked = Tracked(self, data) if self.intervals else None

    def get_extra_state(self) -> dict[str, Any]:
        """What a forecast needs beside tensors, as plain values."""
        return {"columns": self.columns, "freq": self.freq, "inputs": self.inputs}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Names and frequency of a checkpoint."""
        self.columns = state["columns"]
        self.freq = state["freq"]
        self.inputs = state.get("inputs", [])

    def embed(self, batch: Batch) -> tuple[Tensor, None]:
        """Tokens [B * V, tokens, dim] of the scaled look-back; no padding, so no mask."""
        x = self.seen(batch).transpose(1, 2).flatten(0, 1)  # [B * V, L]
        missing = (self.tokens - 1) * self.stride + self.patch - self.look_back
        x = torch.cat([x, x[:, -1:].expand(-1, missing)], dim=1)
        tokens = self.into(x.unfold(1, self.patch, self.stride)) + self.position
        if self.covariates is not None:
            beside = self.covariates.tokens(batch.covariates)
            tokens = (tokens.unflatten(0, (len(batch.past), -1)) + beside).flatten(0, 1)
        return self.dropout(tokens), None

    def readout(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Scaled forecast, float64 [B, H, V], or its quantiles [B, H, V, Q], of hidden states [B * V, tokens, dim]."""
        output = self.out(self.dropout(hidden.flatten(1)))  # [B * V, H * max(Q, 1)]
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        output = output.unflatten(1, (self.horizon, -1)).unflatten(0, (len(batch.past), -1)).transpose(1, 2)
        output = self.completed(output, batch).double()  # [B, H, V, max(Q, 1)]
        if self.non_negative and not self.training:
            output = output.maximum(self._zero(batch)[..., None])
        if not self.quantiles:
            return output.squeeze(-1)
        # quantiles that cross are put in order, which never makes them worse (Chernozhukov et al. 2010)
        return output if self.training else output.sort(-1).values

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean over windows, horizon, variables and quantiles, in scaled units; unknown targets count for nothing."""
        truth = self.scaled(batch.target, batch)
        known = truth.isfinite()
        truth = truth.where(known, 0.0)  # a NaN would reach the gradients even where the loss leaves it out
        if self.quantiles:
            cost = pinball(output, truth, self.levels).mean(-1)
        else:
            cost = self.criterion(output.to(truth.dtype), truth, reduction="none")  # torch 2.11 takes no two dtypes
        return cost.where(known, 0.0).sum() / known.sum().clamp(min=1)

    def scored(self, batch: Batch) -> Tensor:
        """Known targets."""
        return batch.target.isfinite().sum()

    def metrics(self, stage: str = "val") -> MetricCollection:
        """MSE and MAE of the point forecast as sums and counts: no batch size can change them.

        With quantiles, `crps` approximates the continuous ranked probability score, comparable between forecasts of the
        same levels; it then picks the best checkpoint.

        In `test`, `mae_file` and `rmse_file` are in the file's own units, the mean of all series; `coverage_90` is the
        share of truths inside the interval of 0.9 and `width_90` its mean width. Coverage and width are given by step
        and by series too, see `Coverage`.
        """
        metrics: dict[str, Metric] = {"mse": MeanSquaredError(), "mae": MeanAbsoluteError()}
        if self.quantiles:
            metrics["crps"] = MeanMetric(nan_strategy="disable")
        if stage == "test" and self.intervals:
            metrics["intervals"] = Coverage(self.intervals)
        if stage == "test":
            metrics |= {"mae_file": MeanAbsoluteError(), "rmse_file": MeanSquaredError(squared=False)}
        return MetricCollection(metrics, compute_groups=False)

    def update(self, metrics: MetricCollection, output: Tensor, batch: Batch) -> None:
        """Count the windows of one batch, in scaled units; a target that is NaN counts for nothing."""
        truth = self.scaled(batch.target, batch)
        point = self.point(output)
        known = truth.isfinite().nonzero(as_tuple=True)  # once: the host waits for how many there are
        in_scale = point[known], truth[known]
        for name in ("mse", "mae"):
            metrics[name].update(*in_scale)
        if "mae_file" in metrics:
            own = self.restored(point, batch)[known]
            for name in ("mae_file", "rmse_file"):
                metrics[name].update(own, batch.target[known])
        if "crps" in metrics:
            metrics["crps"].update(crps(output, truth, self.levels)[known])
        if "intervals" in metrics:
            widths = sum(self.halves(output, batch))
            metrics["intervals"].update(self.scores(output, batch), widths, batch.origins, batch.series, self.growth)

    def details(self, values: dict[str, Tensor]) -> dict[str, Any]:
        """Coverage and width of intervals by step and by series, as plain values."""
        plain = {name: value.tolist() for name, value in values.items()}
        by_series = {name for name in plain if name.endswith("_by_series")}
        return plain | {name: dict(zip(self.columns, plain[name], strict=True)) for name in by_series}

    def errors(self, output: Tensor, batch: Batch) -> Tensor:
        """Squared error of each window and step [B, H], mean over variables, in scaled units."""
        return (self.point(output) - self.scaled(batch.target, batch)).square().nanmean(-1)

    def callbacks(self) -> list[Callback]:
        """Draws the forecasts of a test."""
        return [DrawErrors()]

    def pictures(self, output: Tensor, batch: Batch) -> dict[str, Figure]:
        """The first window's look-back, truth, forecast and intervals, for up to three variables."""
        bands = {}
        if self.intervals:
            lower, upper = (self.restored(bound, batch, 1) for bound in self.interval(output, batch))
            bands = {f"{percent(level)} %": (lower[..., i], upper[..., i]) for i, level in enumerate(self.intervals)}
        forecast = self.restored(self.point(output), batch)
        columns = self.columns if batch.series is None else [self.columns[int(batch.series[0])]]
        return {"forecast": forecast_figure(batch.past, batch.target, forecast, columns, bands)}

    def predict(self, model: Callable[[Batch], Tensor], batch: Batch) -> DataFrame:
        """`table` of as many steps as the batch has targets.

        Past those of the training see `roll`: there the column `rolled` is True, and intervals, which nobody could
        calibrate, are NaN.
        """
        if self.tracked is not None:
            self.tracked.catch_up(model)
        output = roll(self, model, batch)
        growth = self.tracked.follow(output, batch) if self.tracked is not None else None
        table = self.table(output, batch, growth)
        return table.assign(rolled=table["step"] > self.horizon) if output.shape[1] > self.horizon else table

    def table(self, output: Tensor, batch: Batch, growth: Tensor | None = None) -> DataFrame:
        """One row per series, origin and step, in the file's own units; see `forecast_table` and `interval`."""
        more = {f"q{level:g}": self.restored(output[..., i], batch) for i, level in enumerate(self.quantiles)}
        if self.intervals:
            lower, upper = (self.restored(bound, batch, 1) for bound in self.interval(output, batch, growth))
            for i, level in enumerate(self.intervals):
                more |= {f"lower_{percent(level)}": lower[..., i], f"upper_{percent(level)}": upper[..., i]}
        forecast = self.restored(self.point(output), batch)
        return forecast_table(forecast, batch, self.columns, self.freq, self.zone, more)
