"""How the speed of forecasting is told: the clock of a training, the ratio to its rival, and who is left out."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks.forecast_speed import Measured, absent, ours, peer, rows_of, speeds
from domains.timeseries import TimeSeriesData
from domains.timeseries.series import sample_series


def test_ours_is_held_to_the_rival() -> None:
    found = {"ours": Measured([2.0, 4.0, 3.0], [0.7] * 3, [100.0]), "PatchTST": Measured([6.0], [0.7], [50.0])}
    rows = {row.metric: row for row in rows_of("ETTh1 96/96", found, 2, "again")}
    assert rows["ETTh1 96/96 ours seconds to its best validation"].value == 3
    ratio = rows["ETTh1 96/96 ours over PatchTST, seconds to its best validation"]
    assert ratio.value == 0.5 and ratio.must == "<= 1.0"
    assert rows["ETTh1 96/96 ours over PatchTST, seconds per forecast"].value == 0.5
    missing = absent("ETTh1 96/96", "DLinear", "No module named 'models'", "again")
    assert missing.value != missing.value and missing.note.endswith("PYTHONPATH: No module named 'models'")


def test_a_training_is_timed_to_its_best_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.forecast_speed.LOOK_BACK", 24)
    series = sample_series(variables=2, rows=300)
    table = pd.DataFrame(series.values, columns=series.columns).assign(date=pd.DatetimeIndex(series.stamps))
    table.to_csv(tmp_path / "mine.csv", index=False)
    data = TimeSeriesData(file=str(tmp_path / "mine.csv"), look_back=24, horizon=12, batch_size=64)
    data.setup()
    model, error, seconds = ours(data, 0, epochs=1)
    assert 0 < error < 2 and 0 < seconds < 60
    batch = data.windows["val"][torch.arange(4)]
    assert all(speed > 0 for speed in speeds(lambda: model.cpu().eval()(batch), 1))
    _, error, seconds = peer("PatchTST", data, 0, epochs=1)
    assert 0 < error < 2 and 0 < seconds < 60
    with pytest.raises(ImportError):
        peer("iTransformer", data, 0, epochs=1)
