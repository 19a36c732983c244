"""What a benchmark's workers take of a machine, and what they leave in the logs of their runs."""

import io
import logging
import os
import time
from contextlib import redirect_stderr
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from benchmarks.shared import runs
from benchmarks.shared.runs import Run, Stderr, finish, threads_each
from tests.processes import assert_ends_with_its_starter


def test_what_logs_follows_from_run_to_run() -> None:
    logger = logging.getLogger("a library that is imported in the first run")
    logger.addHandler(logging.StreamHandler(Stderr()))
    for run in ("first", "second"):
        with io.StringIO() as log, redirect_stderr(log):
            logger.warning(run)
            assert log.getvalue() == f"{run}\n"


def test_a_worker_takes_its_share_of_the_cores_and_no_more_threads_than_are_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)  # OMP_NUM_THREADS=3
    assert [threads_each(workers) for workers in (1, 2, 4, 16)] == [3, 3, 2, 1]


talks: list[Connection] = []


def train(run: Run) -> dict[str, Any]:
    """A run of some length, in a worker."""
    talks[0].send("started")
    time.sleep(60)
    return {}


def benchmark(folder: Path, talk: Connection) -> None:
    """A benchmark and its one worker, which need not import everything anew; both keep `talk` open."""
    os.chdir(folder)
    talks.append(talk)
    runs.get_context = lambda method: get_context("fork")
    list(finish([Run("x", ())], 1, train))


def test_no_worker_outlives_its_benchmark(tmp_path: Path) -> None:
    assert_ends_with_its_starter(benchmark, tmp_path)
