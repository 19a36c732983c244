"""What least squares need to know of windows: sums of products of their rows.

Of two windows that follow each other all rows but one are the same. With z_t the rows of look-back and horizon from row
t on, the sum over t of z_t[i] z_t[i + d] is a stretch of the running sum of x[k] x[k + d] over k, so that N windows of
L + H rows take N (L + H) products and not N L (L + H).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.timeseries.units import centred, scaled
from domains.timeseries.windows import Batch, Windows

CELLS = 16384  # look-backs of single variables whose products are formed at once
NUMBERS = 2**26  # that the sums of some variables may take, before they are added up


class Products(NamedTuple):
    """What least squares need to know of look-backs X and targets Y, both less the look-back's mean, float64.

    Args:
        gram: X'X [L, L].
        moment: X'Y [L, H].
        squares: sum of Y * Y, a scalar.

    Sums of each variable apart have one dimension before these.
    """

    gram: Tensor
    moment: Tensor
    squares: Tensor

    @classmethod
    def none(cls, windows: Windows, *apart: int) -> "Products":
        """Those of no windows like these, of so many variables apart."""
        gram = windows.origins.new_zeros(*apart, windows.look_back, windows.look_back, dtype=torch.float64)
        return cls(gram, gram.new_zeros(*apart, windows.look_back, windows.horizon), gram.new_zeros(apart))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Count look-backs [..., N, L] and targets [..., N, H] in."""
        self.gram.add_(x.mT @ x)
        self.moment.add_(x.mT @ y)
        self.squares.add_(y.square().sum((-2, -1)))


def products(windows: Windows, mean: Tensor, std: Tensor, apart: bool = False) -> Products:
    """The sums over all windows whose targets are known, of all variables together or [V, ...] of each apart.

    Args:
        windows: scaled, less the mean of their look-back.
        mean: of each variable or series, [V].
        std: likewise.
        apart: for windows of all variables alone, not for a panel.
    """
    if not consecutive(windows):
        return _by_cells(windows, mean, std, apart)
    rows = scaled_rows(windows, mean, std)
    if apart:
        return _sliding(rows, windows.look_back, windows.horizon)
    some = max(NUMBERS // (windows.look_back * (windows.look_back + windows.horizon)), 1)
    total = Products.none(windows)
    for part in rows.split(some):
        for sums, more in zip(total, _sliding(part, windows.look_back, windows.horizon), strict=True):
            sums.add_(more.sum(0))
    return total


def consecutive(windows: Windows) -> bool:
    """Whether windows begin at one row after another, see all variables, and know all of their rows."""
    if windows.series is not None or len(windows) == 0:
        return False
    first, last = int(windows.starts[0]), int(windows.starts[-1])
    rows = slice(first, last + windows.look_back + windows.horizon)
    known = torch.equal(windows.rows.values[rows], windows.rows.truth[rows])
    return known and last - first + 1 == len(windows) and bool((windows.starts.diff() == 1).all())


def scaled_rows(windows: Windows, mean: Tensor, std: Tensor) -> Tensor:
    """The scaled rows of consecutive windows, float64 [V, N + L + H - 1]."""
    rows = windows.rows.values[windows.starts[0] : windows.starts[-1] + windows.look_back + windows.horizon]
    return ((rows - mean.to(rows)) / std.to(rows)).T.contiguous()


def _sliding(rows: Tensor, look_back: int, horizon: int) -> Products:
    """Products of each variable apart, [V, ...], over all windows of rows [V, R]."""
    length = look_back + horizon
    count = rows.shape[1] - length + 1

    def sums_at(distance: int) -> Tensor:
        """The sums of z[i] z[i + distance] for i = 0, 1, ..."""
        running = F.pad((rows[:, : rows.shape[1] - distance] * rows[:, distance:]).cumsum(1), (1, 0))
        return running[:, count:] - running[:, :-count]

    raw = rows.new_zeros(len(rows), look_back, length)  # sums of z[i] z[j]
    for distance in range(length):
        sums = sums_at(distance)
        place = torch.arange(min(look_back, length - distance), device=rows.device)
        raw[:, place, place + distance] = sums[:, : len(place)]
        place = place[place + distance < look_back]
        raw[:, place + distance, place] = sums[:, : len(place)]
    # every row less the mean of its window's look-back
    level = raw.mean(1)  # sums of z[j] times that mean
    level_squared = level[:, :look_back].mean(1)
    squares = sums_at(0)[:, look_back:] - 2 * level[:, look_back:] + level_squared[:, None]
    raw = raw - level[:, :look_back, None] - level[:, None] + level_squared[:, None, None]
    return Products(raw[..., :look_back], raw[..., look_back:], squares.sum(1))


def _by_cells(windows: Windows, mean: Tensor, std: Tensor, apart: bool) -> Products:
    """The sums of any windows, which are spelt out."""
    variables = len(mean)
    sums = Products.none(windows, *[variables] * apart)
    for x, y, batch, known in known_cells(windows, mean, std):
        if not apart:
            sums.add(x[known], y[known])
            continue
        x, y = (part.where(known[:, None], 0.0).unflatten(0, (len(batch.past), variables)) for part in (x, y))
        sums.add(x.transpose(0, 1), y.transpose(0, 1))
    return sums


def known_cells(windows: Windows, mean: Tensor, std: Tensor) -> Iterator[tuple[Tensor, Tensor, Batch, Tensor]]:
    """Windows of single variables, some at a time: look-backs [B * V, L] and targets [B * V, H], both scaled and less
    the look-back's mean; the batch that they are of, and whose target is known, bool [B * V].
    """
    device = windows.origins.device
    mean = mean.to(device).double()
    std = std.to(device).double()
    width = windows.rows.values.shape[1]
    for index in torch.arange(len(windows)).split(max(CELLS // width, 1)):
        batch = windows[index]
        x, level = centred(scaled(batch.past, batch, mean, std))
        y = (scaled(batch.target, batch, mean, std) - level).mT.flatten(0, 1)
        known = y.isfinite().all(1)
        yield x, y, batch, known
