"""Many training runs, several at a time, each of them once: what is finished is not run again."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

FOLDER = Path("runs/bench")  # one JSON per finished run, one log per run


@dataclass(frozen=True)
class Run:
    """One training run and its test.

    Args:
        name: its own among all, also that of its folder in `runs`.
        options: command line of `fit` and `test` after the subcommand.
    """

    name: str
    options: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where its result lies once it is finished."""
        return FOLDER / f"{self.name}.json"


def finish(runs: Sequence[Run], workers: int) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Each run with its results (those of results.json, `validation` and `seconds`), in the order they finish.

    A worker is a process that keeps what it has imported. Models as small as these leave a GPU waiting for the host at
    every step, so that several workers on one GPU train nearly as fast each as one alone, as long as each has a core.

    Raises:
        ValueError: a run was finished with other options: its name says too little, or its file should go.
        RuntimeError: a run failed; the others go on, and this is raised at the end.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    todo, failed = [], []
    for run in runs:
        if not run.path.exists():
            todo.append(run)
            continue
        kept = json.loads(run.path.read_text())
        if tuple(kept["options"]) != run.options:
            raise ValueError(f"{run.path} was measured with other options ({kept['options']}); delete it to run anew")
        yield run, kept
    with ProcessPoolExecutor(workers, get_context("spawn"), _prepare, (workers,)) as pool:
        waiting = {pool.submit(_train_and_test, run): run for run in todo}
        for done in as_completed(waiting):
            run = waiting[done]
            if done.exception() is None:
                yield run, done.result()
            else:
                failed.append(run.name)
                print(f"{run.name}: {done.exception()!r}, see {run.path.with_suffix('.log')}", file=sys.stderr)
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed: {', '.join(failed)}")


def _prepare(workers: int) -> None:
    """In a fresh worker, before torch is used: its share of the cores."""
    import torch

    torch.set_num_threads(max(len(os.sched_getaffinity(0)) // workers, 1))


def _train_and_test(run: Run) -> dict[str, Any]:
    from app.cli import main as app
    from app.runs import run_folder

    quiet = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
    options = (*run.options, "--trainer.logger.name", run.name, *quiet)
    with (
        open(run.path.with_suffix(".log"), "w") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        start = perf_counter()
        fitted = app(["fit", *options])
        seconds = perf_counter() - start
        tested = app(["test", *options])
    results = json.loads((run_folder(tested.checkpoint) / "results.json").read_text())
    best = fitted.trainer.checkpoint_callback
    results |= {"options": run.options, "seconds": seconds, "validation": best.best_model_score.item()}
    run.path.write_text(json.dumps(results, indent=2) + "\n")  # the last thing: an interrupted run leaves none
    return results


def share_of_gpu(asked: int | None) -> int:
    """Workers to use: as asked, else one for every core beside a GPU, or one for every two cores without."""
    import torch

    cores = len(os.sched_getaffinity(0))
    return asked or (min(cores, 16) if torch.cuda.is_available() else max(cores // 2, 1))
