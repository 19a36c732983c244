"""A closed-form linear forecaster on real sets: if its score is the known one, so are data, split and metric.

On Weather it tells whether the cells of -9999 are kept: without them the score is 0.256.
"""

from pathlib import Path

import pytest
import torch

from data_prep.timeseries import local_file
from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries.baselines import baselines


@pytest.mark.parametrize(
    ("name", "mse", "mae", "naive", "seasonal"),
    [("ETTh1", 0.3832, 0.3915, 1.294, 0.512), ("Weather", 0.1957, 0.2346, 0.259, 0.317)],
)
def test_simple_forecasts_score_as_known(name: str, mse: float, mae: float, naive: float, seasonal: float) -> None:
    if local_file(name) is None:
        pytest.skip(f"scores on the published {name}, not ours to commit: python -m data_prep timeseries")
    data = TimeSeriesData(name, look_back=96, horizon=96, batch_size=512, source="file")
    data.setup()
    scores = baselines(data)
    assert scores["linear"]["mse"] == pytest.approx(mse, abs=1e-3)
    assert scores["linear"]["mae"] == pytest.approx(mae, abs=1e-3)
    assert scores["naive"]["mse"] == pytest.approx(naive, abs=1e-3)
    assert scores["seasonal naive"]["mse"] == pytest.approx(seasonal, abs=1e-3)


def test_batch_size_changes_no_baseline(csv: Path) -> None:
    scores = []
    for batch_size in (1, 64):
        data = TimeSeriesData(file=str(csv), look_back=24, horizon=12, batch_size=batch_size)
        data.setup()
        scores.append(baselines(data))
    for name, metrics in scores[0].items():
        assert scores[1][name] == pytest.approx(metrics, rel=1e-5)
    assert set(scores[0]) == {"naive", "seasonal naive", "linear"}


@pytest.mark.parametrize("instance_norm", [True, False])
def test_a_forecaster_can_start_from_the_floor(csv: Path, instance_norm: bool) -> None:
    data = TimeSeriesData(file=str(csv), look_back=24, horizon=12, batch_size=64)
    data.setup()
    head = ForecastHead(8, 3, 12, look_back=24, instance_norm=instance_norm, cycle=6, intervals=(), linear=True)
    head.fit_to(data)
    metrics, again = head.metrics(), ForecastHead(8, 3, 12, look_back=24, cycle=6, intervals=(), linear=True)
    for batch in data.test_dataloader():
        tokens, _ = head.embed(batch)
        head.update(metrics, head.readout(tokens, batch), batch)
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == pytest.approx(baselines(data)["linear"], rel=1e-4)
    head.loss(head.readout(tokens, batch), batch).backward()
    assert (head.out.weight.grad != 0).any() and "linear" not in dict(head.named_parameters())
    again.load_state_dict(head.state_dict(), strict=False)
    assert torch.equal(again.linear, head.linear)
