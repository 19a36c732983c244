"""The look-backs of a page lie end to end up to the end of each series."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from domains.timeseries import TimeSeriesData
from domains.timeseries.surprise import look_backs


def test_each_series_of_a_panel_is_read_up_to_its_own_end(tmp_path: Path) -> None:
    lengths = {"long": 100, "short": 60, "stub": 20}
    stamps = pd.date_range("2024-01-01", periods=100, freq="h")
    parts = [pd.DataFrame({"unique_id": n, "ds": stamps[:k], "y": np.arange(k) + k}) for n, k in lengths.items()]
    pd.concat(parts).to_csv(tmp_path / "panel.csv", index=False)
    data = TimeSeriesData(file=str(tmp_path / "panel.csv"), id_col="unique_id", time_col="ds", look_back=24, horizon=6)
    with pytest.warns(UserWarning, match="left out: stub"):
        data.setup("predict")
    found = list(look_backs(data, 3))
    assert [left for _, left in found] == [28, 12]  # `stub` is shorter than a look-back
    for (windows, left), length in zip(found, (100, 60), strict=True):
        past = windows[torch.arange(len(windows))].past.flatten()
        assert past.tolist() == list(range(length + left, 2 * length))
