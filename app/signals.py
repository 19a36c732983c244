"""SIGTERM, Ctrl-C, SIGUSR1 and SIGHUP end a command with exit code 128 + their number; a training saves itself first.

SIGHUP comes where the terminal closes; a command that was started to ignore it, as nohup does, goes on.
"""

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.output import to_nowhere

_HANGUP = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, *_HANGUP)
_received = 0


@contextmanager
def ending() -> Iterator[None]:
    """Let each of the signals end the process at once with its exit code, while inside."""
    global _received
    _received = 0
    before = {number: signal.getsignal(number) for number in SIGNALS}
    act()
    try:
        yield
    finally:
        for number, handler in before.items():
            _handle(number, handler)


def postpone() -> None:
    """From here on the first signal is only noted, for the training to see between two steps; a second one acts.

    Lightning's own handlers are replaced: they talk to other devices in the middle of a step.
    """
    for number in SIGNALS:
        _handle(number, _note)


def act() -> None:
    """From here on a signal ends the process at once."""
    for number in SIGNALS:
        _handle(number, _end)


def received() -> int:
    """The number of the signal that asked to stop, 0 if none did."""
    return _received


def name(number: int) -> str:
    """A signal's name."""
    return signal.Signals(number).name


def _handle(number: int, handler: Any) -> None:
    # Python lets only the main thread install signal handlers.
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)


def _note(number: int, frame: object) -> None:
    global _received
    _received = number
    act()
    _leave_terminal(number)


def _end(number: int, frame: object) -> None:
    _leave_terminal(number)
    raise SystemExit(128 + number)


def _leave_terminal(number: int) -> None:
    """Write to nowhere once the terminal has gone: a progress bar would raise in the middle of a step."""
    if number == signal.SIGHUP:
        to_nowhere(*(output for output in (1, 2) if stat.S_ISCHR(os.fstat(output).st_mode)))  # a log file stays open
