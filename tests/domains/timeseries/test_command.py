"""The config of the newcomer's first command, from fit to a forecast past the end of a file."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from app.cli import main
from domains.timeseries.series import Series

CONFIG = str(Path(__file__).parents[3] / "conf" / "timeseries_ett.yaml")


def test_a_checkpoint_forecasts_a_newer_file_and_refuses_another(
    write: Callable[[Series], Path],
    series: Series,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = "--data.look_back 24 --data.horizon 12 --data.batch_size 64 --trainer.accelerator cpu"
    options += " --trainer.max_epochs 1 --trainer.log_every_n_steps 1 --trainer.enable_progress_bar false"
    small = ["--config", CONFIG, "--data.file", str(write(series)), *options.split()]
    main(["fit", *small])
    main(["test", *small])
    run = tmp_path / "runs" / "timeseries_ETTh1_24_12" / "version_0"
    results = json.loads((run / "results.json").read_text())
    assert results["data"]["data"] == "mine" and set(results["metrics"]) == {"test/mse", "test/mae"}

    newer = Series(series.values[-40:], series.columns, series.stamps[-40:] + 7 * 86_400_000_000_000, series.freq)
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    main(["predict", "--ckpt_path", checkpoint, "--data.file", str(write(newer)), "--data.predict", "future"])
    table = pd.read_csv(run / "predictions.csv", parse_dates=["origin", "stamp"])
    end = pd.Timestamp(newer.stamps[-1])
    assert list(table.series.unique()) == series.columns and table.truth.isna().all()
    assert list(table.stamp[:12]) == list(pd.date_range(end, periods=13, freq="h")[1:])
    assert table.prediction.between(series.values.min() - 20, series.values.max() + 20).all()  # not in scaled units

    renamed = Series(newer.values, [*newer.columns[:-1], "oil"], newer.stamps, newer.freq)
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "--ckpt_path", checkpoint, "--data.file", str(write(renamed)), "--data.predict", "future"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: columns differ") and "unknown ['oil']" in error
