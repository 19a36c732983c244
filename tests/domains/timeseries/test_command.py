"""The config of the newcomer's first command, from fit to a forecast past the end of a file."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from app.callbacks import WritePredictions
from app.door import main
from app.errors import UserError
from domains.timeseries.series import Series

CONF = Path(__file__).parents[3] / "conf"
CONFIG = str(CONF / "timeseries_ett.yaml")


def printed_names(results: dict) -> set[str]:
    """Names of test metrics, as the table prints them."""
    return {name.removeprefix("test/") for name in results["metrics"]}


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
    pictures = {path.name for path in (run / "pictures").iterdir()}
    shown = {f"forecast_{which}.png" for which in ("best", "median", "worst")}
    assert pictures == shown | {"error_by_step.png", "memory_surprise.png"}
    for name in ("naive", "seasonal naive (24 rows)"):
        assert set(results["simple"][name]) == {"mse", "mae", "mae_file", "rmse_file"} <= printed_names(results)
    assert results["data"]["data"] == "mine" and 0 <= results["metrics"]["test/coverage_90"] <= 1

    newer = Series(series.values[-40:], series.columns, series.stamps[-40:] + 7 * 86_400_000_000_000, series.freq)
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    main(["predict", "--ckpt", checkpoint, "--input", str(write(newer))])
    table = pd.read_csv(run / "predictions.csv", parse_dates=["origin", "stamp"])
    end = pd.Timestamp(newer.stamps[-1])
    assert list(table.series.unique()) == series.columns and table.truth.isna().all()
    assert list(table.stamp[:12]) == list(pd.date_range(end, periods=13, freq="h")[1:])
    assert (table.lower_90 <= table.prediction).all() and (table.prediction <= table.upper_90).all()
    assert table.prediction.between(series.values.min() - 20, series.values.max() + 20).all()  # not in scaled units

    longer = ["--data.file", str(write(newer)), "--horizon", "30"]
    with pytest.warns(UserWarning, match="trained to forecast 12 rows"):
        main(["predict", "--ckpt_path", checkpoint, *longer, "--output", "longer.parquet"])
    told = capsys.readouterr().err
    assert "--ckpt_path is spelled --ckpt now" in told and "--horizon is spelled --data.predict_rows now" in told
    rolled = pd.read_parquet("longer.parquet")
    assert len(rolled) == 3 * 30 and list(rolled.stamp[:30]) == list(pd.date_range(end, periods=31, freq="h")[1:])
    first = rolled[~rolled.rolled].prediction
    np.testing.assert_allclose(first, table.prediction, rtol=1e-4)
    known = ["--data.file", str(write(series)), "--data.predict", "test", "--output", "known.parquet"]
    main(["predict", "--ckpt", checkpoint, *known])
    known = pd.read_parquet("known.parquet")  # every window of the test part, and so with its truth
    assert len(known) == 69 * 3 * 12 and known.truth.notna().all()

    renamed = Series(newer.values, [*newer.columns[:-1], "oil"], newer.stamps, newer.freq)
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "--ckpt", checkpoint, "--data.file", str(write(renamed))])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: columns differ") and "unknown ['oil']" in error


@pytest.mark.parametrize(
    ("output", "says"), [("forecasts.xlsx", "neither .csv nor .parquet"), ("nowhere/x.csv", "no folder nowhere")]
)
def test_an_output_that_cannot_be_written_is_refused(output: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        WritePredictions(Path(output))


def test_a_long_file_with_defects_covariates_and_marks_goes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    stamps = pd.date_range("2024-01-01", periods=412, freq="h")
    load = {name: pd.Series(range(412)).mul(0.26 + i).map(math.sin) for i, name in enumerate(("north", "south"))}
    parts = [pd.DataFrame({"at": stamps, "site": name, "load": y}) for name, y in load.items()]
    table = pd.concat(parts).assign(wind=lambda t: t["at"].dt.hour, holiday=lambda t: t["at"].dt.day % 2)
    table.loc[table["at"] >= stamps[400], ["load", "wind"]] = math.nan  # the future: 12 hours of `holiday` alone
    table.drop(index=range(50, 53)).to_parquet("mine.parquet")
    options = "--data.file mine.parquet --data.time_col at --data.id_col site --data.targets [load] --data.defects mask"
    options += " --data.past_covariates [wind] --data.future_covariates [holiday] --data.marks [hour]"
    options += " --data.look_back 24 --data.horizon 12 --trainer.accelerator cpu --trainer.max_epochs 1"
    options += " --trainer.log_every_n_steps 1"
    small = ["--config", str(CONF / "timeseries_csv.yaml"), *options.split(), "--trainer.enable_progress_bar", "false"]
    with pytest.warns(UserWarning, match="mine.parquet: 2 gaps in time .*kept out of losses and metrics"):
        main(["fit", *small])
    run = tmp_path / "runs" / "timeseries_csv" / "version_0"
    checkpoint = ["--ckpt", str(run / "checkpoints" / "best.ckpt")]
    with pytest.warns(UserWarning, match="2 gaps in time"):
        main(["test", *checkpoint])
    results = json.loads((run / "results.json").read_text())
    assert "2 gaps in time" in results["data"]["repairs"] and results["data"]["data"] == "mine"
    with pytest.warns(UserWarning, match="2 gaps in time"):
        main(["predict", *checkpoint])
    forecast = pd.read_csv(run / "predictions.csv", parse_dates=["stamp"])
    assert list(forecast.stamp[:12]) == list(stamps[400:]) and set(forecast.series) == {"north", "south"}
    assert forecast.prediction.notna().all()
    with pytest.warns(UserWarning), pytest.raises(SystemExit, match="2"):
        main(["predict", *checkpoint, "--data.predict", "test", "--horizon", "30"])
    assert "where nobody knows data.past_covariates" in capsys.readouterr().err.splitlines()[-1]
    with pytest.warns(UserWarning), pytest.raises(SystemExit, match="2"):
        pd.read_parquet("mine.parquet").query("`at` < @stamps[405]").to_parquet("mine.parquet")
        main(["predict", *checkpoint])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: mine.parquet: data.future_covariates of 'north' are known for 5 rows past the last")


@pytest.mark.parametrize("config", sorted(CONF.glob("timeseries_*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_valid(config: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", str(config), "--print_config"])
    own = {"timeseries_csv": "null", "timeseries_pjm": 168}
    look_back = 512 if config.stem.endswith("_long") else own.get(config.stem, 96)
    assert f"look_back: {look_back}\n" in capsys.readouterr().out


def test_quantiles_and_a_season_come_from_the_config(
    csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = f"--config {CONFIG} --data.file {csv} --data.look_back 24 --data.horizon 12 --trainer.fast_dev_run true"
    options += " --trainer.accelerator cpu --model.head.quantiles [0.1,0.5,0.9] --model.head.cycle 24"
    head = main(["fit", *options.split()]).model.head
    assert head.quantiles == [0.1, 0.5, 0.9] and head.cycle.period == 24


def test_a_setting_that_the_data_are_not_for_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    stamps = pd.date_range("1990-01-31", periods=120, freq="ME")
    pd.DataFrame({"date": stamps, "a": np.arange(120) % 12}).to_csv("mine.csv", index=False)
    options = "--data.file mine.csv --data.look_back 24 --data.horizon 3 --model.head.cycle 12"
    options += " --trainer.accelerator cpu --trainer.fast_dev_run true"
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--config", CONFIG, *options.split()])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: head.cycle needs rows at a fixed step, from minutes to days; they come every 'ME'"
