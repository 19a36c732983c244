"""The learned season: whose phase it takes, and that it learns one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries.clock import counted
from domains.timeseries.cycle import CycleTable
from domains.timeseries.series import Series
from domains.timeseries.windows import Batch

HOUR = 3_600_000_000_000


def test_a_row_takes_the_phase_of_its_stamp() -> None:
    table = CycleTable(24, 1)
    table.course.data = torch.arange(24.0)[:, None]
    origins = [pd.Timestamp("2021-03-05 22:00").value, pd.Timestamp("2020-01-01 00:00").value]
    counts = torch.from_numpy(counted(np.array(origins), "h"))
    after = table(counts, range(1, 4))[..., 0]
    assert after.tolist() == [[23, 0, 1], [1, 2, 3]]  # hours of the day
    assert table(counts, range(-2, 1))[..., 0].tolist() == [[20, 21, 22], [22, 23, 0]]


@pytest.mark.parametrize("zone", ["UTC", "Europe/London", "America/New_York", "Pacific/Auckland", "Asia/Kolkata"])
@pytest.mark.parametrize("freq", ["15min", "h", "D"])
def test_rows_are_counted_one_by_one_in_summer_and_winter(zone: str, freq: str) -> None:
    stamps = pd.date_range("2024-01-01", "2024-12-31", freq=freq, tz=zone)
    counts = counted(stamps.tz_convert("UTC").tz_localize(None).as_unit("ns").asi8, freq, zone)
    assert (np.diff(counts) == 1).all()


def test_months_have_no_cycle(write: Callable[[Series], Path], series: Series) -> None:
    stamps = pd.date_range("1990-01-31", periods=400, freq="ME").as_unit("ns").asi8
    data = TimeSeriesData(
        file=str(write(Series(series.values, series.columns, stamps, "ME"))), look_back=24, horizon=12
    )
    data.setup()
    with pytest.raises(ValueError, match="head.cycle needs rows at a fixed step, .* every 'ME'"):
        ForecastHead(8, 3, 12, look_back=24, cycle=12).fit_to(data)
    with pytest.raises(ValueError, match="at least 2, or 0 for none"):
        ForecastHead(8, 3, 12, look_back=24, cycle=1)


@pytest.mark.parametrize("instance_norm", [True, False])
def test_the_table_is_taken_away_and_given_back(data: TimeSeriesData, instance_norm: bool) -> None:
    """A season that the table knows exactly is invisible to the model and whole in the forecast."""
    head = ForecastHead(8, 3, 12, look_back=24, cycle=24, instance_norm=instance_norm)
    torch.nn.init.zeros_(head.out.weight)
    torch.nn.init.zeros_(head.out.bias)
    season = torch.randn(24, 3)
    season = (season - season.mean(0)) / season.std(0, correction=0)  # what instance norm leaves alone
    head.cycle.course.data = season
    origins = HOUR * torch.tensor([23, 24 + 5])
    past = torch.stack([season.roll(-(int(o) // HOUR + 1), 0) for o in origins])
    batch = Batch(past.double(), torch.zeros(2, 12, 3), origins, counts=origins // HOUR)
    torch.testing.assert_close(
        head.embed(batch)[0], (head.into.bias + head.position).expand(6, -1, -1), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(head.readout(head.embed(batch)[0], batch), batch.past[:, :12], atol=1e-3, rtol=0)


def test_a_season_is_learned(data: TimeSeriesData) -> None:
    head = ForecastHead(8, 3, 12, look_back=24, cycle=24)
    head.fit_to(data)
    batch = data.windows["train"][torch.arange(200)]
    head.loss(head.readout(head.embed(batch)[0], batch), batch).backward()
    assert (head.cycle.course.grad != 0).all()
