"""Output that goes nowhere, once nobody takes it any more."""

import os


def to_nowhere(*outputs: int) -> None:
    """Let these file descriptors take all that is written to them, and keep nothing of it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in outputs:
        os.dup2(nowhere, output)
    os.close(nowhere)
