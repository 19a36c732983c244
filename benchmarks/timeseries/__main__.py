"""Train and test the forecaster on benchmark sets, and write their scores:

    python -m benchmarks.timeseries --sets ETTh1,ETTh2,ETTm1,ETTm2,Weather --horizons 96,192,336,720 --seeds 3

Every run is `python -m app fit` and then `test` with conf/timeseries_SET.yaml, of sets without one with
conf/timeseries_ett.yaml; with --long with conf/timeseries_SET_long.yaml. Checkpoints are chosen on validation, every
test window counts. Naive, seasonal naive and closed-form linear scores stand beside ours. Finished runs are not run
again unless their configuration has changed. Options of `fit` may follow and change all runs alike, e.g.
`--data.look_back 336`; give such results a --name. `python -m benchmarks.pages` makes the table.
"""

from dataclasses import replace
from itertools import product
from statistics import mean

from benchmarks.shared.forecasts import (
    METRICS,
    Results,
    arguments,
    cell_rows,
    growing,
    partial,
    results_name,
    task,
)
from benchmarks.shared.goals import goals, simple
from benchmarks.shared.rows import Row, command_line, spread, write
from benchmarks.shared.runs import seeded
from domains.timeseries.published import HORIZONS
from memory.config import CONTROLS

MUST = {("ETTh1", 96, 96): {"mse": ("<= 0.390", "")}}  # of one horizon: dataset, look-back, horizon

Group = dict[int, Results]  # of one set at one look-back, by horizon
Scores = dict[int | str, dict[str, float]]  # MSE and MAE by horizon, and of `average`


def simple_scores(dataset: str, look_back: int, group: Group) -> dict[str, Scores]:
    """Scores of the simple forecasts at every horizon of a group, by name, and their average where it has all four."""
    scores: dict[str, Scores] = {}
    for horizon in group:
        for model, score in simple(dataset, look_back, horizon).items():
            scores.setdefault(model, {})[horizon] = score
    if set(group) == set(HORIZONS):
        for by_horizon in scores.values():
            by_horizon["average"] = {name: mean(score[name] for score in by_horizon.values()) for name in METRICS}
    return scores


def averages(group: Group, seeds: int) -> dict[str, list[float]]:
    """Mean of the four horizons for each seed, by metric; empty unless every run of the four is there and whole."""
    if set(group) != set(HORIZONS) or any(partial(results, seeds) for results in group.values()):
        return {}
    by_seed = list(zip(*group.values(), strict=True))
    return {name: [mean(result["metrics"][f"test/{name}"] for result in row) for row in by_seed] for name in METRICS}


def table_rows(dataset: str, look_back: int, group: Group, seeds: int, command: str) -> list[Row]:
    """The rows of one set at one look-back: ours of each horizon and their average, then the simple forecasts."""
    whole = [result for results in group.values() for result in results]
    variant = whole[0]["config"]["model"]["backbone"]["variant"]
    held = variant not in CONTROLS
    rows = []
    for horizon, results in group.items():
        bounds = MUST.get((dataset, look_back, horizon), {}) if held else {}
        rows += cell_rows(f"{dataset} {look_back}/{horizon} {variant}", results, seeds, bounds, command)
    bounds, means = goals(dataset, look_back) if held else {}, averages(group, seeds)
    for row, name in zip(cell_rows("", whole, seeds, {}, command), METRICS, strict=True) if means else ():
        must, aim = bounds.get(name, ("", ""))
        metric, note = f"{dataset} {look_back}/average {variant} test {name}", "mean of the four horizons"
        value = {"value": mean(means[name]), "spread": spread(means[name])}
        rows.append(replace(row, metric=metric, **value, must=must, aim=aim, note=note))
    for model, scores in simple_scores(dataset, look_back, group).items():
        for horizon, name in product(scores, METRICS):
            metric = f"{dataset} {look_back}/{horizon} {model} test {name}"
            rows.append(Row(metric, scores[horizon][name], None, "", "", "", [], "cpu", command))
    return rows


def main() -> None:
    given, more = arguments("timeseries", __doc__, "--sets", "--long").parse_known_args()
    cells = {
        (dataset, int(horizon)): seeded(
            f"{dataset}_{horizon}", [*task(dataset, horizon, given.long), *more], given.seeds
        )
        for dataset, horizon in product(given.sets.split(","), given.horizons.split(","))
    }
    again = command_line("timeseries")
    for finished in growing(cells, given.workers):
        groups: dict[tuple[str, int], Group] = {}
        for (dataset, horizon), results in finished.items():
            groups.setdefault((dataset, results[0]["data"]["look_back"]), {})[horizon] = results
        rows = [row for task, group in groups.items() for row in table_rows(*task, group, given.seeds, again)]
        write("timeseries", results_name("timeseries", given), rows)


if __name__ == "__main__":
    main()
