"""Which errors are the user's to fix: these end a command as one line, every other one keeps its traceback."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from memory.ops import Unserved

# How jsonargparse tells what is wrong with a value: a complaint for each kind that it might be of, a file and nothing
# among them, with all that each kind accepts. A key that a class takes is of kind `Class | None` to it.
CLASS = "Subclass types expect one of:"
UNION = "Does not validate against any of the Union subtypes"
PATH = re.compile(r"^\s*- Expected a path but .*? either not accessible or invalid$", re.MULTILINE | re.DOTALL)
NOISE = re.compile(
    rf"(- )?{UNION}|Subtypes: .*|Errors:|Given value.*"
    rf"|- Expected a <class 'NoneType'>|{CLASS}|- a (class path|dict) .*"
)


class UserError(Exception):
    """Something outside the code is wrong; the message names it and the fix."""

    for_user = True


@contextmanager
def user_errors() -> Iterator[None]:
    """Mark errors raised inside that say an input is wrong; as a decorator, for a whole function.

    Only what reads configuration or data is wrapped (building the objects that a config names, a DataModule's
    `prepare_data` and `setup`). Anywhere else a ValueError is a bug, and keeps its traceback.
    """
    try:
        yield
    except (ValueError, OSError, MisconfigurationException) as error:
        # The error is marked, not replaced, so that a caller in Python still catches the type that was raised.
        vars(error)["for_user"] = True
        raise


def is_for_user(error: BaseException) -> bool:
    """Whether `error` is worth one line rather than a traceback."""
    return isinstance(error, Unserved) or getattr(error, "for_user", False)


def plain(message: str) -> str:
    """An error's message as one line that says what is wrong and nothing else."""
    if 'Parser key "' not in message and UNION not in message:
        return " ".join(message.split())
    lines = (" ".join(line.split()) for line in PATH.sub("", message).splitlines())
    told = dict.fromkeys(line for line in lines if line and not NOISE.fullmatch(line))
    said = re.sub(r": - ", ": ", " ".join(told)).removeprefix("- ")  # the first of several complaints
    return f"{said}; give its class_path and init_args" if CLASS in message else said
