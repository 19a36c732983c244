"""What a forecaster must beat: the last value, the last season, and the best linear map of a look-back."""

import torch

from domains.timeseries.data import TimeSeriesData
from domains.timeseries.head import ForecastHead
from domains.timeseries.linear import centred, linear_map
from domains.timeseries.metrics import season_length, seasonal_naive
from domains.timeseries.windows import Batch


def baselines(data: TimeSeriesData) -> dict[str, dict[str, float]]:
    """MSE and MAE over every test window, scaled, of `naive`, `seasonal naive` and `linear` forecasts.

    `linear` is the map of `linear_map`, fitted on every train window.

    Args:
        data: after `setup`; a season may reach further back than its look-back.
    """
    head = ForecastHead(1, data.input_size, data.horizon, data.look_back, channel_mixing="none", intervals=())
    head.fit_to(data)
    weight, values = linear_map(data.windows["train"], head.mean, head.std).cpu(), data.series.values
    known = (data.windows["test"].starts + data.look_back).cpu().numpy()  # rows known at each origin
    season, metrics, done = season_length(data.freq), {}, 0
    for batch in data.test_dataloader():
        batch = Batch(*(x.cpu() for x in batch[:3]))
        seen, done = known[done : done + len(batch.past)], done + len(batch.past)
        x, mean = centred(head.scaled(batch.past, batch))
        seasonal = torch.from_numpy(seasonal_naive(values, seen, data.horizon, season)).mT
        forecasts = {
            "naive": head.scaled(batch.past[:, -1:].expand_as(batch.target), batch),
            "seasonal naive": head.scaled(seasonal, batch),
            "linear": (x @ weight).unflatten(0, (-1, data.input_size)).mT + mean,
        }
        for name, forecast in forecasts.items():
            head.update(metrics.setdefault(name, head.metrics()), forecast, batch)
    return {
        name: {key: value.item() for key, value in measured.compute().items()} for name, measured in metrics.items()
    }
