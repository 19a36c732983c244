"""Metrics by hand, folds that never see their own future, and the command from end to end."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from app.door import main
from domains.timeseries import TimeSeriesData
from domains.timeseries.backtest import fold_ends, score
from domains.timeseries.metrics import mae, mase, mase_scale, mse, season_length, seasonal_naive, smape, wape
from domains.timeseries.series import Series, sample_series

CONFIG = str(Path(__file__).parents[3] / "conf" / "timeseries_ett.yaml")


def test_metrics_by_hand() -> None:
    truth, forecast = np.array([[[2.0, 0.0, -4.0]]]), np.array([[[1.0, 0.0, 4.0]]])
    assert mse(forecast, truth) == pytest.approx((1 + 0 + 64) / 3)
    assert mae(forecast, truth) == pytest.approx(3)
    assert smape(forecast, truth) == pytest.approx(200 * (1 / 3 + 0 + 1) / 3)
    assert wape(forecast, truth) == pytest.approx(9 / 6)
    assert mase(forecast, truth, np.array([1.5])) == pytest.approx(2)
    assert np.isnan(wape(forecast, np.zeros_like(truth)))


def test_an_unknown_truth_counts_for_nothing() -> None:
    truth, forecast = np.array([[[2.0, np.nan, -4.0]]]), np.array([[[1.0, 7.0, 4.0]]])
    kept = truth[..., [0, 2]], forecast[..., [0, 2]]
    for metric in (mse, mae, smape, wape):
        assert metric(forecast, truth) == metric(*kept[::-1])
    assert mase(forecast, truth, np.ones(1)) == mase(*kept[::-1], np.ones(1))


def test_mase_of_the_seasonal_naive_is_one_on_its_own_train_rows() -> None:
    values = np.random.default_rng(0).normal(size=(240, 2))
    known = np.arange(24, 240, 24)
    naive = seasonal_naive(values, known, 24, 24)
    truth = np.stack([values[k : k + 24].T for k in known])
    assert mase(naive, truth, mase_scale(values, 24)) == pytest.approx(1)


def test_a_constant_variable_has_no_mase_and_spoils_no_other() -> None:
    values = np.stack([np.arange(10.0), np.ones(10)], 1)
    scale = mase_scale(values, 1)
    assert np.isnan(scale[1])
    assert mase(np.zeros((1, 2, 1)), np.full((1, 2, 1), 3.0), scale) == 3


def test_seasonal_naive_repeats_the_last_season() -> None:
    values = np.arange(10.0)[:, None]
    assert seasonal_naive(values, np.array([10, 6]), 5, 3)[:, 0].tolist() == [[7, 8, 9, 7, 8], [3, 4, 5, 3, 4]]
    assert seasonal_naive(values, np.array([10]), 3, 1)[0, 0].tolist() == [9, 9, 9]
    with pytest.raises(ValueError, match="season of 7 rows is longer than the 6 rows known"):
        seasonal_naive(values, np.array([10, 6]), 5, 7)


@pytest.mark.parametrize(
    ("freq", "rows"),
    [("15min", 96), ("10min", 144), ("h", 24), ("5h", 1), ("D", 7), ("2D", 1), ("W-SUN", 52), ("B", 5), ("ME", 12)]
    + [("QS-JAN", 4), ("YE-DEC", 1)],
)
def test_seasons(freq: str, rows: int) -> None:
    assert season_length(freq) == rows


def test_folds_end_where_they_must() -> None:
    ends = (280, 320, 400)
    assert fold_ends(ends, 12, 3, 10, 0) == [(328, 368, 400)]
    assert fold_ends(ends, 12, 3, 10, 1) == [(328, 368, 380), (338, 378, 390), (348, 388, 400)]
    assert fold_ends(ends, 12, 3, 10, 2) == [(328, 368, 390), (348, 388, 400)]
    assert fold_ends(ends, 12, 7, 11, 0)[0][1] == 322
    with pytest.raises(ValueError, match="test part of 80 rows has room for 7 origins 11 rows apart .* not for 8"):
        fold_ends(ends, 12, 8, 11, 0)
    with pytest.raises(ValueError, match="at least 1"):
        fold_ends(ends, 12, 0, 11, 0)


@pytest.mark.parametrize("refit", [0, 1, 2])
def test_every_origin_is_forecast_once_and_no_training_row_follows_it(data: TimeSeriesData, refit: int) -> None:
    stamps, origins = data.series.stamps, []
    for fold in data.folds(5, 7, refit):
        fold.setup()
        tested = [int(o) for batch in fold.predict_dataloader() for o in batch.origins]
        origins += tested
        last_seen = int(fold.windows["val"].origins[-1]) + 12 * 3_600_000_000_000
        assert last_seen == tested[0]  # validation targets end where the first origin stands
        if refit:
            assert len(tested) <= refit
            assert fold.train_rows()[0].stop == np.searchsorted(stamps, tested[0]) + 1 - 40
    assert origins == list(stamps[400 - 12 - 1 - 4 * 7 : 400 - 12 : 7])
    assert len(data.windows["test"]) == 69  # the data itself are as they were


def table(series: Series, known: list[int], horizon: int, forecast: Callable) -> pd.DataFrame:
    """What `forecast_table` would give for origins at `known` rows."""
    rows = []
    for k in known:
        for v, name in enumerate(series.columns):
            for h in range(horizon):
                at = {"series": name, "origin": pd.Timestamp(series.stamps[k - 1]), "step": h + 1}
                rows.append({**at, "prediction": forecast(k, v, h), "truth": series.values[k + h, v]})
    return pd.DataFrame(rows)


def test_scores_by_part_and_beside_naive() -> None:
    series = sample_series(2, 200)
    train = series.values[:100]
    rows = [slice(0, 100)]
    naive = table(series, [150, 160], 4, lambda k, v, h: series.values[k - 1, v])
    scores = score(naive, [series], rows, 24).set_index(["model", "by", "at"]).sort_index()
    for part in scores.loc["this run"].index:
        np.testing.assert_allclose(scores.loc[("this run", *part)], scores.loc[("naive", *part)], rtol=1e-6)
    errors = (naive.truth - naive.prediction) / naive.series.map(dict(zip(series.columns, train.std(0), strict=True)))
    assert scores.loc[("this run", "all", ""), "mse"] == pytest.approx(errors.pow(2).mean(), rel=1e-5)
    assert scores.loc[("this run", "step", 2), "mae"] == pytest.approx(errors[naive.step == 2].abs().mean(), rel=1e-5)
    second = naive.origin == naive.origin.max()
    at = naive.origin.max()
    assert scores.loc[("this run", "origin", at), "mae"] == pytest.approx(errors[second].abs().mean(), rel=1e-5)
    one = naive.series == "series_1"
    whole = naive.truth[one].abs().sum()
    expected = (naive.truth - naive.prediction)[one].abs().sum() / whole
    assert scores.loc[("this run", "series", "series_1"), "wape"] == pytest.approx(expected, rel=1e-5)
    seasonal = table(series, [150, 160], 4, lambda k, v, h: series.values[k - 24 + h, v])
    again = score(seasonal, [series], rows, 24).set_index(["model", "by", "at"])
    overall = again.xs(("all", ""), level=("by", "at"))
    np.testing.assert_allclose(overall.loc["this run"], overall.loc["seasonal naive (24 rows)"], rtol=1e-6)


def test_a_file_shorter_than_a_season_has_no_seasonal_naive() -> None:
    series = sample_series(2, 30)
    scores = score(table(series, [22, 25], 4, lambda k, v, h: 0.0), [series], [slice(0, 20)], 24)
    assert set(scores.model) == {"this run", "naive"} and scores.mase.notna().all()


def test_backtest_with_and_without_refit(
    csv: Path, series: Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    options = f"--config {CONFIG} --data.file {csv} --data.look_back 24 --data.horizon 12 --data.batch_size 128"
    options += " --trainer.accelerator cpu --trainer.max_epochs 1 --trainer.enable_progress_bar false"
    options += " --trainer.enable_model_summary false --trainer.log_every_n_steps 1"
    main(["fit", *options.split()])
    capsys.readouterr()
    run = tmp_path / "runs" / "timeseries_ETTh1_24_12" / "version_0"
    rows = {}
    for refit in ("0", "2"):
        main(["backtest", *options.split(), "--origins", "3", "--refit", refit])
        kept = json.loads((run / "backtest.json").read_text())
        assert kept["origins"] == 3 and kept["refit"] == int(refit) and kept["data"]["data"] == "mine"
        assert set(kept["metrics"]) == {"this run", "naive", "seasonal naive (24 rows)"}
        rows[refit] = pd.read_csv(run / "backtest_predictions.csv", parse_dates=["origin"])
        origins = pd.DatetimeIndex(rows[refit].origin.unique()).as_unit("ns").asi8
        assert list(origins) == list(series.stamps[[363, 375, 387]])
        scores = pd.read_csv(run / "backtest_scores.csv")
        assert set(scores["by"]) == {"all", "origin", "series", "step"}
        told = capsys.readouterr().out
        assert "coverage_90" in scores and "seasonal naive" in told and told.count("  windows  ") == 1
    main(["predict", *options.split(), "--data.predict", "test", "--output", "known.csv"])
    both = rows["0"].merge(pd.read_csv("known.csv", parse_dates=["origin"]), on=["series", "origin", "step"])
    assert len(both) == len(rows["0"]) and np.allclose(both.prediction_x, both.prediction_y)
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]  # a refit leaves no run behind
    assert (rows["0"].truth == rows["2"].truth).all() and (rows["0"].prediction != rows["2"].prediction).any()
    with pytest.raises(SystemExit, match="2"):
        main(["backtest", *options.split(), "--origins", "99"])
    assert "lower --origins or --stride" in capsys.readouterr().err.splitlines()[-1]
