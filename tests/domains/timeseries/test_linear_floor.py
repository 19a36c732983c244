"""A closed-form linear forecaster on real sets: if its score is the known one, so are data, split and metric.

On Weather it tells whether the cells of -9999 are kept: without them the score is 0.256.
"""

import pytest
import torch

from data_prep.timeseries import local_file
from domains.timeseries import ForecastHead, TimeSeriesData


@pytest.mark.parametrize(("name", "mse", "mae"), [("ETTh1", 0.3832, 0.3915), ("Weather", 0.1957, 0.2346)])
def test_linear_map_scores_as_known(name: str, mse: float, mae: float) -> None:
    if local_file(name) is None:
        pytest.skip(f"needs the real {name} (set TITANS_DATA)")
    data = TimeSeriesData(name, look_back=96, horizon=96, batch_size=512, source="file")
    data.setup()
    head = ForecastHead(dim=4, input_size=data.input_size, output_size=96, look_back=96)
    head.fit_to(data)

    def centred(batch: tuple) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scaled look-back and target [B * V, 96] less the look-back's mean [B, 1, V]."""
        past, target = ((x - head.mean) / head.std for x in batch[:2])
        mean = past.mean(1, keepdim=True)
        flat = [(x - mean).transpose(1, 2).flatten(0, 1).double() for x in (past, target)]
        return *flat, mean

    gram, moment = torch.zeros(96, 96, dtype=torch.float64), torch.zeros(96, 96, dtype=torch.float64)
    for batch in data.train_dataloader():
        x, y, _ = centred(batch)
        gram += x.T @ x
        moment += x.T @ y
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(96, dtype=torch.float64)
    weight = torch.linalg.solve(gram + ridge, moment)

    metrics = head.metrics()
    for batch in data.test_dataloader():
        x, _, mean = centred(batch)
        forecast = (x @ weight).float().unflatten(0, (-1, data.input_size)).transpose(1, 2) + mean
        head.update(metrics, forecast, batch)
    score = metrics.compute()
    assert score["mse"].item() == pytest.approx(mse, abs=1e-3)
    assert score["mae"].item() == pytest.approx(mae, abs=1e-3)
