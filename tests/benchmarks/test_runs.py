"""What a benchmark's workers take of a machine, and what they leave in the logs of their runs."""

import io
import logging
from contextlib import redirect_stderr

import pytest

from benchmarks.shared.runs import Stderr, threads_each


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
