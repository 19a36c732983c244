"""The protocol: which rows belong to which part, and the windows of a part."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

PARTS = ("train", "val", "test")


class Covariates(NamedTuple):
    """What is known beside the variables, in the file's own units.

    Args:
        past: [B, L, P], over the look-back alone.
        future: [B, L + H, K], over look-back and horizon: what is known beforehand, then calendar marks.
    """

    past: Tensor
    future: Tensor


class Batch(NamedTuple):
    """Windows as a model is asked about them, in the file's own units.

    Args:
        past: look-back, float64 [B, L, V].
        target: float64 [B, H, V], NaN where nothing was measured.
        origins: int64 [B], nanoseconds of the last row of each look-back.
        covariates: what is known beside the variables; None for nothing.
        series: int64 [B], which series of a panel each window is of, and then V is 1; None where a window holds all
            variables.
        counts: int64 [B], which row of the clock each origin is, see `counted`; read where a season is learned.
    """

    past: Tensor
    target: Tensor
    origins: Tensor
    covariates: Covariates | None = None
    series: Tensor | None = None
    counts: Tensor | None = None


def on_device(batch: Batch, device: torch.device) -> Batch:
    """A batch with all its tensors on one device."""
    beside = batch.covariates
    return batch._replace(
        past=batch.past.to(device),
        target=batch.target.to(device),
        origins=batch.origins.to(device),
        covariates=None if beside is None else Covariates(*(part.to(device) for part in beside)),
        series=None if batch.series is None else batch.series.to(device),
        counts=None if batch.counts is None else batch.counts.to(device),
    )


class Rows(NamedTuple):
    """The rows that windows are cut from; those of a panel lie one series after another.

    Args:
        values: float64 [R, V], every cell finite up to the end of a series.
        truth: float64 [R, V], what counts as a target, NaN where nothing was measured.
        stamps: int64 [R].
        past: float64 [R, P], covariates over the look-back; P may be 0.
        future: float64 [R, K], covariates over look-back and horizon; K may be 0.
        counts: int64 [R], which row of the clock each is, see `counted`.
    """

    values: Tensor
    truth: Tensor
    stamps: Tensor
    past: Tensor
    future: Tensor
    counts: Tensor


def split_ends(
    rows: int, horizon: int, val_rows: int | None = None, test_rows: int | None = None
) -> tuple[int, int, int]:
    """Rows at which train, validation and test end.

    Args:
        rows: length of the series.
        horizon: rows a window forecasts.
        val_rows: rows of the validation part; None takes a tenth, but at least the horizon. 0 has validation repeat the
            last tenth of the train part.
        test_rows: rows of the test part; None takes a fifth, but at least the horizon.
    """
    test = max(int(0.2 * rows), horizon) if test_rows is None else test_rows
    # the benchmarks' protocol takes 0.7 of the rows for training and gives validation what is left
    val = max(rows - int(0.7 * rows) - int(0.2 * rows), horizon) if val_rows is None else val_rows
    return rows - test - val, rows - test, rows


def split_rows(ends: tuple[int, int, int], look_back: int, horizon: int) -> dict[str, tuple[int, int]]:
    """First row and end of each part, within which its windows lie.

    Validation and test begin `look_back` rows early, so that their first target is their own. Validation without rows
    of its own repeats the last tenth of the train part.

    Args:
        ends: rows at which train, validation and test end.
        look_back: rows a window sees.
        horizon: rows it forecasts.
    """
    train, val, test = ends
    validated = max(train // 10, horizon) if val == train else 0
    first = {"train": 0, "val": max(train - validated - look_back, 0), "test": max(val - look_back, 0)}
    return dict(zip(PARTS, zip(first.values(), (train, val, test), strict=True), strict=True))


def refuse_empty(source: str, ends: tuple[int, int, int], look_back: int, horizon: int) -> None:
    """Refuse a split of the rows of a file or set, `source`, in which a part that has rows holds no window.

    Raises:
        ValueError: names the part and its keys.
    """
    train, val, test = ends
    own = {"train": train, "val": val - train, "test": test - val}
    needed = {"train": look_back + horizon, "val": horizon * (val > train), "test": horizon * (test > val)}
    for name, rows in own.items():
        if rows < needed[name] or (name != "train" and train < look_back):
            key = "data.val_rows and data.test_rows" if name == "train" else f"data.{name}_rows"
            raise ValueError(
                f"{source}: look_back {look_back} and horizon {horizon} do not fit the {name} part of {max(rows, 0)} "
                f"rows, which needs {needed[name]}; shorten them, set {key}, or bring a longer series"
            )


def starts_of(part: tuple[int, int], look_back: int, horizon: int, every: int = 1) -> range:
    """First rows of the windows of one part."""
    first, end = part
    return range(first, max(end - look_back - horizon + 1, first), every)


class Windows(Dataset):
    """Windows of consecutive rows, gathered where the rows lie as a batch asks for them.

    Nothing is copied but the windows of a batch: 862 variables of 17,544 hours take 120 MB on the device, while the
    train windows of 96 + 720 rows, spelt out, would take 64 GB.

    Args:
        rows: what windows are cut from.
        starts: int64 [N], the first row of each window.
        look_back: L rows a window shows.
        horizon: H rows after them, its target.
        series: int64 [N], which series of a panel each window is of; None for windows of all variables.
    """

    def __init__(self, rows: Rows, starts: Tensor, look_back: int, horizon: int, series: Tensor | None = None) -> None:
        self.rows = rows
        self.look_back = look_back
        self.horizon = horizon
        self.starts = starts
        self.series = series
        self.origins = rows.stamps[starts + look_back - 1]  # [N]
        self.counts = rows.counts[starts + look_back - 1]
        self.beside = rows.past.shape[1] + rows.future.shape[1] > 0

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Tensor) -> Batch:
        """Windows `index` [B]."""
        index = index.to(self.starts.device, non_blocking=True)
        at = self.starts[index][:, None] + torch.arange(self.look_back + self.horizon, device=index.device)
        past = at[:, : self.look_back]
        ahead = at[:, self.look_back :]
        rows = self.rows
        return Batch(
            rows.values[past],
            rows.truth[ahead],
            self.origins[index],
            Covariates(rows.past[past], rows.future[at]) if self.beside else None,
            None if self.series is None else self.series[index],
            self.counts[index],
        )


def joined(parts: Sequence[Rows]) -> Rows:
    """Rows of several series, one after another."""
    return Rows(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def windows_of(
    rows: Rows, lengths: Sequence[int], starts: Sequence[range], look_back: int, horizon: int, panel: bool
) -> Windows:
    """Windows of all series, one after another.

    Args:
        rows: of all series, one after another.
        lengths: how many of them are of each series.
        starts: first rows of the windows of each series, counted from its own first row.
        look_back: L.
        horizon: H.
        panel: whether each window is to know which series it is of.
    """
    offsets = torch.tensor([0, *lengths]).cumsum(0).tolist()
    at = torch.cat([torch.tensor(own, dtype=torch.int64) + offsets[i] for i, own in enumerate(starts)])
    of = torch.cat([torch.full((len(own),), i) for i, own in enumerate(starts)])
    device = rows.values.device
    return Windows(rows, at.to(device), look_back, horizon, of.to(device) if panel else None)
