"""Intervals of a panel whose validation part is a quiet half of the year."""

import numpy as np
import pandas as pd
import pytest
import torch

from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries.harder import beyond_validation


def panel(loud: float) -> TimeSeriesData:
    """40 series of four years of weeks, whose noise is `loud` times as strong in the second half of each."""
    random = np.random.default_rng(0)
    weeks = np.arange(4 * 52)
    tables = []
    for i in range(40):
        noise = random.normal(size=len(weeks)) * np.where(weeks % 52 < 26, 1.0, loud)
        stamps = pd.date_range("2020-01-05", periods=len(weeks), freq="W-SUN")
        tables.append(pd.DataFrame({"unique_id": f"series_{i}", "ds": stamps, "y": 10.0 * i + noise}))
    keys = {"look_back": 52, "horizon": 4, "val_rows": 26, "test_rows": 26, "time_col": "ds"}
    data = TimeSeriesData.of(pd.concat(tables), batch_size=256, **keys)
    data.setup()
    return data


def head_of(data: TimeSeriesData, **options) -> ForecastHead:
    sizes = data.input_size, data.output_size, data.look_back
    head = ForecastHead(4, *sizes, patch=None, stride=None, panel=True, linear=True, **options)
    head.fit_to(data)
    return head.eval()


@torch.no_grad()
def coverage(head: ForecastHead, data: TimeSeriesData) -> float:
    def answers(batches) -> list:
        return [(head.readout(head.embed(batch)[0], batch), batch) for batch in batches]

    for answer in answers(data.val_dataloader()):
        head.collect(*answer)
    head.calibrate()
    metrics = head.metrics("test")
    for answer in answers(data.test_dataloader()):
        head.update(metrics, *answer)
    return metrics.compute()["coverage_90"].item()


@pytest.mark.parametrize("quantiles", [(), (0.05, 0.5, 0.95)])
def test_the_loud_half_of_a_year_is_covered_though_validation_is_the_quiet_one(quantiles: tuple) -> None:
    data = panel(3.0)
    head = head_of(data, quantiles=quantiles)
    assert not head.training and (head.harder > 1.2).all()
    assert coverage(head, data) > 0.85
    head.harder.fill_(1.0)
    assert coverage(head, data) < 0.8


def test_nothing_widens_where_all_halves_are_alike_or_the_start_is_no_map() -> None:
    data = panel(1.0)
    assert head_of(data).harder.max() < 1.1
    head = ForecastHead(4, data.input_size, 4, 52, patch=None, stride=None, panel=True)
    head.fit_to(data)
    assert torch.equal(head.harder, torch.ones(4, 1))


def test_validation_counts_alone_where_each_series_stands_on_its_own(data: TimeSeriesData) -> None:
    head = ForecastHead(8, 3, 12, look_back=24, linear=True, intervals=(0.5, 0.8))
    head.fit_to(data)
    assert len(data.windows["val"]) >= 25 and torch.equal(beyond_validation(head, data), torch.ones(12, 2))
