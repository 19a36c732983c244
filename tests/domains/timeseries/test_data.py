"""The protocol: borders, windows, what the scaler sees, and where the data comes from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.errors import UserError
from data_prep.files import DownloadError
from data_prep.timeseries import BENCHMARKS
from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries import data as data_module
from domains.timeseries.published import HORIZONS, published_means, published_scores
from domains.timeseries.reader import Content
from domains.timeseries.series import Series
from domains.timeseries.windows import split_ends, split_rows, starts_of


@pytest.mark.parametrize(
    ("name", "rows", "train", "test"),
    [
        ("ETTh1", 17420, (8449, 7825), (2785, 2689, 2545, 2161)),
        ("ETTh2", 17420, (8449, 7825), (2785, 2689, 2545, 2161)),
        ("ETTm1", 69680, (34369, 33745), (11425, 11329, 11185, 10801)),
        ("ETTm2", 69680, (34369, 33745), (11425, 11329, 11185, 10801)),
    ],
)
def test_window_counts_are_the_published_protocols(name: str, rows: int, train: tuple, test: tuple) -> None:
    ends = BENCHMARKS[name].ends
    for horizon, expected in zip((96, 192, 336, 720), test, strict=True):
        assert count(rows, 96, horizon, ends)["test"] == expected
        assert count(rows, 336, horizon, ends)["test"] == expected  # whatever the look-back
    assert (count(rows, 96, 96, ends)["train"], count(rows, 96, 720, ends)["train"]) == train


@pytest.mark.parametrize(
    ("rows", "train", "test"), [(52696, 36696, 10444), (26304, 18221, 5165), (17544, 12089, 3413), (7588, 5120, 1422)]
)
def test_other_series_split_seven_one_two(rows: int, train: int, test: int) -> None:
    counts = count(rows, 96, 96, None)
    assert (counts["train"], counts["test"]) == (train, test)


def count(rows: int, look_back: int, horizon: int, ends: tuple | None) -> dict[str, int]:
    parts = split_rows(ends or split_ends(rows, horizon), look_back, horizon)
    return {name: len(starts_of(part, look_back, horizon)) for name, part in parts.items()}


def test_no_target_lies_before_its_border_and_none_is_left_out(data: TimeSeriesData) -> None:
    hour = {int(stamp): row for row, stamp in enumerate(data.series.stamps)}
    borders = {"train": (24, 280), "val": (280, 320), "test": (320, 400)}
    for part, (first, end) in borders.items():
        windows = data.windows[part]
        origins = [hour[int(stamp)] for stamp in windows.origins]
        assert origins == list(range(first - 1, end - 12))
        past, target, *_ = windows[torch.arange(len(windows))]
        values = torch.from_numpy(data.series.values)
        for i, origin in enumerate(origins):
            assert torch.equal(past[i], values[origin - 23 : origin + 1])
            assert torch.equal(target[i], values[origin + 1 : origin + 13])


def test_evaluation_gives_every_window_once_and_training_none_twice(data: TimeSeriesData) -> None:
    for part, loader in (
        ("val", data.val_dataloader()),
        ("test", data.test_dataloader()),
        ("test", data.predict_dataloader()),
    ):
        stamps = torch.cat([batch.origins for batch in loader])
        assert torch.equal(stamps, data.windows[part].origins)
    stamps = torch.cat([batch.origins for batch in data.train_dataloader()])
    assert len(stamps.unique()) == len(stamps) == len(data.windows["train"]) // 16 * 16


def test_the_scaler_sees_the_train_rows_only(data: TimeSeriesData, head: ForecastHead) -> None:
    rows = data.series.values[:280]
    torch.testing.assert_close(head.mean, torch.tensor(rows.mean(0)))
    torch.testing.assert_close(head.std, torch.tensor(rows.std(0)))


def test_sizes_are_known_before_fit(csv: Path) -> None:
    data = TimeSeriesData(file=str(csv), look_back=24, horizon=12)
    assert (data.input_size, data.output_size) == (3, 12)
    assert TimeSeriesData("ETTm2", horizon=192, source="sample").input_size == 7


@pytest.mark.parametrize(("look_back", "horizon", "part"), [(300, 12, "train"), (96, 160, "train")])
def test_a_window_longer_than_its_part_is_refused(csv: Path, look_back: int, horizon: int, part: str) -> None:
    with pytest.raises(
        ValueError, match=f"{csv}: look_back {look_back} and horizon {horizon} do not fit the {part} part of"
    ):
        TimeSeriesData(file=str(csv), look_back=look_back, horizon=horizon).setup()


def test_parts_grow_to_the_horizon_and_follow_their_keys(csv: Path) -> None:
    data = TimeSeriesData(file=str(csv), look_back=24, horizon=90)
    assert data.ends(data.series) == (220, 310, 400)
    data = TimeSeriesData(file=str(csv), look_back=24, horizon=12, val_rows=20, test_rows=0)
    data.setup()
    assert data.ends(data.series) == (380, 400, 400)
    assert [len(data.windows[part]) for part in ("train", "val", "test")] == [345, 9, 0]
    with pytest.raises(UserError, match="data.test_rows is 0, so there is nothing to test"):
        data.test_dataloader()
    with pytest.raises(ValueError, match="do not fit the val part of 6 rows, which needs 12; .* set data.val_rows"):
        TimeSeriesData(file=str(csv), look_back=24, horizon=12, val_rows=6).setup()


def test_without_validation_rows_everything_is_trained_on(csv: Path) -> None:
    data = TimeSeriesData(file=str(csv), look_back=24, horizon=12, val_rows=0, test_rows=0)
    data.setup()
    assert len(data.windows["train"]) == 400 - 24 - 12 + 1
    assert set(data.windows["val"].origins.tolist()) <= set(data.windows["train"].origins.tolist())
    head = ForecastHead(8, 3, 12, look_back=24)
    with pytest.warns(UserWarning, match="no interval will be given: data.val_rows 0"):
        head.fit_to(data)


def test_the_look_back_follows_the_file(csv: Path) -> None:
    assert TimeSeriesData(file=str(csv), look_back=None, horizon=12).look_back == 96
    short = TimeSeriesData(file=str(csv), look_back=None, horizon=60)
    assert short.look_back == 96  # (280 - 60) / 2 rows would leave as many windows
    assert TimeSeriesData(file=str(csv), look_back=None, horizon=120).look_back == 20


def test_the_future_needs_no_more_than_a_look_back(csv: Path) -> None:
    data = TimeSeriesData(file=str(csv), look_back=400, horizon=12, predict="future")
    data.setup("predict")
    assert len(data.predict_dataloader()) == 1 and data.provenance()["future_windows"] == 1
    with pytest.raises(ValueError, match="look_back 401 is longer than the series of 400 rows"):
        TimeSeriesData(file=str(csv), look_back=401, horizon=12, predict="future").setup("predict")


def test_a_truncated_benchmark_is_refused() -> None:
    data = TimeSeriesData("ETTh1", source="sample")
    series = data.series
    data.content = Content([replace(series, values=series.values[:14000], stamps=series.stamps[:14000])], False, [])
    with pytest.raises(ValueError, match="has 14000 rows but its protocol 14400; the file is truncated"):
        data.setup()


def test_a_benchmark_file_is_checked(csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TITANS_DATA", str(tmp_path))
    (tmp_path / "timeseries").mkdir()
    csv.rename(tmp_path / "timeseries" / "ETTh1.csv")
    with pytest.raises(ValueError, match="ETTh1.csv: sha256 .* delete it and download it again"):
        TimeSeriesData("ETTh1", source="auto").setup()


def test_auto_falls_back_to_a_loud_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, retries: int) -> Path:
        raise DownloadError("no route to host")

    monkeypatch.setenv("TITANS_DATA", str(tmp_path))
    monkeypatch.setattr(data_module, "fetch", unreachable)
    data = TimeSeriesData("ETTh1")
    data.prepare_data()
    with pytest.warns(UserWarning, match="(?s)no route to host.*GENERATED DATA"):
        data.setup()
    assert data.provenance()["data"] == "sample" and data.published() == {}
    assert len(data.windows["test"]) == 2785


def test_file_insists_on_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TITANS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="ETTh1.csv.*data_prep timeseries --sets ETTh1"):
        TimeSeriesData("ETTh1", source="file").setup()


def test_an_unknown_set_and_a_contradiction_are_refused() -> None:
    with pytest.raises(ValueError, match="'ETTh3' is unknown; choose ETTh1"):
        TimeSeriesData("ETTh3")
    with pytest.raises(ValueError, match="exclude each other"):
        TimeSeriesData(file="x.csv", source="sample")
    with pytest.raises(ValueError, match="data.horizon is 0; it must be from 1 to 1048576"):
        TimeSeriesData(horizon=0)


def test_provenance_names_the_file_and_its_checksum(data: TimeSeriesData, series: Series) -> None:
    stamp = data.provenance()
    assert (stamp["data"], stamp["variables"], stamp["test_windows"]) == ("mine", 3, 69)
    assert len(str(stamp["sha256"])) == 64


def test_published_scores_belong_to_one_task() -> None:
    assert published_scores("ETTh1", 96, 96)["iTransformer"] == {"mse": 0.386, "mae": 0.405}
    assert published_scores("ETTm2", 96, 720)["PatchTST"] == {"mse": 0.402, "mae": 0.400}
    assert published_scores("Traffic", 96, 192)["TimeMixer (tail dropped)"] == {"mse": 0.473, "mae": 0.296}
    assert all(len(published_scores(name, 96, 336)) >= 11 for name in BENCHMARKS)
    assert (
        published_scores("ETTh1", 336, 96)
        == published_scores("ETTh1", 96, 48)
        == published_scores("mine", 96, 96)
        == published_means("mine", 96)
        == {}
    )


def test_published_means_keep_look_backs_apart() -> None:
    assert published_means("Weather", 96)["CMamba"] == {"mse": 0.237, "mae": 0.259}
    assert published_means("ECL", 512)["TimeBridge (720, own logs)"] == {"mse": 0.150, "mae": 0.244}
    assert "OLinear" not in published_means("ETTh1", 96) and "linear" not in published_means("Traffic", 96)
    titans = "Titans (look-back not stated)"
    assert all(published_means(name, 96)[titans] == published_means(name, 336)[titans] for name in BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_published_means_are_the_means_of_the_published_horizons(name: str) -> None:
    means = published_means(name, 96)
    shared = means.keys() & published_scores(name, 96, 96).keys()
    assert len(shared) >= 9
    for model in shared:
        for metric in ("mse", "mae"):
            scores = [published_scores(name, 96, horizon)[model][metric] for horizon in HORIZONS]
            assert means[model][metric] == pytest.approx(sum(scores) / 4, abs=0.0015), model  # rounded twice
