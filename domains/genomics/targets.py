"""The columns that are to be predicted, as numbers."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from domains.genomics.columns import MISSING
from domains.genomics.records import Records
from domains.genomics.tasks import TaskName

YES_NO = {"1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0, "true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
UNNAMED = MISSING - {"", "none"}  # a class of such a name is probably none; "none" names many a control


def class_counts(records: Records) -> Counter[str]:
    """Sequences of each class."""
    return Counter([] if records.labels is None else records.labels.tolist())


def targets_of(records: Records, task: TaskName, names: list[str]) -> Tensor:
    """Class numbers int64 [N]; or labels or values float32 [N, names], NaN where a cell is empty.

    Raises:
        ValueError: a cell that is no number, or no yes or no.
    """
    if task == "classes":
        number = {name: index for index, name in enumerate(names)}
        return torch.tensor([number[label] for label in records.labels])
    cells = records.labels.reshape(len(records), -1)
    found = np.empty(cells.shape, np.float32)
    for column, name in enumerate(names):
        for row, cell in enumerate(cells[:, column]):
            value = _number(cell, task)
            if value is None:
                wanted = "1, 0 or nothing" if task == "labels" else "a number, such as 1.5, or nothing"
                raise ValueError(
                    f"{records.source}: sequence {records.ids[row]!r}, column {name!r}: {cell[:40]!r} is not {wanted}; "
                    "correct it, or set data.task"
                )
            found[row, column] = value
    return torch.from_numpy(found)


def _number(cell: str, task: TaskName) -> float | None:
    cell = cell.strip().lower()
    if cell in MISSING:
        return np.nan
    if task == "labels":
        return YES_NO.get(cell)
    try:
        value = float(cell)
    except ValueError:
        return None
    # Python reads 1_5 as fifteen
    return value if "_" not in cell and abs(value) <= np.finfo(np.float32).max else None


def check_targets(parts: dict[str, Records], targets: dict[str, Tensor], names: list[str], task: TaskName) -> None:
    """Refuse what train says nothing about, and warn of a part that scores nothing.

    Args:
        parts: train, val and test, which may be val.
        targets: those of each part.
        names: classes, or names of the labels or values.
        task: what is predicted.

    Raises:
        ValueError: a label that is always or never true, or a value that is always the same.
    """
    if task != "classes":
        _check_train(parts["train"].source, targets["train"], names)
    for part in ("val",) if parts["test"] is parts["val"] else ("val", "test"):
        if scores_nothing(targets[part]):
            told = f"the known answers of {part} are all alike, or none is known: its scores say nothing"
            rank_zero_warn(f"{parts[part].source}: {told}; give it others, or more of them")


def _check_train(source: str | Path, targets: Tensor, names: list[str]) -> None:
    for column, name in enumerate(names):
        known = targets[:, column][targets[:, column] == targets[:, column]]
        if len(known) < 2 or known.min() == known.max():
            told = f"is {known[0]:g} in all rows" if len(known) else "is empty in all rows"
            cure = "drop it from data.layout.label_cols" if len(names) > 1 else "name another column"
            raise ValueError(f"{source}: {name!r} {told} of train; {cure}")


def scores_nothing(targets: Tensor) -> bool:
    """Whether a part says nothing of how good a model is: each of its known answers is alike, or none is known.

    Args:
        targets: classes int64 [N], or labels or values float [N, names], NaN where unknown.
    """
    columns = targets.float().reshape(len(targets), -1).T
    return all(len(column[column == column].unique()) < 2 for column in columns)


def stratum(targets: Tensor) -> np.ndarray:
    """The class of each row, of which a validation holds a share, int64 [N]; without classes one for all."""
    return np.zeros(len(targets), np.int64) if targets.is_floating_point() else targets.numpy()
