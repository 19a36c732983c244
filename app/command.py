"""One command from its start to its exit code."""

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from app import signals
from app.devices import lost_device
from app.errors import is_for_user, plain
from app.orphans import end_with_parent
from app.output import flush, taken
from app.quiet import quieten


def carry_out(action: Callable[[], Any]) -> Any:
    """What `action` returns; what the user can fix ends as one line and exit code 2, see `app.door.main`."""
    quieten()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal of few characters must not end a training
    if "LOCAL_RANK" in os.environ:  # one of several processes, started by Lightning or torchrun
        end_with_parent()
    try:
        with taken(), signals.ending():
            return action()
    except Exception as error:
        if os.environ.get("TITANS_DEBUG"):
            raise
        if isinstance(error, OSError):
            with suppress(BrokenPipeError):
                flush()  # ends the command if that was the error
        if lost_device(error):
            sys.exit(f"\nerror: another process of this run has ended; its output says why. {plain(str(error))}")
        if not is_for_user(error):
            raise
        print(f"\nerror: {plain(str(error))}", file=sys.stderr)  # on a line of its own, behind any progress bar
        sys.exit(2)
