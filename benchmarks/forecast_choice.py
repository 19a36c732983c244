"""The forecaster as validation would have it: settings and look-back chosen for every task, then tested.

    python -m benchmarks.forecast_choice --sets ETTh1,ETTh2,ETTm1,ETTm2,Weather --horizons 96,192,336,720
    python -m benchmarks.forecast_choice --sets ETTh1,ETTh2,ETTm1,ETTm2,Weather --horizons 96,192,336,720 \\
        --look_backs 96,336,512,720 --name forecast_choice_searched

Seed 0 of every candidate is trained; the one with the lowest validation MSE gets the other seeds, and its test scores
stand in the table. Nothing looks at the test part before. Finished runs are not run again. Options of `fit` may follow.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from statistics import mean

from app.door import respelled
from benchmarks.shared.forecasts import METRICS, Results, arguments, cell_rows, command, task
from benchmarks.shared.goals import goals, simple
from benchmarks.shared.rows import Row, spread, write
from benchmarks.shared.runs import Run, finish, seeded, share_of_gpu
from domains.timeseries.published import HORIZONS

LINEAR = ("--model.head.linear", "true", "--model.optim.lr")
# beside what the configs say: how fast the model leaves the closed form, and by which loss
CANDIDATES: dict[str, tuple[str, ...]] = {
    "as configured": (),
    "linear, lr 2e-4": (*LINEAR, "2e-4"),
    "linear, lr 1e-3": (*LINEAR, "1e-3"),
    "linear, lr 2e-4, mse": (*LINEAR, "2e-4", "--model.head.loss", "mse"),
    "linear, lr 1e-3, huber": (*LINEAR, "1e-3", "--model.head.loss", "huber"),
}
DAYS = {"ETTh1": "24", "ETTh2": "24", "ETTm1": "96", "ETTm2": "96", "Weather": "144"}  # rows
Task = tuple[str, str]  # set and horizon


def candidates(dataset: str, horizon: str, look_backs: list[str], more: list[str]) -> dict[str, list[str]]:
    """Options of `fit` by what they are called: every look-back with every setting; linear ones know a day's course."""
    options = {}
    for look_back, (name, setting) in product(look_backs, CANDIDATES.items()):
        base = [*task(dataset, horizon, long=look_back != "96"), "--data.look_back", look_back, *setting]
        day = ["--model.head.cycle", DAYS.get(dataset, "0")] if setting else []
        options[f"{look_back} rows, {name}"] = [*base, *day, *more]
    return options


def chosen(tasks: dict[Task, dict[str, list[Run]]], workers: int | None) -> Iterator[dict[Task, tuple[str, Results]]]:
    """After each finished run, the name of the candidate that validation prefers and its results so far, by task.

    Only tasks whose every candidate has been validated are among them.

    Args:
        tasks: the runs of every candidate, seed 0 first.
        workers: runs at a time.
    """
    results = {}
    first = [runs[0] for named in tasks.values() for runs in named.values()]
    for run, result in finish(first, share_of_gpu(workers)):
        results[run] = result
        print(f"{len(results)} of {len(first)}: {run.name}, validation {result['validation']:.4f}", flush=True)
    best = {}
    for key, named in tasks.items():
        best[key] = min(named, key=lambda name: results[named[name][0]]["validation"])
    yield _found(tasks, best, results)
    rest = [run for key, name in best.items() for run in tasks[key][name][1:]]
    for run, result in finish(rest, share_of_gpu(workers)):
        results[run] = result
        yield _found(tasks, best, results)


def _found(
    tasks: dict[Task, dict[str, list[Run]]], best: dict[Task, str], results: dict[Run, dict]
) -> dict[Task, tuple[str, Results]]:
    runs = {key: (name, tasks[key][name]) for key, name in best.items()}
    return {key: (name, [results[run] for run in own if run in results]) for key, (name, own) in runs.items()}


def rows_of(found: dict[Task, tuple[str, Results]], seeds: int, track: str, again: str) -> list[Row]:
    """Test MSE and MAE of every task's choice, and the mean of the four horizons against its goals."""
    rows = []
    for dataset in dict.fromkeys(dataset for dataset, _ in found):
        own = {int(horizon): part for (name, horizon), part in found.items() if name == dataset}
        for horizon, (name, results) in own.items():
            cells = cell_rows(f"{dataset} {track}/{horizon}", results, seeds, {}, again)
            rows += [replace(row, note=f"{name}; {row.note}") for row in cells]
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


def main() -> None:
    parser = arguments("forecast_choice", __doc__)
    parser.add_argument("--look_backs", default="96", help="rows to choose among, separated by commas (%(default)s)")
    given, more = parser.parse_known_args(respelled(sys.argv[1:], {}))
    look_backs = given.look_backs.split(",")
    tasks = {
        (dataset, horizon): {
            name: seeded(f"{dataset}_{horizon}", options, given.seeds)
            for name, options in candidates(dataset, horizon, look_backs, more).items()
        }
        for dataset, horizon in product(given.sets.split(","), given.horizons.split(","))
    }
    again = command("forecast_choice")
    track = "96" if look_backs == ["96"] else "searched"
    for found in chosen(tasks, given.workers):
        rows = rows_of(found, given.seeds, track, again)
        write("forecast_choice", given.name or "forecast_choice", rows)


if __name__ == "__main__":
    main()
