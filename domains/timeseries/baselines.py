"""What a forecaster must beat: the last value, the last season, and the best linear map of a look-back."""

import torch
from torch import Tensor

from domains.timeseries.data import TimeSeriesData
from domains.timeseries.head import Batch, ForecastHead
from domains.timeseries.metrics import season_length, seasonal_naive
from domains.timeseries.windows import split_rows


def baselines(data: TimeSeriesData) -> dict[str, dict[str, float]]:
    """MSE and MAE over every test window, scaled, of `naive`, `seasonal naive` and `linear` forecasts.

    `linear` is one closed-form least-squares map from look-back to horizon for all variables, of windows less their
    mean, fitted on every train window with a ridge of 1e-6 of the mean diagonal.

    Args:
        data: after `setup`; a season may reach further back than its look-back.
    """
    head = ForecastHead(1, data.input_size, data.horizon, data.look_back, channel_mixing="none", intervals=())
    head.fit_to(data)
    weight, values = _linear_map(data, head), data.series.values
    end = split_rows(len(values), data.look_back, data.horizon, data.ends)["test"][1]
    first = end - data.horizon - len(data.windows["test"]) + 1  # rows known at the first origin
    season, metrics, done = season_length(data.series.freq), {}, 0
    for batch in data.test_dataloader():
        batch = tuple(x.cpu() for x in batch[:3])
        known = torch.arange(first + done, first + done + len(batch[0])).numpy()
        done += len(batch[0])
        x, _, mean = _centred(batch, head)
        forecasts = {
            "naive": head.scaled(batch[0][:, -1:].expand_as(batch[1])),
            "seasonal naive": head.scaled(torch.from_numpy(seasonal_naive(values, known, data.horizon, season)).mT),
            "linear": (x @ weight).float().unflatten(0, (-1, data.input_size)).mT + mean,
        }
        for name, forecast in forecasts.items():
            head.update(metrics.setdefault(name, head.metrics()), forecast, batch)
    return {
        name: {key: value.item() for key, value in measured.compute().items()} for name, measured in metrics.items()
    }


def _centred(batch: Batch, head: ForecastHead) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled look-back [B * V, L] and target [B * V, H] less the look-back's mean [B, 1, V], in float64."""
    past, target = (head.scaled(x.cpu()) for x in batch[:2])
    mean = past.mean(1, keepdim=True)
    return *((x - mean).mT.flatten(0, 1).double() for x in (past, target)), mean


def _linear_map(data: TimeSeriesData, head: ForecastHead) -> Tensor:
    """The map [L, H] by normal equations; windows with an unknown target are left out."""
    gram, moment = torch.zeros(()), torch.zeros(())
    for index in torch.arange(len(data.windows["train"])).split(512):
        x, y, _ = _centred(data.windows["train"][index], head)
        known = y.isfinite().all(1)
        gram, moment = gram + x[known].T @ x[known], moment + x[known].T @ y[known]
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + ridge, moment)
