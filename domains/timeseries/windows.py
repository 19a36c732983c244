"""The benchmark's protocol: which rows belong to which part, and every window of a part."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

PARTS = ("train", "val", "test")


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
    """Every window of consecutive rows, one row apart, as views of one tensor.

    Args:
        values: float32 [T, V].
        stamps: int64 [T].
        look_back: L rows a window shows.
        horizon: H rows after them, its target.
    """

    def __init__(self, values: Tensor, stamps: Tensor, look_back: int, horizon: int) -> None:
        self.look_back = look_back
        self.windows = values.unfold(0, look_back + horizon, 1)  # [N, V, L + H]
        self.origins = stamps[look_back - 1 : len(stamps) - horizon]  # [N]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Windows `index` [B]: look-back [B, L, V], target [B, H, V] and the stamp [B] of the last row seen."""
        rows = self.windows[index].transpose(1, 2)
        return rows[:, : self.look_back], rows[:, self.look_back :], self.origins[index]


def future_window(values: Tensor, stamps: Tensor, look_back: int, horizon: int) -> Windows:
    """The one window that starts `look_back` rows before the end of the series; its target is unknown: NaN.

    Raises:
        ValueError: the series is shorter than `look_back`.
    """
    if len(values) < look_back:
        raise ValueError(f"look_back {look_back} is longer than the series of {len(values)} rows; bring a longer one")
    unknown = values.new_full((horizon, values.shape[1]), torch.nan)
    padded = torch.cat([stamps[-look_back:], stamps.new_zeros(horizon)])  # only the origin's stamp is ever read
    return Windows(torch.cat([values[-look_back:], unknown]), padded, look_back, horizon)
