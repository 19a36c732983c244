"""What validation chooses, what is trained after that, and what the choice is held to."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import forecast_choice, forecast_stream
from benchmarks.forecast_choice import CANDIDATES, SCOUT, candidates, chosen, closed_rows, rows_of
from benchmarks.shared import closed_form as shared
from benchmarks.shared.runs import Run, resolved
from domains.timeseries import TimeSeriesData

NAMES = {"slow": ("96", SCOUT), "fast": ("96", "fast"), "long": ("512", SCOUT), "longer": ("512", "fast")}
VALIDATION = {"slow": 0.6, "fast": 0.5, "long": 0.7, "longer": 0.1}


@pytest.fixture
def finish(monkeypatch: pytest.MonkeyPatch, result: Callable[..., dict]) -> list[str]:
    """Runs finish with made-up results: `fast` validates better than `slow`, and tests worse. Gives their names."""
    ran: list[str] = []

    def finished(runs: Sequence[Run], workers: int) -> Iterator[tuple[Run, dict]]:
        for run in runs:
            if run.name not in ran:
                ran.append(run.name)
            _, horizon, name, seed = run.name.split("_")
            error = 0.45 if name == "fast" else 0.3
            yield run, result(error + int(seed) / 100, int(seed)) | {"validation": VALIDATION[name]}

    monkeypatch.setattr(forecast_choice, "finish", finished)
    monkeypatch.setattr(forecast_choice, "simple", lambda *task: {"linear": {"mse": 0.46, "mae": 0.4}})
    return ran


def tasks(*horizons: str) -> dict:
    return {
        ("ETTh1", horizon): {
            candidate: [Run(f"ETTh1_{horizon}_{name}_{seed}", ()) for seed in range(2)]
            for name, candidate in NAMES.items()
        }
        for horizon in horizons
    }


def test_validation_chooses_and_the_choice_alone_gets_more_seeds(finish: list[str]) -> None:
    """One setting tells the look-back; what others would do at another one is not asked."""
    *_, found = chosen(tasks("96"), 1)
    assert finish == ["ETTh1_96_slow_0", "ETTh1_96_long_0", "ETTh1_96_fast_0", "ETTh1_96_fast_1"]
    candidate, results = found["ETTh1", "96"]
    assert candidate == NAMES["fast"] and [result["seed"] for result in results] == [0, 1]
    rows = rows_of(found, 2, "96", "again")
    assert (rows[0].metric, rows[0].value) == ("ETTh1 96/96 test mse", pytest.approx(0.455))
    assert rows[0].note.startswith("96 rows, fast; ") and rows[2].value == 0.46  # the linear map's
    assert not any("average" in row.metric for row in rows)  # of one horizon


def test_the_mean_of_four_horizons_is_held_to_the_goals(finish: list[str]) -> None:
    *_, found = chosen(tasks("96", "192", "336", "720"), 1)
    for track, must in (("96", "<= 0.438"), ("searched", "<= 0.404")):
        (row,) = [r for r in rows_of(found, 2, track, "again") if r.metric == f"ETTh1 {track}/average test mse"]
        assert row.value == pytest.approx(0.455) and row.must == must and row.misses() == ["must", "aim"]


def test_every_candidate_is_a_configuration() -> None:
    found = candidates("ETTm1", "96", ["96"], [])
    assert len(found) == len(CANDIDATES)
    config = resolved(found["96", "lr 2e-4, mse"])
    head = config["model"]["head"]["init_args"]
    assert (head["linear"], head["loss"], head["cycle"], config["model"]["optim"]["lr"]) == (True, "mse", 96, 2e-4)
    longer = resolved(candidates("ETTh2", "720", ["336"], [])["336", "lr 1e-3, mae"])
    assert longer["data"]["init_args"]["look_back"] == 336 and longer["model"]["head"]["init_args"]["cycle"] == 24


def test_the_closed_form_takes_the_look_back_that_validates_best_and_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(dataset: str, look_back: int, horizon: int, **keys: Any) -> TimeSeriesData:
        data = TimeSeriesData(None, look_back, horizon, file=str(tmp_path / f"{dataset}.csv"))
        opened.append(look_back)
        return data

    opened: list[int] = []
    stamps = pd.date_range("2024-01-01", periods=400, freq="h")
    hours = np.random.default_rng(0).normal(size=400) + 3 * np.sin(np.arange(400) / 12 * np.pi)
    pd.DataFrame({"date": stamps, "a": hours, "b": -hours}).to_csv(tmp_path / "mine.csv", index=False)
    monkeypatch.setattr(shared, "TimeSeriesData", sample)
    monkeypatch.setattr(shared, "FOLDER", tmp_path)
    found = shared.closed_form("mine", 4, [2, 30], 24)
    assert found["look_back"] == 30 and found["validation"]["30"] < found["validation"]["2"]
    assert 0 < found["test"]["mse"] < 0.5  # the noise is a fifth of the variance, the course is known
    assert shared.closed_form("mine", 4, [2, 30], 24) == found and opened == [2, 30]


def test_the_mean_of_the_closed_form_is_held_to_the_goals_of_a_searched_look_back() -> None:
    result = {
        "validation": {"96": 0.7, "512": 0.6},
        "look_back": 512,
        "test": {"mse": 0.41, "mae": 0.4},
        "seconds": 9.0,
    }
    found = {("ETTh1", horizon): result | {"versions": {"commit": "abc"}} for horizon in ("96", "192", "336", "720")}
    rows = closed_rows(found, "searched", "again")
    assert len(rows) == 10 and rows[0].note == "512 rows; validation 0.7000 with 96, 0.6000 with 512; 9 s"
    mean = rows[-2]
    assert (mean.metric, mean.must) == ("ETTh1 searched/average closed form, test mse", "<= 0.404") and mean.misses()


@pytest.mark.parametrize(("command", "option"), [(forecast_choice, "--long"), (forecast_stream, "--sets=ETTh1")])
def test_an_option_of_other_tables_is_refused(
    command: ModuleType, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", [command.__name__, option])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert option in capsys.readouterr().err
