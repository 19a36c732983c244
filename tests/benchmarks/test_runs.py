"""What a benchmark's workers leave in the logs of their runs."""

import io
import logging
from contextlib import redirect_stderr

from benchmarks.shared.runs import Stderr


def test_what_logs_follows_from_run_to_run() -> None:
    logger = logging.getLogger("a library that is imported in the first run")
    logger.addHandler(logging.StreamHandler(Stderr()))
    for run in ("first", "second"):
        with io.StringIO() as log, redirect_stderr(log):
            logger.warning(run)
            assert log.getvalue() == f"{run}\n"
