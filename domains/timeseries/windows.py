"""The benchmark's protocol: which rows belong to which part, and every window of a part."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

PARTS = ("train", "val", "test")


class Covariates(NamedTuple):
    """What is known beside the variables, alike for all of them, in the file's own units.

    Args:
        past: [B, L, P], over the look-back alone.
        future: [B, L + H, K], over look-back and horizon: covariates known beforehand, then calendar marks.
    """

    past: Tensor
    future: Tensor


def split_rows(
    rows: int, look_back: int, horizon: int, ends: tuple[int, int, int] | None = None
) -> dict[str, tuple[int, int]]:
    """First row and end of each part.

    Validation and test begin `look_back` rows early, so that their first target is their own.

    Args:
        rows: length of the series.
        look_back: rows a window sees.
        horizon: rows it forecasts.
        ends: rows at which train, validation and test end; None splits 0.7 / 0.1 / 0.2.

    Raises:
        ValueError: the series is shorter than `ends`, or a part holds no window.
    """
    if ends is None:
        test = int(0.2 * rows)
        ends = (int(0.7 * rows), rows - test, rows)
    if rows < ends[2]:
        raise ValueError(
            f"the series has {rows} rows but its protocol {ends[2]}; the file is truncated: fetch it again"
        )
    starts = (0, ends[0] - look_back, ends[1] - look_back)
    for name, start, end in zip(PARTS, starts, ends, strict=True):
        if start < 0 or end - start < look_back + horizon:
            own = end if name == "train" else end - start - look_back
            raise ValueError(
                f"look_back {look_back} and horizon {horizon} do not fit the {name} part of {own} rows; "
                "shorten them or bring a longer series"
            )
    return dict(zip(PARTS, zip(starts, ends, strict=True), strict=True))


class Windows(Dataset):
    """Windows of consecutive rows as views of the tensors given, by default every window, one row apart.

    Nothing is copied but the windows of a batch, gathered where the tensors lie: 862 variables of 17,544 hours take
    60 MB on the device, while the train windows of 96 + 720 rows, spelt out, would take 32 GB.

    Args:
        values: float32 [T, V].
        stamps: int64 [T].
        look_back: L rows a window shows.
        horizon: H rows after them, its target.
        truth: float32 [T, V], values that count as targets, NaN where none does; None for `values`.
        past: float32 [T, P], covariates over the look-back; P may be 0.
        future: float32 [T, K], covariates over look-back and horizon; K may be 0.
        every: rows from one window to the next.
    """

    def __init__(
        self,
        values: Tensor,
        stamps: Tensor,
        look_back: int,
        horizon: int,
        truth: Tensor | None = None,
        past: Tensor | None = None,
        future: Tensor | None = None,
        every: int = 1,
    ) -> None:
        self.look_back, self.horizon = look_back, horizon
        count = len(values) - look_back - horizon + 1
        self.origins = stamps[look_back - 1 : look_back - 1 + count : every]  # [N]
        self.past = values.unfold(0, look_back, 1)[:count:every]  # [N, V, L]
        self.target = (values if truth is None else truth)[look_back:].unfold(0, horizon, every)  # [N, V, H]
        self.covariates: tuple[Tensor, Tensor] | None = None  # [N, P, L] and [N, K, L + H]
        if past is not None and future is not None and past.shape[1] + future.shape[1]:
            self.covariates = past.unfold(0, look_back, 1)[:count:every], future.unfold(0, look_back + horizon, every)

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor] | tuple[Tensor, Tensor, Tensor, Covariates]:
        """Windows `index` [B]: look-back [B, L, V], target [B, H, V] and the stamp [B] of the last row seen.

        Covariates follow as a fourth entry where there are any.
        """
        index = index.to(self.origins.device, non_blocking=True)
        batch = self.past[index].transpose(1, 2), self.target[index].transpose(1, 2), self.origins[index]
        if self.covariates is None:
            return batch
        return *batch, Covariates(*(windows[index].transpose(1, 2) for windows in self.covariates))


def future_window(
    values: Tensor,
    stamps: Tensor,
    look_back: int,
    horizon: int,
    past: Tensor | None = None,
    future: Tensor | None = None,
) -> Windows:
    """The one window that starts `look_back` rows before the end of the series; its target is unknown: NaN.

    Args:
        values: float32 [T, V].
        stamps: int64 [T].
        look_back: L rows the window shows.
        horizon: H rows after them.
        past: float32 [T, P], covariates over the look-back; P may be 0.
        future: float32 [T + H, K], covariates over look-back and horizon; K may be 0.

    Raises:
        ValueError: the series is shorter than `look_back`.
    """
    if len(values) < look_back:
        raise ValueError(f"look_back {look_back} is longer than the series of {len(values)} rows; bring a longer one")

    def padded(x: Tensor, fill: float) -> Tensor:
        return torch.cat([x[-look_back:], x.new_full((horizon, *x.shape[1:]), fill)])

    return Windows(
        padded(values, torch.nan),
        padded(stamps, 0),  # only the origin's stamp is ever read
        look_back,
        horizon,
        past=None if past is None else padded(past, torch.nan),
        future=None if future is None else future[-(look_back + horizon) :],
    )
