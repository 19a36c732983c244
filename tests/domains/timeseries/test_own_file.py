"""A file of one's own: long and wide, parquet, defects that are filled or masked, covariates, and what they feed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries.marks import calendar_marks
from domains.timeseries.reader import Keys, read_file, read_series
from domains.timeseries.windows import Covariates

Table = pd.DataFrame
START = pd.Timestamp("2024-01-01")


@pytest.fixture
def wide() -> Table:
    """200 hours of two variables, a covariate that is measured with them, and one that is known beforehand."""
    random = np.random.default_rng(0)
    stamps = pd.date_range(START, periods=200, freq="h")
    values = random.normal(size=(200, 3)).round(3)
    table = Table(values, columns=["north", "south", "wind"])
    table.insert(0, "time", stamps)
    return table.assign(holiday=(stamps.day_of_week >= 5).astype(int))


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Table], Path]:
    def save(table: Table, name: str = "mine.csv") -> Path:
        path = tmp_path / name
        table.to_parquet(path) if name.endswith("parquet") else table.to_csv(path, index=False)
        return path

    return save


def long_of(wide: Table) -> Table:
    """`wide`, one row per variable and moment."""
    table = wide.melt(["time", "holiday"], ["north", "south"], "unique_id", "y")
    return table.rename(columns={"time": "ds"})


def test_targets_choose_and_order_the_columns(wide: Table, save: Callable) -> None:
    series = read_series(save(wide), Keys("time", targets=["south", "north"]))
    assert series.columns == ["south", "north"] and series.freq == "h"
    np.testing.assert_allclose(series.values, wide[["south", "north"]], rtol=1e-6)
    assert read_series(save(wide), Keys("time")).columns == ["north", "south", "wind", "holiday"]


@pytest.mark.parametrize("name", ["mine.csv", "mine.csv.gz", "mine.parquet"])
def test_every_format_holds_the_same_series(wide: Table, save: Callable, name: str) -> None:
    series, other = read_series(save(wide, name), Keys("time")), read_series(save(wide), Keys("time"))
    np.testing.assert_array_equal(series.values, other.values)
    np.testing.assert_array_equal(series.stamps, other.stamps)


def test_parquet_may_keep_time_in_its_index_and_names_rows(wide: Table, save: Callable) -> None:
    series = read_series(save(wide.set_index("time"), "mine.parquet"), Keys("time"))
    assert series.columns == ["north", "south", "wind", "holiday"]
    wide.loc[5, "north"] = np.nan
    with pytest.raises(ValueError, match=r"mine.parquet: 1 cell without a finite value \(row 6 'north'\)"):
        read_series(save(wide, "mine.parquet"), Keys("time"))


def test_a_damaged_parquet_and_an_unknown_ending_are_named(wide: Table, save: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="mine.parquet: not a parquet file that can be read .*; export it again"):
        read_series(tmp_path / "mine.parquet")
    (tmp_path / "mine.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match="mine.xlsx: ends in neither .csv, .csv.gz nor .parquet"):
        read_series(tmp_path / "mine.xlsx")


def test_a_long_file_is_its_wide_one(wide: Table, save: Callable) -> None:
    table = long_of(wide)
    found = read_file(save(table.drop(columns="holiday")), Keys())  # unique_id, ds and y need no key
    expected = read_series(save(wide), Keys("time", targets=["north", "south"]))
    assert found.panel and [series.columns for series in found.series] == [["north"], ["south"]]
    shuffled = table.rename(columns={"unique_id": "site", "ds": "at", "y": "load"}).sort_values(["at", "site"])
    other = read_file(save(shuffled), Keys("at", ["load"], "site", future_covariates=["holiday"]))
    for i in range(2):
        for series in (found.series[i], other.series[i]):
            np.testing.assert_array_equal(series.values[:, 0], expected.values[:, i])
            np.testing.assert_array_equal(series.stamps, expected.stamps)
        np.testing.assert_array_equal(other.series[i].future[:, 0], wide.holiday)


@pytest.mark.parametrize("long", [True, False])
def test_a_series_begins_and_ends_where_its_values_do(wide: Table, save: Callable, long: bool) -> None:
    wide = wide[["time", "north", "south"]].assign(south=wide.south.where((wide.index >= 30) & (wide.index < 190)))
    table = long_of(wide.assign(holiday=0)).drop(columns="holiday").dropna() if long else wide
    content = read_file(save(table), Keys("time"))
    north, south = content.series
    assert content.panel and (len(north.stamps), len(south.stamps)) == (200, 160)
    assert south.stamps[0] == north.stamps[30] and south.stamps[-1] == north.stamps[189]
    np.testing.assert_array_equal(south.values[:, 0], wide.south[30:190])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda t: pd.concat([t, t[7:8]]),
            r"1 unsorted stamp .*1 duplicate stamp \(line 402: 2024-01-01 07:00:00 of 'north'",
        ),
        (
            lambda t: t.assign(unique_id=t.unique_id.where(t.index != 3)),
            "line 5: column 'unique_id' is empty; name the",
        ),
        (
            lambda t: t.assign(unique_id=t.unique_id.where(t.index != 3, "\t")),
            "line 5: column 'unique_id' is empty; name the",
        ),
        (
            lambda t: t.assign(y=t.y.astype(object).where(t.index != 3, "?")),
            r"line 5: column 'y' is not numeric \('\?'\)",
        ),
    ],
)
def test_a_defect_of_a_long_file_is_named(wide: Table, save: Callable, edit: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_file(save(edit(long_of(wide).drop(columns="holiday"))), Keys())


def test_a_covariate_of_a_long_file_belongs_to_its_series(wide: Table, save: Callable) -> None:
    table = long_of(wide)
    table.loc[207, "holiday"] = 5
    north, south = read_file(save(table), Keys("ds", ["y"], "unique_id", future_covariates=["holiday"])).series
    assert south.future[7, 0] == 5 and north.future[7, 0] == 0


@pytest.fixture
def broken(wide: Table) -> Table:
    """`wide` with every defect: a gap of two rows, two empty cells, a repeated row and two rows out of order."""
    wide = wide[["time", "north", "south"]].copy()
    wide.loc[20, "north"], wide.loc[21, "south"] = np.nan, np.inf
    again = wide[40:41].assign(north=9.0)
    rows = [wide[:50], wide[52:100], wide[101:102], wide[100:101], wide[102:], again]
    return pd.concat(rows, ignore_index=True)


def test_every_defect_is_told_at_once_with_its_rows(broken: Table, save: Callable) -> None:
    with pytest.raises(ValueError) as caught:
        read_series(save(broken), Keys("time"))
    assert "\n" not in str(caught.value)
    for part in (
        "2 unsorted stamps (line 101: 2024-01-05 04:00:00, line 200: 2024-01-02 16:00:00)",
        "1 duplicate stamp (line 200: 2024-01-02 16:00:00)",
        "1 gap in time (line 52: 2024-01-03 01:00:00 is followed by 2024-01-03 04:00:00)",
        "2 cells without a finite value (line 22 'north', line 23 'south')",
        "or set data.defects to fill or mask",
    ):
        assert part in str(caught.value)


def test_filling_repairs_and_says_so(broken: Table, wide: Table, save: Callable) -> None:
    series = read_series(save(broken), Keys("time", defects="fill"))
    expected = wide[["north", "south"]].to_numpy(np.float32, copy=True)
    expected[20, 0], expected[21, 1], expected[40, 0], expected[50:52] = (
        expected[19, 0],
        expected[20, 1],
        9,
        expected[49],
    )
    np.testing.assert_allclose(series.values, expected)
    assert series.missing is None and "2 unsorted stamps" in series.repairs and "1 gap in time" in series.repairs
    assert (np.diff(series.stamps) == 3_600_000_000_000).all() and len(series.stamps) == 200


def test_masking_fills_and_marks(broken: Table, save: Callable) -> None:
    filled, masked = (read_series(save(broken), Keys("time", defects=way)) for way in ("fill", "mask"))
    np.testing.assert_array_equal(filled.values, masked.values)
    assert sorted(map(tuple, np.argwhere(masked.missing))) == [(20, 0), (21, 1), (50, 0), (50, 1), (51, 0), (51, 1)]


@pytest.mark.parametrize("freq", ["15min", "D", "W-SUN", "B", "ME", "QS-JAN"])
def test_a_gap_does_not_hide_the_frequency(tmp_path: Path, freq: str) -> None:
    stamps = pd.date_range("2015-01-01", periods=80, freq=freq).delete([30, 31, 60])
    Table({"date": stamps, "load": np.arange(77.0)}).to_csv(tmp_path / "mine.csv", index=False)
    series = read_series(tmp_path / "mine.csv", Keys(defects="fill"))
    assert series.freq == freq and len(series.stamps) == 80
    assert series.repairs.startswith("2 gaps in time (line 32:")


def test_stamps_off_the_grid_are_refused_even_where_gaps_are_filled(wide: Table, save: Callable) -> None:
    wide.loc[70, "time"] += pd.Timedelta("7min")
    with pytest.raises(
        ValueError, match="line 72: 2024-01-03 22:07:00 is none of the stamps of 'h' .* resample the file"
    ):
        read_series(save(wide), Keys("time", defects="fill"))
    with pytest.raises(ValueError, match="200 rows .* are nearly all gaps at 's'; set data.freq"):
        read_series(save(wide), Keys("time", freq="s", defects="fill"))
    with pytest.raises(ValueError, match="data.freq 'hourly' is no frequency; write 15min, h, D"):
        read_series(save(wide), Keys("time", freq="hourly"))
    with pytest.raises(ValueError, match="data.freq '-1D' does not go forward; write 15min, h, D"):
        read_series(save(wide), Keys("time", freq="-1D"))
    with pytest.raises(
        ValueError, match="line 2: 2024-01-01 00:00:00 is none of the stamps of 'ME' rows .200 such.; res"
    ):
        read_series(save(wide), Keys("time", freq="ME"))  # no month ends between the first row and the last
    with pytest.raises(ValueError, match="column 'wind' is not numeric .'calm'.; .* leave it out of data.past_covari"):
        read_series(save(wide.assign(wind="calm")), Keys("time", past_covariates=["wind"]))
    counts = pd.DataFrame({"date": range(0, 24, 2), "y": range(12)})
    assert read_series(save(counts), Keys(freq="2")).stamps.tolist() == counts.date.tolist()
    digits = pd.date_range("2024-01-28", periods=12).strftime("%d%m%Y")
    with pytest.raises(
        ValueError, match="gaps at '1000000'; set data.freq .* or data.time_format to the form of dates"
    ):
        read_series(save(pd.DataFrame({"date": digits, "y": range(12)})), Keys(defects="fill"))
    days = pd.date_range("2024-03-25", periods=12, tz="Europe/Berlin").tz_convert("UTC")
    with pytest.raises(ValueError, match=r"line 9: .* none of .*data.freq, or data.time_zone to the zone whose days"):
        read_series(save(pd.DataFrame({"date": days.strftime("%Y-%m-%dT%H:%MZ"), "y": range(12)})))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"time_col": "date"}, r"no column 'date' among \['time', .* set data.time_col to the time column"),
        ({"targets": ["east"]}, "no column 'east' among .* set data.targets to columns it has"),
        ({"past_covariates": ["rain"]}, "no column 'rain' among .* set data.past_covariates to columns it has"),
        ({"targets": ["north"], "past_covariates": ["north"]}, "'north' stands in data.targets and in data.past_cov"),
        ({"id_col": "holiday"}, r"needs exactly one value column, data.targets: \[y\]; its columns are \['time'"),
    ],
)
def test_a_key_that_does_not_fit_the_file_is_named(wide: Table, save: Callable, keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_series(save(wide), Keys(**{"time_col": "time", **keys}))


def test_a_sentinel_is_an_empty_cell(wide: Table, save: Callable) -> None:
    wide.loc[[3, 4], "north"] = -9999
    assert read_series(save(wide), Keys("time")).values.min() == -9999
    with pytest.raises(ValueError, match=r"2 cells without a finite value \(line 5 'north', line 6 'north'\)"):
        read_series(save(wide), Keys("time", sentinel=-9999))
    series = read_series(save(wide), Keys("time", sentinel=-9999, defects="mask"))
    assert series.missing.sum() == 2 and series.values.min() > -10


def test_repeated_moments_make_no_series(wide: Table, save: Callable) -> None:
    with pytest.raises(ValueError, match="mine.csv: 199 duplicate stamps .*; name the column .* in data.id_col"):
        read_series(save(wide.assign(time=START)), Keys("time", defects="fill"))


def test_a_variable_without_a_value_is_refused(wide: Table, save: Callable) -> None:
    with pytest.raises(ValueError, match=r"columns \['wind'\] have no finite value at all"):
        read_series(save(wide.assign(wind=np.nan)), Keys("time", ["north", "wind"], defects="mask"))
    content = read_file(save(wide.assign(wind=np.nan)), Keys("time"))
    assert "wind" not in content.series[0].columns and content.said == ["empty column wind left out"]
    late = wide.assign(wind=wide.wind.where((wide.index == 0) | (wide.index > 190)))
    data = TimeSeriesData(file=str(save(late)), time_col="time", look_back=12, horizon=6, defects="mask")
    with pytest.warns(UserWarning, match="190 cells"):
        data.content.series[0].missing[0] = True
    with pytest.raises(ValueError, match=r"\['wind'\] have no value in the train rows"):
        data.setup()


def own(path: Path, **keys: object) -> TimeSeriesData:
    return TimeSeriesData(
        **{"file": str(path), "time_col": "time", "look_back": 12, "horizon": 6, "batch_size": 8, **keys}
    )


def test_repairs_are_told_and_recorded(broken: Table, save: Callable) -> None:
    data = own(save(broken), defects="mask")
    with pytest.warns(UserWarning, match="mine.csv: 2 unsorted stamps .*; filled and kept out of losses and metrics"):
        data.setup()
    assert "1 gap in time" in data.provenance()["repairs"]


@pytest.mark.filterwarnings("ignore:.*cells without:UserWarning")
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_masked_cells_count_nowhere_whatever_the_batch(wide: Table, save: Callable, batch_size: int) -> None:
    holes = np.random.default_rng(1).random((200, 2)) < 0.3
    holes[[0, -1]] = False
    wide[["north", "south"]] = wide[["north", "south"]].mask(holes)
    data = own(save(wide), targets=["north", "south"], defects="mask", batch_size=batch_size)
    data.setup()
    head = ForecastHead(8, 2, 6, look_back=12)
    head.fit_to(data)
    train = wide[["north", "south"]][:140]
    np.testing.assert_allclose(head.mean, train.mean(), rtol=1e-5)
    np.testing.assert_allclose(head.std, train.std(ddof=0), rtol=1e-5)
    metrics, errors = head.metrics(), []
    for batch in data.test_dataloader():
        assert batch[0].isfinite().all()
        output = head.readout(head.embed(batch)[0], batch).detach()
        head.update(metrics, output, batch)
        errors.append((output - head.scaled(batch.target, batch)).numpy())
    errors = np.concatenate(errors)
    counted = np.lib.stride_tricks.sliding_window_view(~holes[160:], 6, axis=0).sum()
    assert np.isfinite(errors).sum() == counted
    score = metrics.compute()
    assert score["mse"].item() == pytest.approx(np.nanmean(errors**2), rel=1e-5)
    assert score["mae"].item() == pytest.approx(np.nanmean(abs(errors)), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*cells without:UserWarning")
@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_the_loss_is_the_mean_of_what_was_measured(wide: Table, save: Callable, loss: str) -> None:
    wide.loc[60:90, "north"] = np.nan
    data = own(save(wide), targets=["north", "south"], defects="mask")
    data.setup()
    head = ForecastHead(8, 2, 6, look_back=12, loss=loss)
    head.fit_to(data)
    batch = data.windows["train"][torch.arange(40, 60)]
    output = torch.randn(20, 6, 2, requires_grad=True)
    head.loss(output, batch).backward()
    known = batch[1].isfinite()
    assert 0 < known.sum() < known.numel() and (output.grad[~known] == 0).all() and (output.grad[known] != 0).all()
    expected = head.criterion(output[known].double(), head.scaled(batch.target, batch)[known])
    torch.testing.assert_close(head.loss(output, batch), expected)


def test_covariates_and_marks_stand_beside_their_rows(wide: Table, save: Callable) -> None:
    data = own(save(wide), past_covariates=["wind"], future_covariates=["holiday"], marks=["hour", "weekday"])
    data.setup()
    assert (data.input_size, data.past_size, data.future_size) == (2, 1, 5)
    past, target, origins, covariates, *_ = data.windows["test"][torch.tensor([0, 30])]
    rows = [int((stamp - START.value) / 3.6e12) for stamp in origins]
    assert rows == [159, 189] and past.shape == (2, 12, 2) and target.shape == (2, 6, 2)
    marks = calendar_marks(data.series.stamps, ["hour", "weekday"])
    for i, row in enumerate(rows):
        np.testing.assert_allclose(covariates.past[i, :, 0], wide.wind[row - 11 : row + 1], rtol=1e-6)
        np.testing.assert_array_equal(covariates.future[i, :, 0], wide.holiday[row - 11 : row + 7])
        np.testing.assert_array_equal(covariates.future[i, :, 1:], marks[row - 11 : row + 7])


def test_marks_close_their_cycles() -> None:
    stamps = pd.date_range("2024-01-01", "2025-01-02", freq="h", unit="ns").asi8
    marks = calendar_marks(stamps, ["hour", "weekday", "yearday"])
    assert marks.shape == (len(stamps), 6) and abs(marks).max() <= 1
    for name, cycle in (("hour", 24), ("weekday", 168), ("yearday", 366 * 24)):
        (sine, cosine) = calendar_marks(stamps, [name]).T
        np.testing.assert_allclose(sine[cycle:], sine[:-cycle], atol=0.02)
        assert abs(cosine[cycle - 1] - cosine[0]) < 0.4  # no jump where one cycle ends
        assert len(np.unique(np.round(np.stack([sine, cosine]), 4)[:, :cycle], axis=1).T) > 6  # tells its hours apart


def test_a_future_covariate_must_reach_the_horizon(wide: Table, save: Callable) -> None:
    ahead = Table({"time": pd.date_range(wide.time.iloc[-1], periods=7, freq="h")[1:], "holiday": 1})
    keys = {"past_covariates": ["wind"], "future_covariates": ["holiday"], "marks": ["hour"], "predict": "future"}
    data = own(save(pd.concat([wide, ahead])), **keys)
    data.setup("predict")
    ((past, target, origin, covariates, *_),) = data.predict_dataloader()
    assert len(data.series.stamps) == 200 and origin.item() == data.series.stamps[-1] and target.isnan().all()
    np.testing.assert_array_equal(covariates.future[0, :, 0], [*wide.holiday[-12:], *[1] * 6])
    hours = calendar_marks(pd.date_range(wide.time.iloc[188], periods=18, freq="h", unit="ns").asi8, ["hour"])
    np.testing.assert_array_equal(covariates.future[0, :, 1:], hours)
    assert covariates.past.isfinite().all() and past.isfinite().all()

    short = own(save(pd.concat([wide, ahead[:4]])), **keys)
    needed = (
        "data.future_covariates of 'north' are known for 4 rows past the last value, but a horizon of 6 needs them up "
        "to 2024-01-09 13:00"
    )
    with pytest.raises(ValueError, match=f"mine.csv: {needed}.*; append rows that hold them"):
        short.setup("predict")
    short.setup("test")  # only a forecast past the end needs more


def test_covariates_reach_tokens_and_forecast_but_not_before_their_time(wide: Table, save: Callable) -> None:
    data = own(save(wide), past_covariates=["wind"], future_covariates=["holiday"], marks=["hour"])
    data.setup()
    head = ForecastHead(8, 2, 6, look_back=12, patch=5, stride=5, past_size=1, future_size=3)
    head.fit_to(data)
    np.testing.assert_allclose(head.covariates.mean[:2], wide[["wind", "holiday"]][:140].mean(), rtol=1e-5)
    torch.nn.init.normal_(head.covariates.ahead.weight)
    windows = data.windows["train"][torch.arange(0, 64, 16)]
    covariates = windows.covariates

    def answer(beside: Covariates) -> tuple[torch.Tensor, torch.Tensor]:
        batch = windows._replace(covariates=beside)
        tokens, _ = head.embed(batch)
        return tokens, head.readout(tokens, batch)

    inputs = [x.clone().requires_grad_() for x in covariates]
    tokens, forecast = answer(Covariates(*inputs))
    assert tokens.shape == (8, 3, 8) and forecast.shape == (4, 6, 2)
    of_tokens = torch.autograd.grad(tokens.square().sum(), inputs, retain_graph=True)
    assert (of_tokens[0] != 0).all() and (of_tokens[1][:, :12] != 0).all() and (of_tokens[1][:, 12:] == 0).all()
    of_step = torch.autograd.grad(forecast[:, 2].square().sum(), inputs)[1][:, 12:]
    assert (of_step[:, 2] != 0).all() and (of_step[:, [0, 1, 3, 4, 5]] == 0).all()  # each step sees its own moment


def test_a_checkpoint_carries_the_covariates_scaler(wide: Table, save: Callable, tmp_path: Path) -> None:
    data = own(save(wide), past_covariates=["wind"], marks=["hour"])
    data.setup()
    head, other = (ForecastHead(8, 3, 6, look_back=12, past_size=1, future_size=2) for _ in range(2))
    head.fit_to(data)
    torch.save(head.state_dict(), tmp_path / "head.pt")
    other.load_state_dict(torch.load(tmp_path / "head.pt", weights_only=True))
    batch = data.windows["test"][torch.arange(5)]
    assert torch.equal(head.embed(batch)[0], other.embed(batch)[0])
    assert not any("covariates" in name for name in ForecastHead(8, 3, 6, look_back=12).state_dict())
