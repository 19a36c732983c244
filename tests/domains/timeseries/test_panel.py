"""A panel is many series: own start, end, scale, covariates and origin, and batches that sample them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from app.door import main
from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries.clock import grid_after
from domains.timeseries.understood import ended

CONFIG = str(Path(__file__).parents[3] / "conf" / "timeseries_csv.yaml")
ENDED = pd.Timestamp("2022-06-09")


@pytest.fixture
def panel(tmp_path: Path) -> Path:
    """A series of 200 days, one that begins late at a level a million times higher, and one that ended early."""
    random, tables = np.random.default_rng(0), []
    for name, first, rows, level in (("full", 0, 200, 1.0), ("late", 80, 120, 1e6), ("007", 0, 160, 50.0)):
        days = np.arange(first, first + rows)
        y = level * (10 + np.sin(2 * np.pi * days / 7) + 0.1 * random.normal(size=rows))
        stamps = pd.Timestamp("2022-01-01") + pd.to_timedelta(days, unit="D")
        promo = (days % 5 == len(name) % 5).astype(int)
        tables.append(pd.DataFrame({"unique_id": name, "ds": stamps, "y": y, "promo": promo, "kind": name[0]}))
    path = tmp_path / "panel.csv"
    pd.concat(tables).sample(frac=1, random_state=0).to_csv(path, index=False)
    return path


def opened(path: Path, **keys: object) -> TimeSeriesData:
    keys = {"look_back": 14, "horizon": 7, "batch_size": 16, "defects": "fill", **keys}
    with pytest.warns(UserWarning, match="unsorted stamps"):
        data = TimeSeriesData(file=str(path), **keys)
        data.content  # noqa: B018
    return data


def test_each_series_is_cut_by_its_own_rows(panel: Path) -> None:
    data = opened(panel, val_rows=20, test_rows=30)
    data.setup()
    names = np.array(data.columns)
    assert set(names) == {"full", "late", "007"} and data.panel
    rows = {"full": 200, "late": 120, "007": 160}
    for part, count in (("train", {name: rows[name] - 50 - 20 for name in rows}), ("val", 14), ("test", 24)):
        windows = data.windows[part]
        found = {name: int((names[windows.series] == name).sum()) for name in names}
        assert found == (count if isinstance(count, dict) else dict.fromkeys(names, count))
    batch = data.windows["test"][torch.arange(len(data.windows["test"]))]
    for i, series in enumerate(data.content.series):
        own = batch.series == i
        expected = np.lib.stride_tricks.sliding_window_view(series.values[:, 0], 7)[-24:]
        np.testing.assert_array_equal(batch.target[own][..., 0], expected)


def test_a_batch_samples_series_and_moments_alike(panel: Path) -> None:
    data = opened(panel)
    data.setup()
    batches = list(data.train_dataloader())
    assert all(batch.past.shape == (16, 14, 1) for batch in batches)
    assert sum(len(batch.series.unique()) > 1 for batch in batches) > len(batches) / 2


def test_a_series_has_its_own_scale(panel: Path) -> None:
    data = opened(panel, test_rows=0)
    data.setup()
    head = ForecastHead(8, 3, 7, look_back=14, panel=True)
    head.fit_to(data)
    for series, mean, std in zip(data.content.series, head.mean, head.std, strict=True):
        train = series.values[: data.ends(series)[0], 0]
        assert mean.item() == pytest.approx(train.mean(), rel=1e-12)
        assert std.item() == pytest.approx(train.std(), rel=1e-9)
    batch = data.windows["train"][torch.arange(0, len(data.windows["train"]), 9)]
    assert head.scaled(batch.past, batch).abs().max() < 4
    truth = head.scaled(batch.target, batch)
    table = head.table(truth, batch)
    np.testing.assert_allclose(table.prediction, table.truth, rtol=1e-12)
    assert head.loss(truth, batch) == 0


def test_covariates_are_each_series_own_and_static_ones_have_no_end(panel: Path) -> None:
    keys = {"future_covariates": ["promo"], "static_covariates": ["kind"], "targets": ["y"]}
    data = opened(panel, **keys)
    data.setup()
    assert data.input_names == ["promo", "kind=0", "kind=f", "kind=l"] and data.future_size == 4
    batch = data.windows["train"][torch.arange(len(data.windows["train"]))]
    names = np.array(data.columns)[batch.series]
    days = (pd.DatetimeIndex(batch.origins.numpy()) - pd.Timestamp("2022-01-01")).days.to_numpy()[:, None]
    remainder = np.array([len(name) % 5 for name in names])[:, None]
    np.testing.assert_array_equal(batch.covariates.future[..., 0], (days + np.arange(-13, 8)) % 5 == remainder)
    kinds = np.array([[name[0] == kind for kind in "0fl"] for name in names], np.float32)
    np.testing.assert_array_equal(batch.covariates.future[:, -1, 1:], kinds)
    static = opened(panel, static_covariates=["kind"], targets=["y"], predict="future")
    with pytest.warns(UserWarning, match="1 series ends early"):
        static.setup("predict")
    assert len(next(iter(static.predict_dataloader())).past) == 3
    with pytest.raises(ValueError, match="line .* static covariate 'promo' is .* in another row of the same series"):
        TimeSeriesData(file=str(panel), static_covariates=["promo"], targets=["y"], defects="fill").content  # noqa: B018


def static(folder: Path, cells: list[str], separator: str = ",") -> TimeSeriesData:
    """Two series of nine days, each with one cell in all its rows."""
    rows = [separator.join([f"s{i}", f"2024-01-{day + 1:02}", "1", cells[i]]) for i in range(2) for day in range(9)]
    (folder / "mine.csv").write_text("\n".join([separator.join(["unique_id", "ds", "y", "size"]), *rows]))
    return TimeSeriesData(file=str(folder / "mine.csv"), static_covariates=["size"])


@pytest.mark.parametrize(
    ("cells", "separator", "said"),
    [
        (["1400000123", "1400000124"], ",", ["size", 1400000123.0, 1400000124.0]),  # float32 takes both for one
        (["0,5", "1,5"], ";", ["size", 0.5, 1.5]),
        (["NA", "EU"], ",", ["size=EU", 0.0, 1.0]),
    ],
)
def test_static_numbers_are_those_of_the_file(tmp_path: Path, cells: list[str], separator: str, said: list) -> None:
    content = static(tmp_path, cells, separator).content
    assert [content.future_names[0], *(series.future[0, 0] for series in content.series)] == said


@pytest.mark.parametrize(("cell", "message"), [("inf", "is infinite; write a number"), ("", "is empty; write what it")])
def test_static_covariates_say_something(tmp_path: Path, cell: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"line 11: static covariate 'size' {message}"):
        static(tmp_path, ["1", cell]).content  # noqa: B018


@pytest.mark.parametrize(
    ("steps", "freq", "season"),
    [
        (("W-MON", "W-WED", "W-SUN"), "7D", 52),
        (("MS", "ME", "MS"), "M@1", 12),
        (("QS-JAN", "QE-FEB", "QS-JAN"), "3M@1", 4),
        (("YE", "YS-JUL", "YS-JUL"), "12M@1", 1),
    ],
)
def test_weeks_and_months_may_begin_on_another_day_in_each_series(steps: tuple, freq: str, season: int) -> None:
    """Weeks go on from the series' own day, months from the first."""
    tables = []
    for i, step in enumerate(steps):
        stamps = pd.date_range("2014-01-01", periods=120, freq=step)
        tables.append(pd.DataFrame({"unique_id": f"series_{i}", "ds": stamps, "y": np.arange(120.0) % 12}))
    data = TimeSeriesData.of(pd.concat(tables), look_back=24, horizon=3, time_col="ds")
    assert (data.freq, data.season, ended(data)) == (freq, season, "")
    for series in data.content.series:
        last, following = pd.DatetimeIndex([series.stamps[-1], *grid_after(int(series.stamps[-1]), freq, 1)])
        wanted = pd.Timedelta("7D") if freq == "7D" else pd.DateOffset(months=12 // season)
        assert following == last + wanted
        assert len(series.stamps) == 120


def test_a_series_too_short_for_its_look_back_is_named_and_left_out(panel: Path) -> None:
    table = pd.read_csv(panel, dtype={"unique_id": str})
    few = table[table.unique_id == "full"].sort_values("ds").tail(9).assign(unique_id="few")
    pd.concat([table, few]).to_csv(panel, index=False)
    data = opened(panel, predict="future")
    with pytest.warns(UserWarning, match="1 is shorter than the look-back of 14 and left out: few"):
        data.setup("predict")
    assert len(data.windows["future"]) == 3


def test_a_panel_goes_through_every_command(
    panel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(panel.parent)
    options = f"--config {CONFIG} --data.file {panel} --data.targets [y] --data.look_back null --data.horizon 7"
    options += " --data.defects fill --data.static_covariates [kind] --trainer.accelerator cpu --trainer.max_epochs 1"
    options += " --trainer.enable_progress_bar false --trainer.enable_model_summary false --trainer.log_every_n_steps 1"
    with pytest.warns(UserWarning):
        main(["fit", *options.split()])
    told = capsys.readouterr().out
    for part in ("3 series, each on its own", "look-back 49, horizon 7", "kind=0, kind=f, kind=l", "007 at 2022-06-09"):
        assert part in told
    with pytest.warns(UserWarning):
        main(["test", *options.split()])
        main(["backtest", *options.split(), "--origins", "2"])
    run = panel.parent / "runs" / "timeseries_csv" / "version_0"
    scores = pd.read_csv(run / "backtest_scores.csv")
    assert set(scores[scores["by"] == "series"]["at"]) == {"full", "late", "007"}
    early = "1 series ends early and is forecast from there: 007"
    with pytest.warns(UserWarning, match="unsorted"), pytest.warns(UserWarning, match=early):
        main(["predict", "--ckpt", str(run / "checkpoints" / "best.ckpt")])
    table = pd.read_csv(run / "predictions.csv", dtype={"series": str}, parse_dates=["origin", "stamp"])
    first = table[table.step == 1].set_index("series").stamp
    assert first["007"] == ENDED + pd.Timedelta("1D") and first["full"] == first["late"] == pd.Timestamp("2022-07-20")
    level = table.groupby("series").prediction.mean()
    assert level["late"] == pytest.approx(1e7, rel=0.2) and level["full"] == pytest.approx(10, rel=0.2)
