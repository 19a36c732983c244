"""Both ends of the forecaster: windows to tokens, hidden states to a forecast."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError, MetricCollection

from app.head import Head
from domains.timeseries.covariates import CovariateInputs
from domains.timeseries.cycle import CycleTable, fixed_step
from domains.timeseries.data import TimeSeriesData
from domains.timeseries.einfft import EinFFT
from domains.timeseries.intervals import Conformal, crps, percent, pinball
from domains.timeseries.linear import centred, linear_map
from domains.timeseries.report import forecast_figure, forecast_table
from domains.timeseries.windows import Covariates
from memory import SwiGLU

# look-back [B, L, V], target [B, H, V] (NaN where unknown), origin stamp [B], and covariates where there are any
Batch = tuple[Tensor, Tensor, Tensor] | tuple[Tensor, Tensor, Tensor, Covariates]

LOSSES: dict[str, Callable[..., Tensor]] = {
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

    The scaler, the column names, the frequency and the widths of intervals travel in the checkpoint, which alone is
    enough to forecast. Answers, losses and metrics are in scaled units, as every published table is; pictures and
    tables in the file's own. An answer is [B, H, V], or [B, H, V, Q] with quantiles, whose median is the forecast.

    Args:
        dim: width of the backbone.
        input_size: variables V.
        output_size: rows H to forecast.
        look_back: rows L of a window.
        patch: rows per token; 1 makes every row a token.
        stride: rows from one token to the next, at most `patch`; the last row is repeated to fill the last patch.
        instance_norm: take mean and spread of each window away before the model and give them back after it.
        channel_mixing: what follows the memory in a block, over features: `einfft` (SiMBA), `swiglu` or `none`.
        loss: `mse`, `mae` or `huber`; `quantiles` put the pinball loss in its place.
        dropout: on tokens and on the flattened hidden states.
        past_size: covariates of the data known over the look-back alone.
        future_size: covariates and calendar marks of the data known over the horizon too.
        quantiles: levels to forecast, 0.5 among them, e.g. 0.1, 0.5, 0.9; none forecasts the point alone.
        intervals: share of truths that each conformal interval is to hold, calibrated at every validation.
        cycle: rows of a season whose course is learned for each variable (see `CycleTable`); 0 learns none.
        linear: add the closed-form linear map of the train windows (see `linear_map`), which stays as it is; the model
            then forecasts what that leaves over, at the start nothing.
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
        quantiles: tuple[float, ...] = (),
        intervals: tuple[float, ...] = (0.9,),
        cycle: int = 0,
        linear: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= stride <= patch <= look_back:
            raise ValueError(f"head needs 1 <= stride <= patch <= look_back; got {stride}, {patch}, {look_back}")
        _check_levels(quantiles, intervals)
        self.patch, self.stride, self.look_back, self.horizon = patch, stride, look_back, output_size
        self.instance_norm, self.criterion = instance_norm, LOSSES[loss]
        self.feed_forward = MIXINGS[channel_mixing]
        self.tokens = -(-look_back // stride)
        self.into = nn.Linear(patch, dim)
        self.position = nn.Parameter(0.02 * torch.randn(self.tokens, dim))
        self.out = nn.Linear(self.tokens * dim, output_size * max(len(quantiles), 1))
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mean", torch.zeros(input_size))
        self.register_buffer("std", torch.ones(input_size))
        self.covariates: CovariateInputs | None = None
        if past_size or future_size:
            self.covariates = CovariateInputs(dim, input_size, past_size, future_size, patch, stride, self.tokens)
        self.quantiles, self.intervals = list(quantiles), list(intervals)
        self.register_buffer("levels", torch.tensor(self.quantiles), persistent=False)
        self.conformal = Conformal(intervals) if intervals else None
        # NaN, and so are the intervals, until a validation has calibrated them
        self.register_buffer("growth", torch.full((output_size, input_size, len(intervals)), torch.nan))
        self.cycle = CycleTable(cycle, input_size) if cycle else None
        self.register_buffer("linear", torch.zeros(look_back, output_size) if linear else None)
        if linear:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)
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
        if self.linear is not None:
            self.linear.copy_(linear_map(data.windows["train"], self.mean, self.std))
        self.columns, self.freq, self.time_col = list(data.series.columns), data.series.freq, data.time_col
        if self.cycle is not None:
            fixed_step(self.freq)  # refuses months before the first step, not in it

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
        if data.predicted > self.horizon and data.past_size:
            raise ValueError(
                f"predict --horizon {data.predicted} is past the trained {self.horizon} rows, where nobody knows "
                "data.past_covariates; forecast less, or train with a longer data.horizon or without them"
            )
        if data.predicted > self.horizon:
            rank_zero_warn(
                f"the model was trained to forecast {self.horizon} rows: those from {self.horizon + 1} to "
                f"{data.predicted} are forecast from forecasts (rolled = True), without quantiles or intervals"
            )

    def get_extra_state(self) -> dict[str, Any]:
        """What a forecast needs beside tensors, as plain values."""
        return {"columns": self.columns, "freq": self.freq, "time_col": self.time_col}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Names and frequency of a checkpoint."""
        self.columns, self.freq, self.time_col = state["columns"], state["freq"], state["time_col"]

    def embed(self, batch: Batch) -> tuple[Tensor, None]:
        """Tokens [B * V, tokens, dim] of the scaled look-back; no padding, so no mask."""
        x = self._input(batch).transpose(1, 2).flatten(0, 1)  # [B * V, L]
        missing = (self.tokens - 1) * self.stride + self.patch - self.look_back
        x = torch.cat([x, x[:, -1:].expand(-1, missing)], dim=1)
        tokens = self.into(x.unfold(1, self.patch, self.stride)) + self.position
        if self.covariates is not None:
            tokens = (tokens.unflatten(0, (len(batch[0]), -1)) + self.covariates.tokens(batch[3])).flatten(0, 1)
        return self.dropout(tokens), None

    def readout(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Scaled forecast [B, H, V] or its quantiles [B, H, V, Q] from hidden states [B * V, tokens, dim]."""
        x = self.scaled(batch[0])
        output = self.out(self.dropout(hidden.flatten(1)))  # [B * V, H * max(Q, 1)]
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        output = output.unflatten(1, (self.horizon, -1)).unflatten(0, (len(x), -1)).transpose(1, 2)  # [B, H, V, ...]
        if self.linear is not None:
            with torch.autocast(x.device.type, enabled=False):
                past, level = centred(self._input(batch))
                output = output + ((past @ self.linear).unflatten(0, (len(x), -1)).mT + level)[..., None]
        if self.covariates is not None:
            output = output + self.covariates.forecast(batch[3])[..., None]
        if self.cycle is not None:
            output = output + self.cycle(batch[2], self.freq, range(1, self.horizon + 1))[..., None]
        if self.instance_norm:
            centre, spread = _statistics(x)
            output = output * spread[..., None] + centre[..., None]
        if not self.quantiles:
            return output.squeeze(-1)
        # quantiles that cross are put in order, which never makes them worse (Chernozhukov et al. 2010)
        return output if self.training else output.sort(-1).values

    def _input(self, batch: Batch) -> Tensor:
        """What the model sees of the look-back, [B, L, V]: scaled, less the window's own level and the season."""
        x = self.scaled(batch[0])
        if self.instance_norm:
            centre, spread = _statistics(x)
            x = (x - centre) / spread
        if self.cycle is not None:
            x = x - self.cycle(batch[2], self.freq, range(1 - self.look_back, 1))
        return x

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean over windows, horizon, variables and quantiles, in scaled units; unknown targets count for nothing."""
        truth = self.scaled(batch[1])
        known = truth.isfinite()
        truth = truth.where(known, 0.0)  # a NaN would reach the gradients even where the loss leaves it out
        if self.quantiles:
            cost = pinball(output, truth, self.levels).mean(-1)
        else:
            cost = self.criterion(output, truth, reduction="none")
        return cost.where(known, 0.0).sum() / known.sum().clamp(min=1)

    def scored(self, batch: Batch) -> Tensor:
        """Known targets."""
        return batch[1].isfinite().sum()

    def point(self, output: Tensor) -> Tensor:
        """The forecast [B, H, V] of an answer: itself, or the median of its quantiles."""
        return output[..., self.quantiles.index(0.5)] if self.quantiles else output

    def bounds(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds [B, H, V, intervals] before calibration, in scaled units.

        Where both quantiles (1 - level) / 2 and (1 + level) / 2 of an interval are forecast, they bound it; elsewhere
        the point forecast is both bounds.
        """
        point, lower, upper = self.point(output), [], []
        for level in self.intervals:
            places = [_place(self.quantiles, q) for q in ((1 - level) / 2, (1 + level) / 2)]
            inside = [point, point] if None in places else [output[..., place] for place in places]
            lower.append(inside[0])
            upper.append(inside[1])
        return torch.stack(lower, -1), torch.stack(upper, -1)

    def interval(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds [B, H, V, intervals] after calibration, in scaled units; NaN before it."""
        lower, upper = self.bounds(output)
        more = max(output.shape[1] - self.horizon, 0)  # nobody calibrated what a forecast of forecasts is off by
        growth = nn.functional.pad(self.growth[: output.shape[1]], (0, 0, 0, 0, 0, more), value=torch.nan)
        return lower - growth, upper + growth

    def collect(self, output: Tensor, batch: Batch) -> None:
        """Note how far the intervals of one validation batch missed."""
        if self.conformal is not None:
            self.conformal.update(*self.bounds(output), self.scaled(batch[1]))

    def calibrate(self) -> None:
        """Set the widths of the intervals by what was collected since the last time."""
        if self.conformal is not None:
            self.growth.copy_(self.conformal.compute())
            self.conformal.reset()

    def metrics(self) -> MetricCollection:
        """MSE and MAE of the point forecast as sums and counts: no batch size can change them."""
        return MetricCollection({"mse": MeanSquaredError(), "mae": MeanAbsoluteError()})

    def test_metrics(self) -> MetricCollection:
        """Besides, `coverage_90` is the share of truths inside the interval of 0.9 and `width_90` its mean width.

        With quantiles, `crps` approximates the continuous ranked probability score, comparable between forecasts of the
        same levels.
        """
        names = [f"{name}_{percent(level)}" for level in self.intervals for name in ("coverage", "width")]
        names += ["crps"] if self.quantiles else []
        more = {name: MeanMetric(nan_strategy="disable") for name in names}
        return MetricCollection({"mse": MeanSquaredError(), "mae": MeanAbsoluteError(), **more}, compute_groups=False)

    def update(self, metrics: MetricCollection, output: Tensor, batch: Batch) -> None:
        """Count the windows of one batch, in scaled units; a target that is NaN counts for nothing."""
        truth, point = self.scaled(batch[1]), self.point(output)
        known = truth.isfinite()
        for name in ("mse", "mae"):
            metrics[name].update(point[known], truth[known])
        if "crps" in metrics:
            metrics["crps"].update(crps(output, truth, self.levels)[known])
        lower, upper = self.interval(output) if self.intervals else (None, None)
        for i, level in enumerate(self.intervals):
            if f"coverage_{percent(level)}" in metrics:
                low, high = lower[..., i][known], upper[..., i][known]
                held = ((low <= truth[known]) & (truth[known] <= high)).float()
                metrics[f"coverage_{percent(level)}"].update(held + 0 * (high - low))  # NaN before a calibration, not 0
                metrics[f"width_{percent(level)}"].update(high - low)

    def errors(self, output: Tensor, batch: Batch) -> Tensor:
        """Squared error of each window and step [B, H], mean over variables, in scaled units."""
        return (self.point(output) - self.scaled(batch[1])).square().nanmean(-1)

    def pictures(self, output: Tensor, batch: Batch) -> dict[str, Figure]:
        """The first window's look-back, truth, forecast and intervals, for up to three variables."""
        bands = {}
        if self.intervals:
            lower, upper = (self._restored(bound.movedim(-1, 0)) for bound in self.interval(output))
            bands = {f"{percent(level)} %": (lower[i], upper[i]) for i, level in enumerate(self.intervals)}
        forecast = self._restored(self.point(output))
        return {"forecast": forecast_figure(batch[0], batch[1], forecast, self.columns, bands)}

    def predict(self, model: Callable[[Batch], Tensor], batch: Batch) -> DataFrame:
        """`table` of as many steps as the batch has targets, rolling forward past those of the training.

        There each forecast is the look-back of the next, the column `rolled` is True, and quantiles and intervals,
        which would leave out that the look-back may be wrong, are NaN.
        """
        past, truth, origins, *covariates = batch
        steps, outputs = truth.shape[1], []
        row = fixed_step(self.freq) if self.cycle is not None else 0  # nothing else reads an origin's stamp
        for start in range(0, steps, self.horizon):
            rows = torch.arange(start, start + self.look_back + self.horizon)
            # past the last step that is asked for nothing is known, and nothing is read
            beside = [Covariates(x.past, x.future[:, rows.clamp(max=x.future.shape[1] - 1)]) for x in covariates]
            outputs.append(model((past, truth, origins + start * row, *beside)))
            past = torch.cat([past, self._restored(self.point(outputs[-1]))], 1)[:, -self.look_back :]
        output = torch.cat(outputs, 1)[:, :steps]
        if steps <= self.horizon:
            return self.table(output, batch)
        if self.quantiles:
            point = self.point(output).clone()
            output[:, self.horizon :] = torch.nan
            output[..., self.quantiles.index(0.5)] = point
        table = self.table(output, batch)
        return table.assign(rolled=table["step"] > self.horizon)

    def table(self, output: Tensor, batch: Batch) -> DataFrame:
        """One row per series, origin and step, in the file's own units; see `forecast_table`."""
        more = {f"q{level:g}": output[..., i] for i, level in enumerate(self.quantiles)}
        if self.intervals:
            lower, upper = self.interval(output)
            for i, level in enumerate(self.intervals):
                more |= {f"lower_{percent(level)}": lower[..., i], f"upper_{percent(level)}": upper[..., i]}
        more = {name: self._restored(values) for name, values in more.items()}
        return forecast_table(self._restored(self.point(output)), batch[1], batch[2], self.columns, self.freq, more)

    def scaled(self, x: Tensor) -> Tensor:
        """Values [..., V] of the file's own units in those of losses and metrics."""
        return (x - self.mean) / self.std

    def _restored(self, x: Tensor) -> Tensor:
        return x * self.std + self.mean


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread [B, 1, V] of each window [B, L, V]; the spread of a constant window is small but not zero."""
    return x.mean(1, keepdim=True), (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()


def _place(levels: Sequence[float], level: float) -> int | None:
    """Where `level` stands among `levels`; None where it does not."""
    return next((i for i, other in enumerate(levels) if abs(other - level) < 1e-6), None)


def _check_levels(quantiles: Sequence[float], intervals: Sequence[float]) -> None:
    """Refuse levels outside (0, 1) or out of order, and quantiles without the median.

    Raises:
        ValueError: names the key.
    """
    for name, levels in (("quantiles", quantiles), ("intervals", intervals)):
        if list(levels) != sorted(set(levels)) or not all(0 < level < 1 for level in levels):
            raise ValueError(f"head.{name} must rise between 0 and 1, such as 0.1, 0.5, 0.9; got {list(levels)}")
    if quantiles and 0.5 not in quantiles:
        raise ValueError(f"head.quantiles needs 0.5, the forecast itself; got {list(quantiles)}")
