"""Lightning's remarks that are wrong or useless here, so that those which remain get read."""

import logging
import threading
import warnings
from pathlib import Path
from typing import Any

import lightning.fabric.utilities.warnings  # noqa: F401, which sets how a warning is written, as this file does after it

REMARKS = (
    r"Be aware that when using `ckpt_path`, callbacks",  # only `fit` needs the callbacks that save
    r"Checkpoint directory .* exists and is not empty",  # a run that goes on in its folder
    r"`ModelCheckpoint\(monitor=.*could not find the monitored key",  # before any validation; TitansCLI.after_fit tells
    r"The dirpath has changed from",  # a run that goes on from another's checkpoint has a best of its own
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # LogTraining counts on over epochs
    r"The '\w+' does not have many workers",  # a batch is one indexing operation, which a worker only slows down
    r"You're resuming from a checkpoint that ended before the epoch ended",  # TitansModule goes on where it stopped
    r"FSDP2-wrapped module \(.*\) returned a view tensor",  # a block's states are values that nobody changes in place
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)


# the same in what Lightning logs
LOGGED = (
    "Tip:",
    "TPU available: False",
    "Loading `train_dataloader` to estimate",
    "Restoring states from the checkpoint path",  # the command has named the checkpoint, here and in the next one
    "Loaded model weights from the checkpoint",
)

ROOT = Path(__file__).parent.parent
PACKAGES = tuple(ROOT / name for name in ("app", "benchmarks", "data_prep", "domains", "memory"))


def quieten() -> None:
    """Drop the remarks above, advertisements, and what TensorBoard's thread prints of errors that it hands over.

    Our own warnings are for the user: they are written without the file and line that gave them.
    """
    for remark in REMARKS:
        warnings.filterwarnings("ignore", message=remark)
    remarks = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    remarks.addFilter(_tells)
    warnings.formatwarning = _written
    if threading.excepthook is not _report:
        _others.append(threading.excepthook)
        threading.excepthook = _report


def _tells(record: logging.LogRecord) -> bool:
    return not any(remark in record.getMessage() for remark in LOGGED)


_library_form = warnings.formatwarning


def _written(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    if any(package in Path(filename).parents for package in PACKAGES):
        return f"warning: {message}\n"
    return _library_form(message, category, filename, lineno, line)


_others: list = []  # what reports an error of any other thread


def _report(failed: threading.ExceptHookArgs) -> None:
    if type(failed.thread).__name__ != "_AsyncWriterThread":
        _others[-1](failed)
