"""What is measured of a carried memory: every window of the protocol, in order, and beside what reads a week."""

import pandas as pd
import pytest
import torch
from torch import nn

from benchmarks.forecast_stream import DAY, LAST, Carried, Stream, map_of, rows_of, scored, stream_of
from domains.timeseries import TimeSeriesData
from domains.timeseries.baselines import baselines
from domains.timeseries.series import sample_series


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TimeSeriesData:
    """400 hours of two variables."""
    series = sample_series(variables=2, rows=400)
    table = pd.DataFrame(series.values, columns=series.columns).assign(date=pd.DatetimeIndex(series.stamps))
    path = tmp_path_factory.mktemp("stream") / "mine.csv"
    table.to_csv(path, index=False)
    data = TimeSeriesData(file=str(path), look_back=30, horizon=12, batch_size=64)
    data.setup()
    return data


def test_every_window_of_the_test_part_is_scored(data: TimeSeriesData) -> None:
    """A model that adds nothing scores as the linear map does; one that adds what is left over makes no error."""
    stream = stream_of(data, map_of(data), True, torch.device("cpu"))
    model = Carried(DAY + 1 + stream.marks.shape[1], 12, memory=False)
    assert scored(model, stream, 2) == pytest.approx(baselines(data)["linear"]["mse"], rel=1e-4)
    perfect = stream._replace(linear=stream.rows.unfold(1, 12, 1))
    assert scored(model, perfect, 2) < 1e-10


def test_a_token_is_of_the_day_before_its_origin(data: TimeSeriesData) -> None:
    stream = stream_of(data, map_of(data), False, torch.device("cpu"))
    changed = Stream(stream.rows.clone(), *stream[1:])
    changed.rows[:, 240:] = 9.0
    region = torch.tensor([1])
    origins = torch.tensor([[240, 241]])
    same = (stream.tokens(region, origins) == changed.tokens(region, origins)).all(-1)
    assert same.tolist() == [[True, False]]
    truth = changed.left(region, origins) + stream.linear[1, origins]
    torch.testing.assert_close(truth, torch.full((1, 2, 12), 9.0))


@pytest.mark.parametrize("memory", [True, False])
def test_only_a_memory_reaches_beyond_a_week(memory: bool) -> None:
    torch.manual_seed(0)
    model = Carried(5, 3, memory).eval()
    nn.init.normal_(model.out.weight)
    tokens = torch.randn(1, 3 * LAST, 5)
    other = torch.cat([tokens[:, :LAST] + 1, tokens[:, LAST:]], 1)
    ahead = torch.cat([tokens[:, : 2 * LAST], tokens[:, 2 * LAST :] + 1], 1)
    with torch.no_grad():
        answer, after, before = model(tokens), model(other), model(ahead)
    assert ((after - answer)[:, -1].abs().max() > 1e-3) == memory
    torch.testing.assert_close(before[:, : 2 * LAST], answer[:, : 2 * LAST])


def test_the_memory_is_held_to_the_best_that_reads_a_week() -> None:
    def result(test: float, seed: int) -> dict:
        more = {"linear": 0.2, "validation": 0.1, "seconds": 1.0, "parameters": 9}
        return {"test": test, "seed": seed, **more, "device": "cpu", "versions": {"commit": "abc"}}

    errors = {"memory": 0.18, "none": 0.19, "memory, calendar": 0.17, "none, calendar": 0.17}
    cells = {(168, 24, kind): [result(error, seed) for seed in range(2)] for kind, error in errors.items()}
    free, calendar = (row for row in rows_of(24, cells, 2, "again") if "over the best" in row.metric)
    assert free.value == pytest.approx(0.18 / 0.19) and free.must == "<= 0.97" and not free.misses()
    assert calendar.value == 1 and calendar.must == ""
    del cells[168, 24, "none"][1]
    rows = rows_of(24, cells, 2, "again")
    assert sum("over the best" in row.metric for row in rows) == 1
    assert any(row.note.endswith("PARTIAL: 1 of 2 seeds") for row in rows)
