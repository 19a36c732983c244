"""The published sets: their files, their checksums, their traps, and the sizes of their windows on the device."""

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from app.module import TitansModule
from data_prep import timeseries
from data_prep.timeseries import BENCHMARKS, local_file
from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries.reader import read_bare, read_series
from domains.timeseries.windows import Batch, Rows, Windows
from memory import BackboneConfig, MemoryConfig

WHOLE = [name for name in BENCHMARKS if local_file(name) is not None]
ABSENT = "compares with the published files, not ours to commit (ETT is CC BY-ND): python -m data_prep timeseries"


@pytest.mark.parametrize("name", WHOLE or [pytest.param("", marks=pytest.mark.skip(ABSENT))])
def test_a_real_set_is_the_published_one(name: str) -> None:
    data = TimeSeriesData(name, source="file")
    data.setup()
    series = data.series
    assert series.values.shape[1] == BENCHMARKS[name].variables == data.input_size
    assert np.isfinite(series.values).all() and series.missing is None and series.repairs == ""
    assert data.provenance()["sha256"] == BENCHMARKS[name].sha256


@pytest.mark.skipif(local_file("Weather") is None, reason=ABSENT)
def test_weather_keeps_its_sentinels_its_repeated_stamp_and_its_gap() -> None:
    series = TimeSeriesData("Weather", source="file").series
    sentinels = series.values == -9999
    assert series.values.shape == (52696, 21) and sentinels.sum() == 81
    assert not sentinels[int(0.7 * 52696) :].any()  # all in the train part
    steps = np.diff(series.stamps) // 60_000_000_000
    assert series.freq == "10min" and (steps == 0).sum() == 1 and (steps == 100).sum() == 1


@pytest.fixture
def electricity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray]:
    """A small stand-in for ECL, without header and dates, whose checksum the table knows."""
    values = np.random.default_rng(0).normal(size=(300, 4)).round(3)
    path = tmp_path / "timeseries" / "electricity.txt.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(pd.DataFrame(values).to_csv(header=False, index=False).encode()))
    small = replace(BENCHMARKS["ECL"], variables=4, bare_md5=hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setitem(timeseries.BENCHMARKS, "ECL", small)
    monkeypatch.setenv("TITANS_DATA", str(tmp_path))
    return path, values


def test_a_file_without_header_and_dates_gets_the_benchmarks_stamps(electricity: tuple[Path, np.ndarray]) -> None:
    data = TimeSeriesData("ECL", look_back=24, horizon=12, source="file")
    data.setup()
    np.testing.assert_array_equal(data.series.values, electricity[1])
    assert data.series.columns == ["0", "1", "2", "3"] and data.series.freq == "h"
    assert pd.Timestamp(data.series.stamps[0]) == pd.Timestamp("2016-07-01 02:00")
    assert len(data.windows["test"]) == 60 - 12 + 1 and data.provenance()["data"] == "ECL"


def test_a_file_without_header_is_checked_too(electricity: tuple[Path, np.ndarray]) -> None:
    path, _ = electricity
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-9]))
    with pytest.raises(ValueError, match=r"electricity.txt.gz: md5 of the file is \w+, expected \w+; delete it"):
        TimeSeriesData("ECL", source="file").setup()


@pytest.mark.parametrize(
    ("text", "message"),
    [("1,2\n3,x\n", "line 2: column '1' is not numeric"), ("1,2\n3,\n", "line 2: column '1' has no finite value")],
)
def test_a_file_without_header_holds_numbers_only(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(ValueError, match=message):
        read_bare(tmp_path / "x.txt.gz", "2020-01-01", "h")


def test_a_csv_goes_before_the_file_without_header(electricity: tuple[Path, np.ndarray]) -> None:
    csv = electricity[0].with_name("electricity.csv")
    csv.write_text("date,0\n")
    assert local_file("ECL") == csv


@pytest.mark.parametrize("name", ["electricity_sub7", "electricity_head1000", "traffic_sub6"])
def test_subsets_of_the_large_sets_read_as_any_file(name: str) -> None:
    path = timeseries.data_root() / "timeseries" / f"{name}.csv.gz"
    if not path.is_file():
        pytest.skip("checks excerpts of ECL and Traffic, not ours to keep here; made-up ones test the reader above")
    series = read_series(path)
    assert series.freq == "h" and pd.Timestamp(series.stamps[0]) == pd.Timestamp("2016-07-01 02:00")


def test_a_benchmark_is_read_as_everybody_reads_it() -> None:
    with pytest.raises(ValueError, match="data.defects belongs to a file of your own; set data.file or drop it"):
        TimeSeriesData("Weather", defects="fill")


def test_windows_are_gathered_from_one_tensor() -> None:
    values, stamps = torch.randn(2000, 862, dtype=torch.float64), torch.arange(2000)
    rows = Rows(values, values, stamps, torch.zeros(2000, 0), torch.zeros(2000, 0), stamps)
    windows = Windows(rows, torch.arange(1185), 96, 720)
    past, target, origins, *_ = windows[torch.tensor([0, 1184])]
    assert len(windows) == 1185 and (past.shape, target.shape) == ((2, 96, 862), (2, 720, 862))
    assert torch.equal(past[1], values[1184:1280]) and torch.equal(target[1], values[1280:])
    assert origins.tolist() == [95, 1279]


def test_a_step_of_862_variables_and_512_rows_fits_in_16_gb() -> None:
    """Every variable is a sequence of its own, so that eight of one window tell what eight windows of 862 keep."""
    torch.manual_seed(0)
    head = ForecastHead(32, 8, 96, 512, patch=16, stride=8, loss="mae", intervals=())
    module = TitansModule(head, BackboneConfig("lmm", dim=32, layers=1, dropout=0.1, memory=MemoryConfig(heads=2)))
    batch = Batch(*torch.randn(1, 608, 8, dtype=torch.float64).split([512, 96], 1), torch.zeros(1, dtype=torch.int64))
    kept = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        head.loss(module(batch), batch)
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    bytes_of_step = sum(size for place, size in kept.items() if place not in weights) * 862
    assert 1e9 < bytes_of_step < 16e9 - 16 * sum(p.numel() for p in module.parameters())


def test_all_parts_share_one_copy_and_batches_are_gathered_where_it_lies() -> None:
    data = TimeSeriesData("ETTh1", source="sample", marks=["hour"])
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))  # stands in for a GPU
    data.setup()
    assert len({id(windows.rows.values) for windows in data.windows.values()}) == 1
    past, target, origins, (_, future), *_ = next(iter(data.train_dataloader()))
    assert {x.device.type for x in (past, target, origins, future)} == {"meta"}
    assert past.shape == (32, 96, 7) and future.shape == (32, 192, 2)
