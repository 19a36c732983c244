"""Train and test the forecaster on benchmark sets: `python -m benchmarks.timeseries --sets ETTh1 --horizons 96`.

Every run is `python -m app fit` and then `test` with conf/timeseries_ett.yaml; the checkpoint is chosen on validation.
"""

import argparse
import json
from statistics import mean

from app.cli import main as app
from app.runs import run_folder
from benchmarks.rows import Row, spread, write

MUST = {("ETTh1", 96): "<= 0.390"}  # test MSE; of the memory, not of the controls


def run(dataset: str, horizon: int, variant: str, seed: int) -> dict[str, float]:
    """Test metrics of one training run."""
    name = f"bench_{variant}_{dataset}_{horizon}"
    options = ["--config", "conf/timeseries_ett.yaml", "--seed_everything", str(seed), "--trainer.logger.name", name]
    options += ["--data.dataset", dataset, "--data.horizon", str(horizon), "--data.source", "file"]
    options += ["--model.backbone.variant", variant]
    app(["fit", *options])
    tested = app(["test", *options])
    return json.loads((run_folder(tested.checkpoint) / "results.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.timeseries", description=__doc__)
    parser.add_argument("--sets", default="ETTh1", help="benchmark sets, separated by commas (%(default)s)")
    parser.add_argument("--horizons", default="96", help="rows to forecast, separated by commas (%(default)s)")
    parser.add_argument("--variants", default="lmm,attention", help="backbones, separated by commas (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of every run (%(default)s)")
    given = parser.parse_args()
    command = (
        f"python -m benchmarks.timeseries --sets {given.sets} --horizons {given.horizons} --variants {given.variants} "
        f"--seeds {given.seeds}"
    )
    rows, seeds = [], list(range(given.seeds))
    for dataset in given.sets.split(","):
        for horizon in map(int, given.horizons.split(",")):
            for variant in given.variants.split(","):
                results = [run(dataset, horizon, variant, seed) for seed in seeds]
                for metric in ("mse", "mae"):
                    values = [result["metrics"][f"test/{metric}"] for result in results]
                    rows.append(
                        Row(
                            metric=f"{dataset} 96/{horizon} {variant} test {metric}",
                            value=mean(values),
                            spread=spread(values),
                            unit="",
                            must=MUST.get((dataset, horizon), "") if (metric, variant) == ("mse", "lmm") else "",
                            aim="",
                            seeds=seeds,
                            device=results[0]["device"],
                            command=command,
                        )
                    )
                write("timeseries", rows)


if __name__ == "__main__":
    main()
