"""The table of the benchmark: a cell once all its seeds are there, and simple forecasts beside it."""

import pytest

from benchmarks import timeseries
from benchmarks.runs import Run


def test_simple_forecasts_stand_beside_every_finished_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    monkeypatch.setattr(timeseries, "write", lambda name, rows: tables.append(rows))
    monkeypatch.setattr(timeseries, "simple", lambda *task: {"naive": {"mse": 1.3, "mae": 0.7}})

    def finished(todo: list[Run], workers: int):
        for i, run in enumerate(todo):
            yield (
                run,
                {
                    "metrics": {"test/mse": 0.4 + i / 100, "test/mae": 0.5},
                    "data": {"look_back": 96},
                    "seed": i % 2,
                    "device": "cpu",
                    "versions": {"commit": "abc"},
                    "validation": 0.7,
                },
            )

    monkeypatch.setattr(timeseries, "finish", finished)
    given = "timeseries --sets ETTh1 --horizons 96,192 --variants lmm --seeds 2"
    monkeypatch.setattr("sys.argv", given.split(" "))
    timeseries.main()
    assert [len(table) for table in tables] == [0, 4, 4, 8]
    assert [row.metric for row in tables[1]] == [
        "ETTh1 96/96 lmm test mse",
        "ETTh1 96/96 lmm test mae",
        "ETTh1 96/96 naive test mse",
        "ETTh1 96/96 naive test mae",
    ]
    assert tables[1][0].value == pytest.approx(0.405) and tables[1][0].must == "<= 0.390" and tables[1][2].value == 1.3
