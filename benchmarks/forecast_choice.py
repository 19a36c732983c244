"""The forecaster as validation would have it: settings and look-back chosen for every task, then tested.

    python -m benchmarks.forecast_choice --sets ETTh1,ETTh2,ETTm1,ETTm2,Weather --horizons 96,192,336,720
    python -m benchmarks.forecast_choice --sets ETTh1,ETTh2,ETTm1,ETTm2,Weather --horizons 96,192,336,720 \\
        --look_backs 96,336,512,720 --name forecast_choice_searched
    python -m benchmarks.forecast_choice --sets ETTh1,ETTh2,ETTm1,ETTm2,Weather --horizons 96,192,336,720 \\
        --look_backs 96,336,512,720 --closed_form --name closed_form

Of several look-backs, the one is taken with which one setting has the lowest validation MSE. There seed 0 of every
setting is trained; the one with the lowest validation MSE gets the other seeds, and its test scores stand in the table.
Nothing looks at the test part before. Finished runs are not run again. Options of `fit` may follow. --closed_form
measures what all of them start from, without training, on the CPU.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from statistics import mean
from typing import Any

from app.door import respelled
from benchmarks.shared.closed_form import closed_form
from benchmarks.shared.forecasts import METRICS, Results, arguments, cell_rows, results_name, task
from benchmarks.shared.goals import goals, simple
from benchmarks.shared.rows import Row, command_line, spread, write
from benchmarks.shared.runs import Run, finish, seeded, share_of_gpu
from domains.timeseries.published import HORIZONS

LINEAR = ("--model.head.linear", "true", "--model.head.own_maps", "true", "--model.optim.lr")
# How fast the model leaves the closed form, and by which loss.
CANDIDATES: dict[str, tuple[str, ...]] = {
    f"lr {rate}, {loss}": (*LINEAR, rate, "--model.head.loss", loss)
    for rate, loss in (("2e-4", "mae"), ("1e-3", "mae"), ("2e-4", "mse"), ("1e-3", "huber"))
}
SCOUT = "lr 2e-4, mse"  # the setting that the look-back is chosen with
DAYS = {"ETTh1": "24", "ETTh2": "24", "ETTm1": "96", "ETTm2": "96", "Weather": "144"}  # rows
Task = tuple[str, str]  # set and horizon
Candidate = tuple[str, str]  # look-back and setting


def candidates(dataset: str, horizon: str, look_backs: list[str], more: list[str]) -> dict[Candidate, list[str]]:
    """Options of `fit`: every look-back with every setting."""
    options = {}
    for look_back, (name, setting) in product(look_backs, CANDIDATES.items()):
        base = [*task(dataset, horizon, long=look_back != "96"), "--data.look_back", look_back, *setting]
        options[look_back, name] = [*base, "--model.head.cycle", DAYS.get(dataset, "0"), *more]
    return options


def chosen(
    tasks: dict[Task, dict[Candidate, list[Run]]], workers: int | None
) -> Iterator[dict[Task, tuple[Candidate, Results]]]:
    """After each run of the choice, the candidate that validation prefers and its results so far, by task.

    Args:
        tasks: the runs of every candidate, seed 0 first.
        workers: runs at a time.
    """
    results = {}

    def validated(runs: list[Run]) -> None:
        for run, result in finish(runs, share_of_gpu(workers)):
            results[run] = result
            print(f"{run.name}, validation {result['validation']:.4f}", flush=True)

    def best(key: Task, among: list[Candidate]) -> Candidate:
        return min(among, key=lambda candidate: results[tasks[key][candidate][0]]["validation"])

    scouts = {key: [candidate for candidate in named if candidate[1] == SCOUT] for key, named in tasks.items()}
    validated([tasks[key][candidate][0] for key, among in scouts.items() for candidate in among])
    near = {key: best(key, among)[0] for key, among in scouts.items()}
    there = {key: [candidate for candidate in named if candidate[0] == near[key]] for key, named in tasks.items()}
    validated([tasks[key][candidate][0] for key, among in there.items() for candidate in among])
    choice = {key: best(key, among) for key, among in there.items()}
    yield _found(tasks, choice, results)
    for run, result in finish([run for key in tasks for run in tasks[key][choice[key]][1:]], share_of_gpu(workers)):
        results[run] = result
        yield _found(tasks, choice, results)


def _found(
    tasks: dict[Task, dict[Candidate, list[Run]]], choice: dict[Task, Candidate], results: dict[Run, dict]
) -> dict[Task, tuple[Candidate, Results]]:
    runs = {key: tasks[key][candidate] for key, candidate in choice.items()}
    return {key: (choice[key], [results[run] for run in own if run in results]) for key, own in runs.items()}


def rows_of(found: dict[Task, tuple[Candidate, Results]], seeds: int, track: str, again: str) -> list[Row]:
    """Test MSE and MAE of every task's choice, and the mean of the four horizons against its goals."""
    rows = []
    for dataset in dict.fromkeys(dataset for dataset, _ in found):
        own = {int(horizon): part for (name, horizon), part in found.items() if name == dataset}
        for horizon, ((look_back, setting), results) in own.items():
            cells = cell_rows(f"{dataset} {track}/{horizon}", results, seeds, {}, again)
            rows += [replace(row, note=f"{look_back} rows, {setting}; {row.note}") for row in cells]
            floor = simple(dataset, results[0]["data"]["look_back"], horizon)["linear"]
            for metric in METRICS:
                label = f"{dataset} {track}/{horizon} linear map of the same look-back, test {metric}"
                rows.append(Row(label, floor[metric], None, "", "", "", [], "cpu", again))
        whole = [results for _, results in own.values()]
        if set(own) != set(HORIZONS) or any(len(results) < seeds for results in whole):
            continue
        bounds = goals(dataset, 96 if track == "96" else 0)
        template = cell_rows("", whole[0], seeds, {}, again)
        for row, metric in zip(template, METRICS, strict=True):
            values = [mean(result["metrics"][f"test/{metric}"] for result in seed) for seed in zip(*whole, strict=True)]
            must, aim = bounds.get(metric, ("", ""))
            label = f"{dataset} {track}/average test {metric}"
            note = "mean of the four horizons, each chosen on validation"
            number = {"value": mean(values), "spread": spread(values)}
            rows.append(replace(row, metric=label, **number, must=must, aim=aim, note=note))
    return rows


def closed_rows(found: dict[Task, dict[str, Any]], track: str, again: str) -> list[Row]:
    """Test MSE and MAE of the closed form of every task, and the mean of the four horizons against its goals."""
    rows = []
    for dataset in dict.fromkeys(dataset for dataset, _ in found):
        own = {int(horizon): result for (name, horizon), result in found.items() if name == dataset}
        label = f"{dataset} {track}"
        for horizon, result in own.items():
            errors = ", ".join(f"{error:.4f} with {rows}" for rows, error in result["validation"].items())
            note = f"{result['look_back']} rows; validation {errors}; {result['seconds']:.0f} s"
            commit = {"commit": result["versions"]["commit"], "note": note}
            for metric, value in result["test"].items():
                name = f"{label}/{horizon} closed form, test {metric}"
                rows.append(Row(name, value, None, "", "", "", [], "cpu", again, **commit))
        if set(own) != set(HORIZONS):
            continue
        bounds = goals(dataset, 96 if track == "96" else 0)
        for metric in METRICS:
            value = mean(result["test"][metric] for result in own.values())
            name = f"{label}/average closed form, test {metric}"
            rows.append(Row(name, value, None, "", *bounds.get(metric, ("", "")), [], "cpu", again))
    return rows


def main() -> None:
    parser = arguments("forecast_choice", __doc__, "--sets")
    parser.add_argument("--look_backs", default="96", help="rows to choose among, separated by commas (%(default)s)")
    parser.add_argument("--closed_form", action="store_true", help="what training starts from, alone; no seeds")
    given, more = parser.parse_known_args(respelled(sys.argv[1:], {}))
    look_backs = given.look_backs.split(",")
    track = "96" if look_backs == ["96"] else "searched"
    again = command_line("forecast_choice")
    if given.closed_form:
        found = {}
        for dataset, horizon in product(given.sets.split(","), given.horizons.split(",")):
            result = closed_form(dataset, int(horizon), [int(rows) for rows in look_backs], int(DAYS[dataset]))
            print(f"{dataset} {horizon}: validation {result['validation']}", flush=True)
            found[dataset, horizon] = result
            write("forecast_choice", given.name or "closed_form", closed_rows(found, track, again))
        return
    tasks = {
        (dataset, horizon): {
            candidate: seeded(f"{dataset}_{horizon}", options, given.seeds)
            for candidate, options in candidates(dataset, horizon, look_backs, more).items()
        }
        for dataset, horizon in product(given.sets.split(","), given.horizons.split(","))
    }
    for found in chosen(tasks, given.workers):
        rows = rows_of(found, given.seeds, track, again)
        write("forecast_choice", results_name("forecast_choice", given), rows)


if __name__ == "__main__":
    main()
