"""A closed-form linear forecaster on real sets: if its score is the known one, so are data, split and metric.

On Weather it tells whether the cells of -9999 are kept: without them the score is 0.256.
"""

from pathlib import Path

import pytest

from data_prep.timeseries import local_file
from domains.timeseries import TimeSeriesData
from domains.timeseries.baselines import baselines


@pytest.mark.parametrize(
    ("name", "mse", "mae", "naive", "seasonal"),
    [("ETTh1", 0.3832, 0.3915, 1.294, 0.512), ("Weather", 0.1957, 0.2346, 0.259, 0.317)],
)
def test_simple_forecasts_score_as_known(name: str, mse: float, mae: float, naive: float, seasonal: float) -> None:
    if local_file(name) is None:
        pytest.skip(f"needs the real {name} (set TITANS_DATA)")
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
