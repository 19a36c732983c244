"""What the tables of forecasting share: options of a task, a table that grows run by run, rows of a cell."""

import argparse
from collections.abc import Callable, Iterator
from statistics import mean
from typing import Any

from benchmarks.shared.rows import Row, spread
from benchmarks.shared.runs import CONF, Run, finish, share_of_gpu, train_and_test

METRICS = ("mse", "mae")

Results = list[dict[str, Any]]  # results.json of each finished seed of a cell


OPTIONS: dict[str, dict[str, Any]] = {  # that some of the tables take
    "--sets": {"default": "ETTh1", "help": "benchmark sets, separated by commas (%(default)s)"},
    "--long": {"action": "store_true", "help": "the configs for a look-back of 512 rows, not of 96"},
}


def arguments(module: str, doc: str, *options: str) -> argparse.ArgumentParser:
    """What every table of forecasting asks for, and these of OPTIONS; what it does not know goes to `fit`."""
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=doc, formatter_class=form)
    for option in options:
        parser.add_argument(option, **OPTIONS[option])
    parser.add_argument("--horizons", default="96", help="rows to forecast, separated by commas (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of every run (%(default)s)")
    parser.add_argument("--workers", type=int, help="runs at a time (a core each with a GPU, else two)")
    longer = f", with --long {module}_long" if "--long" in options else ""
    parser.add_argument("--name", help=f"of the file in results/{module} ({module}{longer})")
    return parser


def results_name(module: str, given: argparse.Namespace) -> str:
    """What the results are called: as asked, else after the module, and the look-back where it is chosen by --long."""
    longer = "_long" if getattr(given, "long", False) else ""
    return given.name or f"{module}{longer}"


def task(dataset: str, horizon: str, long: bool = False) -> list[str]:
    """Options of `fit` for one task: the config of the set, or at look-back 96 that of ETT where a set has none.

    Raises:
        SystemExit: nothing was chosen for this set at a look-back of 512.
    """
    config = CONF / f"timeseries_{dataset.lower()}{'_long' * long}.yaml"
    if not config.is_file():
        if long:
            raise SystemExit(f"error: --long: {dataset} has no {config.name} in conf; write one, or leave --long out")
        config = CONF / "timeseries_ett.yaml"
    return ["--config", str(config), "--data.dataset", dataset, "--data.horizon", horizon, "--data.source", "file"]


def growing(
    cells: dict[tuple, list[Run]], workers: int | None, work: Callable[[Run], dict[str, Any]] = train_and_test
) -> Iterator[dict[tuple, Results]]:
    """After each finished run, the results of every cell that has any, in the order of the seeds; see `finish`."""
    runs, finished = [run for cell in cells.values() for run in cell], {}
    for run, result in finish(runs, share_of_gpu(workers), work):
        finished[run] = result
        print(f"{len(finished)} of {len(runs)}: {run.name}, validation {result['validation']:.4f}")
        some = {key: [finished[run] for run in cell if run in finished] for key, cell in cells.items()}
        yield {key: results for key, results in some.items() if results}


def partial(results: Results, seeds: int) -> str:
    """Why a cell's numbers are not the whole measurement; empty where they are."""
    limits = [f"limit_{part}_batches" for part in ("train", "val")]
    reasons = [f"{len(results)} of {seeds} seeds"] if len(results) < seeds else []
    reasons += ["test batches left out"] if any(result["partial"] for result in results) else []
    cut = any(result["config"]["trainer"][limit] is not None for result in results for limit in limits)
    return ", ".join(reasons + ["train or validation batches left out"] * cut)


def cell_rows(label: str, results: Results, seeds: int, bounds: dict[str, tuple[str, str]], command: str) -> list[Row]:
    """Test MSE and MAE of one cell.

    Args:
        label: what was measured.
        results: of the seeds that are finished.
        seeds: how many there will be.
        bounds: must and aim of each metric; a partial cell is held to none.
        command: command line that measures it again.
    """
    head, backbone = (results[0]["config"]["model"][part] for part in ("head", "backbone"))
    options, lacking = head["init_args"], partial(results, seeds)
    validation, seconds = (mean(result[name] for result in results) for name in ("validation", "seconds"))
    note = (
        f"{backbone['variant']}, look-back {results[0]['data']['look_back']}, patch {options['patch']}, "
        f"loss {options['loss']}, {results[0]['parameters']} parameters, validation {validation:.4f}, "
        f"{seconds:.0f} s a run"
    )
    rows = []
    for name in METRICS:
        values = [result["metrics"][f"test/{name}"] for result in results]
        must, aim = ("", "") if lacking else bounds.get(name, ("", ""))
        rows.append(
            Row(
                metric=f"{label} test {name}",
                value=mean(values),
                spread=spread(values),
                unit="",
                must=must,
                aim=aim,
                seeds=sorted({result["seed"] for result in results}),
                device=", ".join(sorted({result["device"] for result in results})),
                command=command,
                commit=", ".join(sorted({str(result["versions"]["commit"]) for result in results})),
                note=note + (f", PARTIAL: {lacking}" if lacking else ""),
            )
        )
    return rows
