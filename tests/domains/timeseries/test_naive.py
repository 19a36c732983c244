"""Naive forecasts of test windows: against the definition, by hand, wide and in a panel."""

import numpy as np
import pandas as pd
import pytest
import torch

from domains.timeseries import TimeSeriesData
from domains.timeseries.metrics import seasonal_naive
from domains.timeseries.naive import naive_forecasts, naive_scores


def test_naive_forecasts_are_those_of_the_definition(csv) -> None:
    data = TimeSeriesData(file=str(csv), look_back=10, horizon=30, season=24)  # a season begins before the look-back
    data.setup()
    index = torch.tensor([0, 7, 30])
    known = (data.windows["test"].starts[index] + 10).numpy()
    forecasts = naive_forecasts(data, index)
    for name, season in (("naive", 1), ("seasonal naive", 24)):
        expected = seasonal_naive(data.series.values, known, 30, season).transpose(0, 2, 1)
        np.testing.assert_array_equal(forecasts[name].numpy(), expected)


def test_errors_are_in_scaled_units_and_in_those_of_the_file(csv) -> None:
    data = TimeSeriesData(file=str(csv), look_back=24, horizon=12, batch_size=7)
    data.setup()
    scores = naive_scores(data)
    assert set(scores) == {"naive", "seasonal naive (24 rows)"}
    batch = data.windows["test"][torch.arange(len(data.windows["test"]))]
    error = (batch.past[:, -1:] - batch.target).numpy()
    assert scores["naive"]["mae_file"] == pytest.approx(np.abs(error).mean())
    assert scores["naive"]["rmse_file"] == pytest.approx(np.square(error).mean() ** 0.5)
    unit = error / data.series.values[: data.ends(data.series)[0]].std(0)
    assert scores["naive"]["mse"] == pytest.approx(np.square(unit).mean())
    assert scores["naive"]["mae"] == pytest.approx(np.abs(unit).mean())


def test_a_season_of_a_panel_does_not_reach_into_the_series_before(tmp_path) -> None:
    stamps = pd.date_range("2024-01-01", periods=60, freq="D")
    parts = [
        pd.DataFrame({"unique_id": name, "ds": stamps, "y": np.arange(60.0) + 100 * i}) for i, name in enumerate("ab")
    ]
    pd.concat(parts).to_csv(tmp_path / "panel.csv", index=False)
    keys = {"look_back": 5, "horizon": 3, "val_rows": 5, "test_rows": 6}
    for season, names in ((7, ["naive", "seasonal naive (7 rows)"]), (57, ["naive"])):
        data = TimeSeriesData(file=str(tmp_path / "panel.csv"), season=season, **keys)
        data.setup()
        scores = naive_scores(data)
        assert list(scores) == names
    assert scores["naive"]["mae_file"] == pytest.approx(2)  # a straight line leaves the last value by 1, 2 and 3
