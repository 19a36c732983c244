"""Lightning's remarks that are wrong or useless here, so that those which remain get read."""

import logging
import threading
import warnings

REMARKS = (
    r"Be aware that when using `ckpt_path`, callbacks",  # only `fit` needs the callbacks that save
    r"Checkpoint directory .* exists and is not empty",  # a run that goes on in its folder
    r"`ModelCheckpoint\(monitor=.*could not find the monitored key",  # before any validation; TitansCLI.after_fit tells
    r"The dirpath has changed from",  # a run that goes on from another's checkpoint has a best of its own
    r"The '\w+' does not have many workers",  # a batch is one indexing operation, which a worker only slows down
    r"You're resuming from a checkpoint that ended before the epoch ended",  # TitansModule goes on where it stopped
    r"FSDP2-wrapped module \(.*\) returned a view tensor",  # a block's states are values that nobody changes in place
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)


def quieten() -> None:
    """Drop the remarks above, advertisements, and what TensorBoard's thread prints of errors that it hands over."""
    for remark in REMARKS:
        warnings.filterwarnings("ignore", message=remark)
    remarks = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    remarks.addFilter(lambda record: "Tip:" not in record.getMessage())
    if threading.excepthook is not _report:
        _others.append(threading.excepthook)
        threading.excepthook = _report


_others: list = []  # what reports an error of any other thread


def _report(failed: threading.ExceptHookArgs) -> None:
    if type(failed.thread).__name__ != "_AsyncWriterThread":
        _others[-1](failed)
