"""A forecaster learns the same on any number of devices."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from domains.timeseries.series import sample_series
from tests.processes import ROOT, trained_alike


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_any_number_of_devices_trains_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells that were not measured leave devices with unequal numbers of targets; intervals are calibrated together.

    In float64: where a gradient jumps (an error of zero, a threshold of EinFFT), rounding decides on which side it is.
    """
    monkeypatch.chdir(tmp_path)
    series = sample_series(variables=3, rows=160, seed=1)
    table = pd.DataFrame(series.values, columns=series.columns)
    unmeasured = np.random.default_rng(0).random(table.shape) < 0.2
    table[unmeasured] = np.nan
    table.insert(0, "date", pd.DatetimeIndex(series.stamps.astype("datetime64[ns]")))
    table.to_csv("mine.csv", index=False)
    options = [
        *("--config", str(ROOT / "conf/timeseries_csv.yaml"), "--data.file=mine.csv", "--data.defects=mask"),
        *("--data.look_back=24", "--data.horizon=12", "--data.batch_size=32", "--data.marks=[hour]"),
        *("--model.backbone.dim=16", "--model.backbone.dropout=0", "--model.head.quantiles=[0.05,0.5,0.95]"),
        *("--model.head.cycle=24", "--trainer.max_epochs=2", "--trainer.precision=64-true"),
    ]
    trained_alike(options, Path("runs/timeseries_csv"))
