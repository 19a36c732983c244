"""What a forecaster must beat: the last value, the last season, and the best linear map of a look-back."""

import torch

from domains.timeseries.data import TimeSeriesData
from domains.timeseries.head import ForecastHead
from domains.timeseries.linear import linear_map
from domains.timeseries.naive import naive_forecasts
from domains.timeseries.units import centred


def baselines(data: TimeSeriesData) -> dict[str, dict[str, float]]:
    """MSE and MAE over every test window, scaled, of `naive`, `seasonal naive` and `linear` forecasts.

    `linear` is the map of `linear_map`, fitted on every train window, its ridge chosen on validation.

    Args:
        data: after `setup`; a season may reach further back than its look-back.
    """
    head = ForecastHead(1, data.input_size, data.horizon, data.look_back, channel_mixing="none", intervals=())
    head.fit_to(data)
    head.to(data.windows["test"].starts.device)
    weight = linear_map(data.windows["train"], data.windows["val"], head.mean, head.std)
    metrics = {}
    for index in torch.arange(len(data.windows["test"])).split(data.batch_size):
        batch = data.windows["test"][index]
        x, mean = centred(head.scaled(batch.past, batch))
        forecasts = {name: head.scaled(forecast, batch) for name, forecast in naive_forecasts(data, index).items()}
        forecasts["linear"] = (x @ weight).unflatten(0, (len(batch.past), -1)).mT + mean
        for name, forecast in forecasts.items():
            head.update(metrics.setdefault(name, head.metrics().to(weight.device)), forecast, batch)
    return {
        name: {key: value.item() for key, value in measured.compute().items()} for name, measured in metrics.items()
    }
