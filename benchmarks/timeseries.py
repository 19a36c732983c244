"""Train and test the forecaster on benchmark sets: `python -m benchmarks.timeseries --sets ETTh1 --horizons 96`.

Every run is `python -m app fit` and then `test` with conf/timeseries_ett.yaml; the checkpoint is chosen on validation.
Naive, seasonal naive and closed-form linear forecasts of the same windows stand beside it.
Runs that are finished are not run again. Options of `fit` may follow and change all runs alike; give such a table a
--name of its own.
"""

import argparse
import shlex
from functools import cache
from itertools import product
from statistics import mean

from benchmarks.rows import Row, spread, write
from benchmarks.runs import Run, finish, share_of_gpu
from domains.timeseries import TimeSeriesData
from domains.timeseries.baselines import baselines

MUST = {("ETTh1", "96"): "<= 0.390"}  # test MSE; of the memory, not of the controls


@cache
def simple(dataset: str, look_back: int, horizon: int) -> dict[str, dict[str, float]]:
    """Test scores of the simple forecasts of one task."""
    data = TimeSeriesData(dataset, look_back, horizon, batch_size=512, source="file")
    data.setup()
    return baselines(data)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.timeseries", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sets", default="ETTh1", help="benchmark sets, separated by commas (%(default)s)")
    parser.add_argument("--horizons", default="96", help="rows to forecast, separated by commas (%(default)s)")
    parser.add_argument("--variants", default="lmm,attention", help="backbones, separated by commas (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of every run (%(default)s)")
    parser.add_argument("--workers", type=int, help="runs at a time (a core each with a GPU, else two)")
    parser.add_argument("--name", default="timeseries", help="of the results in benchmarks/results (%(default)s)")
    given, more = parser.parse_known_args()
    command = shlex.join(
        f"python -m benchmarks.timeseries --sets {given.sets} --horizons {given.horizons} --variants {given.variants} "
        f"--seeds {given.seeds}".split()
        + (["--name", given.name] if given.name != "timeseries" else [])
        + more
    )
    cells = {}
    for dataset, horizon, variant in product(*(x.split(",") for x in (given.sets, given.horizons, given.variants))):
        options = ["--config", "conf/timeseries_ett.yaml", "--data.dataset", dataset, "--data.horizon", horizon]
        options += ["--data.source", "file", "--model.backbone.variant", variant, *more]
        label = "_".join([given.name, variant, dataset, horizon])
        cells[dataset, horizon, variant] = [
            Run(f"{label}_{seed}", (*options, "--seed_everything", str(seed))) for seed in range(given.seeds)
        ]
    finished = {}
    for run, result in finish([run for runs in cells.values() for run in runs], share_of_gpu(given.workers)):
        finished[run] = result
        print(f"{len(finished)} of {given.seeds * len(cells)}: {run.name}, validation {result['validation']:.4f}")
        rows, tasks = [], {}
        for (dataset, horizon, variant), runs in cells.items():
            if not all(run in finished for run in runs):
                continue
            results = [finished[run] for run in runs]
            for metric in ("mse", "mae"):
                values = [result["metrics"][f"test/{metric}"] for result in results]
                look_back = results[0]["data"]["look_back"]
                tasks[dataset, look_back, int(horizon)] = None
                rows.append(
                    Row(
                        metric=f"{dataset} {look_back}/{horizon} {variant} test {metric}",
                        value=mean(values),
                        spread=spread(values),
                        unit="",
                        must=MUST.get((dataset, horizon), "") if (metric, variant) == ("mse", "lmm") else "",
                        aim="",
                        seeds=[result["seed"] for result in results],
                        device=results[0]["device"],
                        command=command,
                        commit=results[0]["versions"]["commit"],
                    )
                )
        rows += [
            Row(f"{dataset} {look_back}/{horizon} {name} test {metric}", value, None, "", "", "", [], "cpu", command)
            for dataset, look_back, horizon in tasks
            for name, scores in simple(dataset, look_back, horizon).items()
            for metric, value in scores.items()
        ]
        write(given.name, rows)


if __name__ == "__main__":
    main()
