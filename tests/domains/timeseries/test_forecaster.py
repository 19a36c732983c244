"""The forecaster of Python: frames in and out, and checkpoints shared with the command line."""

import inspect
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from app.door import main
from app.errors import UserError
from domains.timeseries import Forecaster, ForecastHead
from domains.timeseries.forecaster import MODEL

ROOT = Path(__file__).parents[3]


@pytest.fixture
def frame() -> pd.DataFrame:
    """300 hours of two meters with a daily course."""
    stamps = pd.date_range("2024-01-01", periods=300, freq="h")
    hours = np.arange(300)
    noise = np.random.default_rng(0).normal(size=(300, 2)) / 10
    waves = np.stack([np.sin(hours * math.pi / 12), np.cos(hours * math.pi / 12)], 1)
    return pd.DataFrame(5 + waves + noise, columns=["north", "south"], index=stamps)


@pytest.fixture(scope="module")
def fitted() -> Forecaster:
    hours = np.arange(300)
    stamps = pd.date_range("2024-01-01", periods=300, freq="h")
    waves = np.stack([np.sin(hours * math.pi / 12), np.cos(hours * math.pi / 12)], 1)
    table = pd.DataFrame(5 + waves, columns=["north", "south"], index=stamps)
    return Forecaster(horizon=12, look_back=24, epochs=1).fit(table)


def test_the_readmes_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "domains" / "timeseries" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    table = names["table"]
    assert list(table.columns[:5]) == ["series", "origin", "step", "stamp", "prediction"]
    assert len(table) == 2 * 24 and table.prediction.notna().all() and table.stamp.min() > names["frame"].index[-1]
    assert (table.lower_90 <= table.prediction).all() and (table.prediction <= table.upper_90).all()
    assert (tmp_path / "forecast.png").stat().st_size > 1000
    assert set(names["scores"].model) == {"this run", "naive", "seasonal naive (24 rows)"}
    pd.testing.assert_frame_equal(names["again"], table)


def test_a_wave_is_forecast(fitted: Forecaster) -> None:
    table = fitted.predict().set_index(["series", "step"]).prediction
    hours = 300 + np.arange(12)
    np.testing.assert_allclose(table["north"], 5 + np.sin(hours * math.pi / 12), atol=0.02)
    with pytest.warns(UserWarning, match="forecast from forecasts"):
        longer = fitted.predict(horizon=30)
    assert len(longer) == 60 and len(fitted.predict()) == 24


def test_a_shorter_and_a_longer_forecast_begin_as_the_trained_one(frame: pd.DataFrame) -> None:
    frame["holiday"] = (frame.index.day_of_week > 4) * 1.0
    frame.iloc[-20:, :2] = np.nan
    options = {"look_back": 24, "epochs": 1, "test_rows": 0, "quantiles": [0.1, 0.5, 0.9]}
    forecaster = Forecaster(horizon=12, **options, future_covariates=["holiday"]).fit(frame)
    table = forecaster.predict().set_index(["series", "step"])
    assert table.lower_90.notna().all()
    with pytest.warns(UserWarning, match="forecast from forecasts"):
        longer = forecaster.predict(horizon=20)
    for horizon, other in ((5, forecaster.predict(horizon=5)), (20, longer)):
        other = other.set_index(["series", "step"])
        assert len(other) == 2 * horizon
        same = table.index.intersection(other.index)
        assert len(same) == 2 * min(horizon, 12)
        pd.testing.assert_frame_equal(other.loc[same, table.columns], table.loc[same], check_exact=False, rtol=1e-9)


@pytest.mark.parametrize("rows", [5, 60])
def test_a_series_that_never_changes_goes_on_as_it_is(rows: int) -> None:
    frame = pd.DataFrame({"load": 5.5}, index=pd.date_range("2024-01-01", periods=rows))
    options = {"horizon": 1, "epochs": 1, "intervals": []}
    table = Forecaster(**options).fit(frame).predict()
    np.testing.assert_allclose(table.prediction, 5.5, rtol=1e-12)
    one_row = Forecaster(**options, look_back=1).fit(frame.assign(load=np.arange(rows) % 2.0)).predict()
    assert one_row.prediction.notna().all()


def test_the_default_model_is_that_of_the_config(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", str(ROOT / "conf" / "timeseries_csv.yaml"), "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    model = config["model"]
    memory = model["backbone"].pop("memory")
    usual = {name: value.default for name, value in inspect.signature(ForecastHead).parameters.items()}
    usual = {name: list(value) if isinstance(value, tuple) else value for name, value in usual.items()}
    head = {key: value for key, value in model["head"]["init_args"].items() if key in usual.keys() - {"dim"}}
    assert head == {key: {**usual, **MODEL["head"]}[key] for key in head}
    for name, keys in {"backbone": model["backbone"], "memory": memory, "optim": model["optim"]}.items():
        assert MODEL[name].items() <= keys.items()
    assert config["data"]["init_args"]["batch_size"] == Forecaster(1).config["data"]["init_args"]["batch_size"]


def test_wide_and_long_frames_and_their_times(frame: pd.DataFrame) -> None:
    options = {"horizon": 6, "look_back": 24, "epochs": 1}
    long = frame.rename_axis("at").reset_index().melt("at", var_name="site", value_name="load")
    halves = frame[:150], frame[150:]  # put together their rows are numbered twice from zero
    tables = [
        Forecaster(**options).fit(frame).predict(),
        Forecaster(**options).fit(frame.reset_index(names="when")).predict(),
        Forecaster(**options).fit(frame.set_axis(frame.index.to_period("h"))).predict(),
        Forecaster(**options).fit(pd.concat([part.reset_index(names="when") for part in halves])).predict(),
        Forecaster(**options).fit(frame.tz_localize("Europe/Berlin")).predict(),
        Forecaster(**options, id_col="site", targets=["load"]).fit(long).predict(),
    ]
    for table in tables[1:4]:
        pd.testing.assert_frame_equal(table, tables[0])
    assert str(tables[4].stamp.dt.tz) == "Europe/Berlin"
    assert list(tables[5].series.unique()) == ["north", "south"]
    assert [table.stamp.iloc[0].tz_localize(None) for table in tables] == [pd.Timestamp("2024-01-13 12:00")] * 6


def test_a_frame_that_is_none_is_refused_by_its_row(frame: pd.DataFrame) -> None:
    frame.iloc[17, 1] = np.nan
    with pytest.raises(ValueError, match="DataFrame: 1 cell without a finite value .row 18 'south'.; fill the cells"):
        Forecaster(horizon=6).fit(frame)
    with pytest.raises(ValueError, match="no column 'date' among .'north', 'south'.; set data.time_col"):
        Forecaster(horizon=6).fit(frame.reset_index(drop=True))
    with pytest.raises(UserError, match="not fitted yet; call fit"):
        Forecaster(horizon=6).predict()
    with pytest.raises(ValueError, match="a forecaster reads frames of pandas, not a str"):
        Forecaster(horizon=6).fit("mine.csv")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"horizons": 3}, 'key "data.horizons" is not accepted; choose batch_size, '),
        ({"horizon": 6.0}, 'key "horizon": Expected a .*int.* Got value: 6.0'),
        ({"horizon": "6"}, 'key "horizon": Expected a .*int.* Got value: the text 6'),
        ({"horizon": 0}, "data.horizon is 0; it must be from 1 to 1048576"),
        ({"horizon": 10**12}, "data.horizon is 1000000000000; it must be from 1 to 1048576"),
        ({"look_back": 10**12}, "data.look_back is 1000000000000; it must be from 1 to 1048576"),
        ({"predict_rows": 5}, 'key "data.predict_rows" is not accepted'),
        ({"look_back": "null"}, 'key "look_back": Expected a .*int'),
        ({"intervals": 0.9}, 'key "intervals": Expected a .*Sequence.* Got value: 0.9'),
        ({"intervals": None}, 'key "intervals": Expected a .*Sequence.* Got value: None'),
        ({"quantiles": [None]}, 'key "quantiles": Expected a .*float.* Got value: None'),
        ({"non_negative": 1}, 'key "non_negative": Expected a .*bool.* Got value: 1'),
        ({"epochs": 1.5}, 'key "epochs": Expected a .*int.* Got value: 1.5'),
        ({"epochs": None}, 'key "epochs": Expected a .*int.* Got value: None'),
        ({"epochs": -1}, "epochs is -1; it must be at least 0"),
        ({"patience": 0}, "patience is 0; it must be at least 1"),
        ({"minutes": math.inf}, "minutes is inf; give a finite number"),
        ({"minutes": 1e13}, "minutes is .*; it must be from 0 to"),
        ({"seed": -1}, "seed is -1; it must be from 0 to 4294967295"),
        ({"seed": True}, 'key "seed": Expected a .*int.* Got value: True'),
        ({"model": [0]}, 'key "model": Expected a .*dict'),
        ({"model": {"neck": {}}}, "model has no part 'neck'; choose head, backbone, memory, optim"),
        ({"model": {"head": {"patch": 1.5}}}, 'key "model.head.patch": Expected a .*int'),
        ({"model": {"head": {"intervals": [0.8]}}}, 'key "model.head.intervals" is not accepted; choose patch, '),
        ({"model": {"head": {"look_back": 7}}}, 'key "model.head.look_back" is not accepted'),
        ({"model": {"backbone": {"memory": {}}}}, 'key "model.backbone.memory" is not accepted'),
        ({"model": {"backbone": {"dim": None}}}, 'key "model.backbone.dim": Expected a .*int.* Got value: None'),
        ({"model": {"memory": {"depth": 5}}}, "memory.depth is 5; it must be from 1 to 4"),
        ({"model": {"optim": {"lr": -1.0}}}, "optim.lr is -1.0; it must be positive"),
        ({"test_rows": 0.2}, 'key "data.test_rows": Expected a .*int'),
        ({"sentinel": math.nan}, "data.init_args.sentinel is nan; give a finite number"),
        ({"season": 0}, "data.season is 0; give the rows of a season"),
        ({"defects": "drop"}, 'key "data.defects": Expected .*fill.*mask.* Got value: drop'),
        ({"file": "mine.csv"}, 'key "data.file" is not accepted'),
    ],
)
def test_an_argument_is_refused_as_the_command_line_refuses_its_key(keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Forecaster(**{"horizon": 6, **keys})
    assert "\n" not in str(caught.value)


def test_other_calls_take_what_the_command_line_takes(fitted: Forecaster) -> None:
    for call, message in (
        (lambda: fitted.predict(horizon=2.5), 'key "horizon": Expected a .*int'),
        (lambda: fitted.backtest(origins="3"), 'key "origins": Expected a .*int.* Got value: the text 3'),
        (lambda: fitted.backtest(refit=None), 'key "refit": Expected a .*int.* Got value: None'),
        (lambda: fitted.save(3), 'key "path": '),
        (lambda: Forecaster.load(None), "arguments are required: path"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_arguments_of_numpy_and_pandas_and_names_that_look_like_values() -> None:
    names = pd.Index(["a", "null"])
    options = {
        "quantiles": np.array([0.25, 0.5]),
        "minutes": np.float32(0.5),
        "model": {"optim": {"betas": (0.9, 0.99)}},
    }
    config = Forecaster(np.int64(6), targets=names, id_col="null", time_col="[a, b]", **options).config
    data = config["data"]["init_args"]
    assert (data["targets"], data["id_col"], data["time_col"]) == (["a", "null"], "null", "[a, b]")
    assert config["model"]["head"]["init_args"]["quantiles"] == [0.25, 0.5]
    assert yaml.safe_load(yaml.safe_dump(config)) == config  # what a checkpoint carries


@pytest.mark.parametrize(("unit", "level"), [(1.0, 6e9), (1e60, 0.0), (1e-40, 0.0)])
def test_the_unit_and_level_of_a_covariate_mean_nothing(frame: pd.DataFrame, unit: float, level: float) -> None:
    frame["heat"] = np.random.default_rng(1).normal(size=300).round(3)
    frame.iloc[-6:, :2] = np.nan
    options = {"horizon": 6, "look_back": 24, "epochs": 1, "future_covariates": ["heat"], "intervals": []}
    expected = Forecaster(**options).fit(frame).predict().prediction
    other = Forecaster(**options).fit(frame.assign(heat=frame.heat * unit + level)).predict().prediction
    np.testing.assert_allclose(other, expected, rtol=1e-6)


def test_plain_counts_as_time_and_a_heading_of_two_lines_are_told(capsys: pytest.CaptureFixture) -> None:
    frame = pd.DataFrame({"date": np.arange(1, 61), "load\n(kWh)": np.arange(60) % 7 + 0.5})
    table = Forecaster(horizon=2, epochs=1, intervals=[]).fit(frame).predict()
    told = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "targets 1 variables: load (kWh)" in told and "rows 60, every 1, 1 to 60" in told
    assert table.stamp.tolist() == [61, 62]


def test_a_file_of_another_length_is_forecast_by_the_look_back_of_the_model(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    forecaster = Forecaster(horizon=np.int64(6), epochs=1).fit(frame[:150])  # the look-back follows the rows
    expected = forecaster.predict(frame[:100])
    assert list(expected.stamp.unique()) == list(frame.index[100:106])
    forecaster.save("mine.ckpt")
    pd.testing.assert_frame_equal(Forecaster.load("mine.ckpt").predict(frame[:100]), expected)
    frame[:100].rename_axis("date").to_csv("mine.csv")
    main(["predict", "--ckpt", "mine.ckpt", "--input", "mine.csv", "--output", "forecast.csv"])
    np.testing.assert_allclose(pd.read_csv("forecast.csv").prediction, expected.prediction, rtol=1e-9)
    with pytest.raises(ValueError, match="look_back 48 is longer than the series of 20 rows; bring a longer one"):
        forecaster.predict(frame[:20])


def test_checkpoints_go_both_ways(
    fitted: Forecaster,
    frame: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    fitted.save("mine.ckpt")
    frame.rename_axis("date").to_csv("mine.csv")
    main(["predict", "--ckpt", "mine.ckpt", "--input", "mine.csv", "--output", "forecast.csv"])
    table = pd.read_csv("forecast.csv", parse_dates=["origin", "stamp"])
    expected = fitted.predict(frame)
    np.testing.assert_allclose(table.prediction, expected.prediction, rtol=1e-5)
    assert Path("forecast.png").stat().st_size > 1000  # the command draws as well
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "--ckpt", "mine.ckpt"])
    assert "this model was fitted to a DataFrame; name a file" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(UserError, match="has no data of its own; give a frame"):
        Forecaster.load("mine.ckpt").predict()

    options = f"--config {ROOT}/conf/timeseries_csv.yaml --data.file mine.csv --data.look_back 24 --data.horizon 12"
    options += " --trainer.accelerator cpu --trainer.max_epochs 1 --trainer.log_every_n_steps 1"
    options += " --trainer.enable_progress_bar false"
    main(["fit", *options.split(), "--trainer.logger.name", "mine"])
    path = Path("runs/mine/version_0/checkpoints/best.ckpt")
    main(["predict", "--ckpt", str(path)])
    theirs = pd.read_csv("runs/mine/version_0/predictions.csv", parse_dates=["origin", "stamp"])
    ours = Forecaster.load(path)
    np.testing.assert_allclose(ours.predict().prediction, theirs.prediction, rtol=1e-5)  # of the file that it names
    np.testing.assert_allclose(ours.predict(frame).prediction, theirs.prediction, rtol=1e-5)


def test_a_seed_is_a_model_and_patience_and_minutes_end_a_training(frame: pd.DataFrame) -> None:
    options = {"horizon": 6, "look_back": 24, "model": {"optim": {"lr": 1e-2}}}
    states = [Forecaster(**options, epochs=1, seed=seed).fit(frame)._checkpoint["state_dict"] for seed in (1, 1, 2)]
    assert torch.equal(states[0]["head.into.weight"], states[1]["head.into.weight"])
    assert not torch.equal(states[0]["head.into.weight"], states[2]["head.into.weight"])
    ruined = Forecaster(6, 24, epochs=40, patience=2, model={"optim": {"lr": 30.0}}).fit(frame)
    assert ruined._checkpoint["global_step"] == 0  # the linear map: nothing was better
    short = Forecaster(6, 24, epochs=10**6, minutes=0.02, model={"optim": {"lr": 1e-5}}).fit(frame)
    assert short._checkpoint["epoch"] < 1000


def test_demand_that_comes_now_and_then_is_not_forecast_below_zero(tmp_path: Path) -> None:
    """Mostly zeros, one series that begins late, a horizon past the trained one: nothing is negative or unknown."""
    random = np.random.default_rng(0)
    demand = random.poisson(3, (400, 3)) * (random.random((400, 3)) < 0.15)
    demand[:260, 2] = 0
    stamps = pd.date_range("2022-01-01", periods=400, freq="D")
    frame = pd.DataFrame(demand, columns=["a", "b", "late"], index=stamps)
    options = {"horizon": 7, "epochs": 1, "non_negative": True, "quantiles": [0.05, 0.5, 0.95], "season": 7}
    forecaster = Forecaster(**options).fit(frame)
    with pytest.warns(UserWarning, match="forecast from forecasts"):
        table = forecaster.predict(horizon=21)
    values = table[["prediction", "q0.05", "q0.5", "q0.95"]]
    assert len(table) == 63 and values.notna().all(axis=None) and (values >= 0).all(axis=None)
    assert (table["q0.95"] > table["q0.5"]).mean() > 0.9  # also where the start is better than what training makes
    near = table[~table.rolled]
    assert (near.lower_90 >= 0).all() and (near.lower_90 <= near.prediction).all()
    scores = forecaster.backtest(origins=3).scores.query("by == 'all'")
    assert {"naive", "seasonal naive (7 rows)"} <= set(scores.model) and scores[["mse", "mae"]].notna().all(axis=None)
