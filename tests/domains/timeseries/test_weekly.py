"""All columns of ECL and Traffic: their weekly sums, which another archive publishes, and a step of 321 variables."""

import gzip
from pathlib import Path
from time import process_time

import numpy as np
import pytest
import torch

from app.module import TitansModule
from data_prep.files import data_root
from data_prep.timeseries import local_file
from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries.reader import read_series
from domains.timeseries.series import Series
from memory import BackboneConfig, MemoryConfig

FOLDER = data_root() / "timeseries"
ABSENT = (
    "checks excerpts of ECL and Traffic against the Monash archive's weekly sums, which are not ours to commit: put "
    "them into TITANS_DATA/timeseries; made-up files test the reader in test_benchmarks.py"
)
WEEK = 168
ROUNDED = 2e-3  # what sums of values with four decimals may be off by
EXCERPTS = {"ECL": "electricity_sub7.csv.gz", "Traffic": "traffic_sub6.csv.gz"}
SUMS = {"ECL": "electricity_weekly.tsf.gz", "Traffic": "traffic_weekly.tsf.gz"}


def weekly_sums(path: Path) -> np.ndarray:
    """The sums [V, weeks] of a file of the Monash archive."""
    lines = gzip.decompress(path.read_bytes()).decode("latin-1").splitlines()
    return np.array([line.split(":")[-1].split(",") for line in lines[lines.index("@data") + 1 :]], np.float64)


def differing(series: Series, sums: np.ndarray) -> list[str]:
    """Columns whose weeks do not add up to the sums; column 7 is the eighth, and OT the last."""
    weeks = sums.shape[1]
    own = series.values[: WEEK * weeks].reshape(weeks, WEEK, -1).sum(1).T
    places = [int(name) if name.isdigit() else len(sums) - 1 for name in series.columns]
    wrong = np.abs(own - sums[places]).max(1) > ROUNDED
    return [name for name, differs in zip(series.columns, wrong, strict=True) if differs]


@pytest.mark.parametrize("name", SUMS)
def test_every_column_adds_up_to_its_weekly_sums(name: str) -> None:
    """Of the whole set where it is there, else of an excerpt, and a cell that was changed is found."""
    whole = local_file(name)
    if not (FOLDER / SUMS[name]).is_file() or not (whole or (FOLDER / EXCERPTS[name]).is_file()):
        pytest.skip(ABSENT)
    series = TimeSeriesData(name, source="file").series if whole else read_series(FOLDER / EXCERPTS[name])
    sums = weekly_sums(FOLDER / SUMS[name])
    assert len(sums) == {"ECL": 321, "Traffic": 862}[name]
    assert differing(series, sums) == []
    series.values[1000, 3] += 0.01
    assert differing(series, sums) == [series.columns[3]]


def test_a_step_of_321_variables_is_small_and_quick() -> None:
    """Two windows of the sizes of conf/timeseries_ecl.yaml; the 16 of its batches keep eight times as much."""
    path = FOLDER / "electricity_all321_last840rows.csv.gz"
    if not path.is_file():
        pytest.skip(ABSENT)
    data = TimeSeriesData(file=str(path), batch_size=2)
    data.setup()
    assert data.input_size == 321
    head = ForecastHead(32, 321, 96, 96, patch=16, stride=8, loss="mae", intervals=())
    head.fit_to(data)
    module = TitansModule(head, BackboneConfig("lmm", dim=32, layers=1, dropout=0.1, memory=MemoryConfig(heads=2)))
    kept = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    batch = next(iter(data.train_dataloader()))
    start = process_time()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = head.loss(module(batch), batch)
    loss.backward()
    seconds = process_time() - start
    assert seconds < 5 and sum(kept.values()) < 250e6
