"""Validation and test parts that share no overlapping sequences with train."""

from typing import Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from sklearn.model_selection import StratifiedGroupKFold

from domains.genomics.overlap import carve, groups
from domains.genomics.records import Records

Group = Literal["auto", "none"]


def _groups(records: Records, group: Group) -> np.ndarray:
    """Which rows must stay together: the file's own groups, else those of overlapping sequences, int64 or names [N]."""
    if group == "none":
        return np.arange(len(records))
    if records.groups is None:
        return groups(records.sequences)
    alone = records.groups == ""
    return np.where(alone, [f"\0{row}" for row in range(len(records))], records.groups)  # no name holds such a letter


def hold_out(train: Records, labels: np.ndarray, share: float, group: Group, seed: int) -> tuple[Records, Records]:
    """Train without, and validation with, about `share` of each class.

    Args:
        train: N records.
        labels: class of each, int64 [N].
        share: of each class, in whole groups.
        group: `none` splits by row.
        seed: of the choice.
    """
    held = carve(_groups(train, group), labels, share, seed)
    if not held.any():
        rank_zero_warn(
            f"{train.source}: overlapping sequences form groups too large to hold out {share:.0%}; "
            "validation is split by row and will look too good"
        )
        held = carve(np.arange(len(train)), labels, share, seed)
    return train.select(np.flatnonzero(~held)), train.select(np.flatnonzero(held))


def fold_of(
    records: Records, labels: np.ndarray, fold: int, folds: int, group: Group, seed: int
) -> tuple[Records, Records]:
    """All records but those of one of `folds` folds, and these: every record is in one, whole groups at a time.

    Raises:
        ValueError: there are fewer groups than folds.
    """
    together = _groups(records, group)
    count = len(np.unique(together))
    if count < folds:
        raise ValueError(
            f"{records.source}: {count} groups of overlapping sequences make no {folds} folds; lower data.folds, or "
            "set data.group to none"
        )
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, together)
    rest, held = list(splits)[fold]
    if not len(rest) or not len(held):
        raise ValueError(f"{records.source}: fold {fold} is empty, so large are its groups; lower data.folds")
    return records.select(rest), records.select(held)
