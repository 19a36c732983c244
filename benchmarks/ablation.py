"""What the memory and EinFFT are worth in the forecaster: `python -m benchmarks.ablation --sets ETTh1 --horizons 96`.

One shell, at equal parameters, with {memory, no momentum, no forgetting, linear memory, attention, GRU, identity} in
the memory's place and EinFFT on or off. Every checkpoint is chosen on validation. Options of `python -m app fit` may
follow and change all runs alike, e.g. `--model.head.patch 2 --model.head.stride 2`; give such a study a --name.
"""

import argparse
import shlex
from itertools import product
from statistics import mean
from typing import get_args

from benchmarks.controls import Kind
from benchmarks.rows import Row, spread, write
from benchmarks.runs import Run, finish, share_of_gpu


def grid(given: argparse.Namespace, more: list[str]) -> dict[tuple[str, ...], list[Run]]:
    """The runs of every cell (dataset, horizon, kind, mixing), one for each seed."""
    cells = {}
    for cell in product(given.sets.split(","), given.horizons.split(","), given.kinds.split(","), ("einfft", "none")):
        dataset, horizon, kind, mixing = cell
        options = ["--config", given.config, "--data.dataset", dataset, "--data.horizon", horizon]
        options += ["--data.source", "file", "--model.head.channel_mixing", mixing]
        options += ["--trainer.callbacks+=benchmarks.controls.ReplaceMixers", f"--trainer.callbacks.kind={kind}", *more]
        label = "_".join([given.name, dataset, horizon, kind.replace(" ", "-"), mixing])
        cells[cell] = [
            Run(f"{label}_{seed}", (*options, "--seed_everything", str(seed))) for seed in range(given.seeds)
        ]
    return cells


def rows(cell: tuple[str, ...], results: list[dict], command: str) -> list[Row]:
    """Test MSE and MAE of one cell's seeds."""
    dataset, horizon, kind, mixing = cell
    config = results[0]["config"]["model"]["head"]["init_args"]
    seconds, validation = (mean(result[name] for result in results) for name in ("seconds", "validation"))
    label = f"{dataset} {config['look_back']}/{horizon} {kind}, EinFFT {'on' if mixing == 'einfft' else 'off'}"
    return [
        Row(
            metric=f"{label}, test {metric}",
            value=mean(values),
            spread=spread(values),
            unit="",
            must="",
            aim="",
            seeds=[result["seed"] for result in results],
            device=results[0]["device"],
            command=command,
            commit=results[0]["versions"]["commit"],
            note=f"{results[0]['parameters']} parameters, loss {config['loss']}, patch {config['patch']}, "
            f"validation {validation:.4f}, {seconds:.0f} s a run" + (", PARTIAL" if results[0]["partial"] else ""),
        )
        for metric in ("mse", "mae")
        for values in [[result["metrics"][f"test/{metric}"] for result in results]]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sets", default="ETTh1", help="benchmark sets, separated by commas (%(default)s)")
    parser.add_argument("--horizons", default="96", help="rows to forecast, separated by commas (%(default)s)")
    parser.add_argument("--kinds", default=",".join(get_args(Kind)), help="what takes the memory's place (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of every run (%(default)s)")
    parser.add_argument("--workers", type=int, help="runs at a time (a core each with a GPU, else two)")
    parser.add_argument("--config", default="conf/timeseries_ett.yaml", help="(%(default)s)")
    parser.add_argument("--name", default="ablation", help="of the results in benchmarks/results (%(default)s)")
    given, more = parser.parse_known_args()
    command = shlex.join(
        f"python -m benchmarks.ablation --sets {given.sets} --horizons {given.horizons} --seeds {given.seeds}".split()
        + (["--config", given.config] if given.config != parser.get_default("config") else [])
        + (["--name", given.name] if given.name != parser.get_default("name") else [])
        + more
    )
    cells = grid(given, more)
    finished = {}
    for run, result in finish([run for runs in cells.values() for run in runs], share_of_gpu(given.workers)):
        finished[run] = result
        whole = {
            cell: [finished[run] for run in runs] for cell, runs in cells.items() if all(r in finished for r in runs)
        }
        write(given.name, [row for cell, results in whole.items() for row in rows(cell, results, command)])
        print(f"{len(finished)} of {given.seeds * len(cells)}: {run.name}, validation {result['validation']:.4f}")


if __name__ == "__main__":
    main()
