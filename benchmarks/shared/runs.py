"""Many training runs, several at a time, each of them once: what is finished is not run again."""

import contextlib
import hashlib
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import yaml

from app.door import main as app
from app.orphans import end_with_parent
from app.versions import git_commit

FOLDER = Path("runs/bench")  # one JSON per finished run, one log per run
CONF = Path(__file__).parents[2] / "conf"  # that of the checkout, wherever a benchmark is started


@dataclass(frozen=True)
class Run:
    """One training run and its test.

    Args:
        name: its own among all, also that of its folder in `runs`; it changes with the resolved configuration.
        options: command line of `fit` and `test` after the subcommand.
    """

    name: str
    options: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where its result lies once it is finished."""
        return FOLDER / f"{self.name}.json"

    @property
    def command(self) -> tuple[str, ...]:
        """Its options, with its own folder in `runs` and without a progress bar."""
        quiet = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
        return *self.options, "--trainer.logger.name", self.name, *quiet


def seeded(label: str, options: Sequence[str], seeds: int) -> list[Run]:
    """One run for each seed 0, 1, ..., named LABEL_HASH_SEED.

    Args:
        label: what a reader of the folder should know.
        options: those of `fit`; a wrong one ends this process with the command's own line.
        seeds: how many.
    """
    name = f"{label}_{digest(resolved(options))}"
    return [Run(f"{name}_{seed}", (*options, "--seed_everything", str(seed))) for seed in range(seeds)]


def resolved(options: Sequence[str]) -> dict[str, Any]:
    """The configuration that `fit` would train with: files, options and the code's own defaults."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            app(["fit", *options, "--print_config"])
    except SystemExit as end:
        if end.code:
            raise
    return yaml.safe_load(text.getvalue())


def digest(config: dict[str, Any]) -> str:
    """Eight digits that change with everything in a configuration but the seed and what no score depends on."""
    without = ("logger", "save_minutes", "max_skipped", "capture")
    trainer = {key: value for key, value in config["trainer"].items() if key not in without}
    counted = {**config, "trainer": trainer, "seed_everything": None}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:8]


def kept(path: Path, now: str | None) -> dict[str, Any] | None:
    """The result of a finished run; None where there is none yet. `now` is the commit of the code that runs.

    One of another commit is taken, as a table may take days, but said: whether it still holds, a person decides.
    """
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    then = result["versions"]["commit"]
    if then != now or str(now).endswith("-dirty"):
        print(f"{path.stem}: kept from commit {then}, this is {now}; delete {path} to run anew", file=sys.stderr)
    return result


def train_and_test(run: Run) -> dict[str, Any]:
    """Results.json of a run's test, with `validation`, `seconds` and `steps` of its training."""
    from app.runs import run_folder

    start = perf_counter()
    fitted = app(["fit", *run.command])
    seconds = perf_counter() - start
    tested = app(["test", *run.command])
    results = json.loads((run_folder(tested.checkpoint) / "results.json").read_text())
    trained = {"seconds": seconds, "steps": fitted.trainer.global_step}
    return results | trained | {"validation": fitted.trainer.checkpoint_callback.best_model_score.item()}


def finish(
    runs: Sequence[Run], workers: int, work: Callable[[Run], dict[str, Any]] = train_and_test
) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Each run with its results, in the order they finish.

    A worker is a process that keeps what it has imported. Models as small as these leave a GPU waiting for the host at
    every step, so that several workers on one GPU train nearly as fast each as one alone, as long as each has a core.

    Args:
        runs: those that have a result already are not run again.
        workers: processes.
        work: what a run is, a function of a module, in a worker; its results hold `versions`.

    Raises:
        RuntimeError: a run failed; the others go on, and this is raised at the end.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    todo, failed, now = [], [], git_commit()
    for run in runs:
        if (result := kept(run.path, now)) is None:
            todo.append(run)
        else:
            yield run, result
    with ProcessPoolExecutor(workers, get_context("spawn"), _prepare, (workers,)) as pool:
        waiting = {pool.submit(_logged, work, run): run for run in todo}
        for done in as_completed(waiting):
            run = waiting[done]
            if done.exception() is None:
                yield run, done.result()
            else:
                failed.append(run.name)
                print(f"{run.name}: {done.exception()!r}, see {run.path.with_suffix('.log')}", file=sys.stderr)
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed: {', '.join(failed)}")


class Stderr:
    """`sys.stderr` as it is when something is written: what logs keeps the stream that it found, one run's log."""

    def write(self, text: str) -> None:
        sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _prepare(workers: int) -> None:
    """In a fresh worker, before torch is used: its share of the cores, and Lightning's logs to each run's own."""
    import lightning.pytorch  # noqa: F401, which sets up how it logs
    import torch

    end_with_parent()
    torch.set_num_threads(threads_each(workers))
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(Stderr())


def _logged(work: Callable[[Run], dict[str, Any]], run: Run) -> dict[str, Any]:
    """Results of a run, kept in its file; what it prints goes to its log."""
    with (
        open(run.path.with_suffix(".log"), "w") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        results = work(run)
    run.path.write_text(json.dumps(results, indent=2) + "\n")  # the last thing: an interrupted run leaves none
    return results


def threads_each(workers: int) -> int:
    """Threads of one of several workers: its share of the cores, and no more than torch was started with.

    That is what `OMP_NUM_THREADS` says, where it is set. Threads that wait for each other on cores which others keep
    busy take several times the CPU time of one.
    """
    import torch

    return max(min(len(os.sched_getaffinity(0)) // workers, torch.get_num_threads()), 1)


def share_of_gpu(asked: int | None) -> int:
    """Workers to use: as asked, else one for every core beside a GPU, or one for every two cores without."""
    import torch

    cores = len(os.sched_getaffinity(0))
    return asked or (min(cores, 16) if torch.cuda.is_available() else max(cores // 2, 1))
