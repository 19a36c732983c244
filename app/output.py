"""Standard output that takes no more: its reader has gone, or its disk is full."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


def to_nowhere(*outputs: int) -> None:
    """Let these file descriptors take all that is written to them, and keep nothing of it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in outputs:
        os.dup2(nowhere, output)
    os.close(nowhere)


@contextmanager
def taken() -> Iterator[None]:
    """Within it a reader of standard output that has gone, such as `head`, ends the command in silence."""
    code = None
    try:
        try:
            yield
        except SystemExit as end:  # also of a page of help or a configuration that was asked for
            code = end.code
            flush()
            raise
        flush()
    except BrokenPipeError:
        _end_output()
        sys.exit(code or 128 + signal.SIGPIPE)  # as other programs end


def tell(text: str) -> None:
    """Print a page of help."""
    with taken():
        try:
            print(text)
        except BrokenPipeError:
            raise
        except OSError as error:  # where nothing is kept back, `print` itself finds a full disk
            _end_full(error)


def flush() -> None:
    """Write what standard output has kept back, which also fails again where it failed before.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    try:
        if sys.stdout is not None:  # None where it is closed
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _end_full(error)


def _end_full(error: OSError) -> NoReturn:
    _end_output()
    print(f"\nerror: standard output takes no more ({error.strerror}); write it elsewhere", file=sys.stderr)
    sys.exit(2)


def _end_output() -> None:
    """Let nothing more be written: Python would try once more at its end, and complain."""
    to_nowhere(sys.stdout.fileno())
