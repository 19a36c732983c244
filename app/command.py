"""One command from its start to its exit code."""

import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from app import signals
from app.devices import lost_device
from app.errors import is_for_user, plain
from app.orphans import end_with_parent
from app.output import to_nowhere
from app.quiet import quieten


def carry_out(action: Callable[[], Any]) -> Any:
    """What `action` returns; what the user can fix ends as one line and exit code 2, see `app.door.main`."""
    quieten()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal of few characters must not end a training
    if "LOCAL_RANK" in os.environ:  # one of several processes, started by Lightning or torchrun
        end_with_parent()
    try:
        with signals.ending():
            result = action()
        _flush()
        return result
    except Exception as error:
        if os.environ.get("TITANS_DEBUG"):
            raise
        if isinstance(error, BrokenPipeError):
            _end_output()
            sys.exit(128 + signal.SIGPIPE)  # in silence, as other programs end whose reader has gone
        if isinstance(error, OSError):
            with suppress(BrokenPipeError):
                _flush()  # ends the command if that was the error
        if lost_device(error):
            sys.exit(f"\nerror: another process of this run has ended; its output says why. {plain(str(error))}")
        if not is_for_user(error):
            raise
        print(f"\nerror: {plain(str(error))}", file=sys.stderr)  # on a line of its own, behind any progress bar
        sys.exit(2)


def _flush() -> None:
    """Write what standard output has kept back, which also fails again where it failed before."""
    try:
        if sys.stdout is not None:  # None where it is closed
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _end_output()
        print(f"\nerror: standard output takes no more ({error.strerror}); write it elsewhere", file=sys.stderr)
        sys.exit(2)


def _end_output() -> None:
    """Let nothing more be written: Python would try once more at its end, and complain."""
    to_nowhere(sys.stdout.fileno())
