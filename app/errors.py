"""Which errors are the user's to fix: these end a command as one line, every other one keeps its traceback."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from memory.ops import Unserved


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
    # a class that the config names is `Class | None` to jsonargparse: of its two complaints only the first helps
    pattern = r"(?:(.*?):\s*)?Does not validate.*?Errors:\s*- (.*?)\s*- Expected a <class 'NoneType'>"
    union = re.search(pattern, message, re.DOTALL)
    return " ".join((": ".join(filter(None, union.groups())) if union else message).split())
