"""The table of the benchmark: what a cell says, what it is held to, and what stands beside it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.shared import forecasts
from benchmarks.shared.forecasts import task
from benchmarks.shared.rows import Row
from benchmarks.shared.runs import Run, resolved
from benchmarks.timeseries import __main__ as timeseries
from benchmarks.timeseries.page import page

FOUR = "96,192,336,720"


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch, result: Callable[..., dict]):
    """Runs the command on made-up results, and gives the table after each finished run."""

    def measure(given: str, **more) -> list[tuple[list[Row], str]]:
        tables = []
        monkeypatch.setattr(timeseries, "write", lambda command, name, rows: tables.append((rows, page(rows))))
        monkeypatch.setattr(timeseries, "simple", lambda *task: {"naive": {"mse": 1.3, "mae": 0.7}})
        named = [Run(f"run_{seed}", ()) for seed in range(3)]
        monkeypatch.setattr(
            timeseries, "seeded", lambda label, options, seeds: [Run(label + r.name, ()) for r in named[:seeds]]
        )

        def finished(runs: Sequence[Run], workers: int, work: object) -> Iterator[tuple[Run, dict]]:
            for i, run in enumerate(runs):
                yield run, result(0.4 + i / 100, int(run.name[-1]), **more)

        monkeypatch.setattr(forecasts, "finish", finished)
        monkeypatch.setattr("sys.argv", ["timeseries", *given.split()])
        timeseries.main()
        return tables

    return measure


def test_a_table_grows_and_says_what_is_missing(measure) -> None:
    first, second, *_, last = measure("--sets ETTh1 --horizons 96,192 --seeds 2")
    ours, mae, naive, _ = first[0]
    assert (ours.metric, ours.value, ours.spread, ours.seeds) == ("ETTh1 96/96 lmm test mse", 0.4, None, [0])
    assert "PARTIAL: 1 of 2 seeds" in ours.note and ours.must == ""  # half a measurement misses no goal
    assert naive.metric == "ETTh1 96/96 naive test mse" and naive.value == 1.3 and mae.value == 0.5
    assert "**PARTIAL** at 96: 1 of 2 seeds" in first[1]
    assert second[0][0].value == pytest.approx(0.405) and second[0][0].must == "<= 0.390"
    assert len(last[0]) == 8 and "PARTIAL" not in last[1] and not any("average" in row.metric for row in last[0])
    assert "| MSE / MAE | 96 | 192 | average |" in last[1]
    assert "| **Titans memory (lmm)** | 0.4050 ± 0.0071 / 0.5050 ± 0.0071 | 0.4250 ± 0.0071 /" in last[1]
    assert "| CycleNet, published | 0.378 / 0.391 | 0.427 / 0.419 |" in last[1] and "47,094" in last[1]


@pytest.mark.parametrize(
    ("look_back", "must", "aim"), [(96, "<= 0.438", "<= 0.431"), (336, "<= 0.404", "<= 0.398"), (512, "<= 0.404", "")]
)
def test_the_average_of_four_horizons_is_held_to_the_goals_of_its_look_back(
    measure, look_back: int, must: str, aim: str
) -> None:
    rows, text = measure(f"--sets ETTh1 --horizons {FOUR} --seeds 2", look_back=look_back)[-1]
    average = next(row for row in rows if row.metric == f"ETTh1 {look_back}/average lmm test mse")
    by_seed = [0.4 + (0 + 2 + 4 + 6) / 400, 0.4 + (1 + 3 + 5 + 7) / 400]
    assert average.value == pytest.approx(sum(by_seed) / 2) and average.spread == pytest.approx(0.01 / 2**0.5)
    assert average.must == must and average.aim.startswith(aim) and average.seeds == [0, 1]
    assert any(row.metric == f"ETTh1 {look_back}/average naive test mse" and row.value == 1.3 for row in rows)
    assert ("CMamba, published" in text) is (look_back == 96)
    assert ("DUET (searched), published" in text) is (look_back != 96)


def test_a_control_is_held_to_nothing(measure) -> None:
    rows, _ = measure(f"--sets ETTh1 --horizons {FOUR} --seeds 1", variant="attention")[-1]
    assert len(rows) == 2 * 2 * 5 and not any(row.must or row.aim for row in rows)


def test_what_was_left_out_is_said(measure, result: Callable[..., dict]) -> None:
    rows, text = measure("--sets ETTh1 --horizons 96 --seeds 1", partial=True)[-1]
    assert "PARTIAL: test batches left out" in rows[0].note and "**PARTIAL** at 96: test batches left out" in text
    cut = result(0.4, 0)
    cut["config"]["trainer"]["limit_train_batches"] = 10
    assert forecasts.partial([cut], 1) == "train or validation batches left out"


@pytest.mark.parametrize(
    ("dataset", "long", "name"),
    [
        ("ETTh1", False, "ett"),
        ("ETTh2", True, "etth2_long"),
        ("Weather", False, "weather"),
        ("Weather", True, "weather_long"),
    ],
)
def test_a_set_takes_the_config_it_has(dataset: str, long: bool, name: str) -> None:
    assert Path(task(dataset, "96", long)[1]).name == f"timeseries_{name}.yaml"
    config = resolved(task(dataset, "96", long))
    assert (config["data"]["init_args"]["look_back"], config["data"]["init_args"]["dataset"]) == (
        512 if long else 96,
        dataset,
    )


def test_a_long_look_back_that_nothing_was_chosen_for_is_refused() -> None:
    with pytest.raises(SystemExit, match="error: --long: Traffic has no timeseries_traffic_long.yaml"):
        task("Traffic", "96", long=True)
