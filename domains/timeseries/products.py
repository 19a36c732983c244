"""What least squares need to know of windows: sums of products of their rows.

Of two windows that follow each other all rows but one are the same. With z_t the rows of look-back and horizon from row
t on, the sums over N windows of z_t[i + 1] z_t[j + 1] and of z_t[i] z_t[j] differ in x[N + i] x[N + j] - x[i] x[j]
alone. All of them follow from those of i = 0, which a Fourier transform finds, so that N windows of L + H rows take
some N log N + L (L + H) products and not N L (L + H): a look-back of a year of hours is a matter of seconds.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.timeseries.units import centred, scaled
from domains.timeseries.windows import Batch, Windows

CELLS = 16384  # look-backs of single variables whose products are formed at once


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
        return _sliding(rows[:, None], windows.look_back, windows.horizon)
    together = _sliding(rows[None], windows.look_back, windows.horizon)
    return Products(*(sums[0] for sums in together))


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
    """Sums [G, ...] over all windows of rows [G, V, R], of the V variables of a group together."""
    length = look_back + horizon
    count = rows.shape[-1] - length + 1
    size = 1 << (rows.shape[-1] - 1).bit_length()
    spectrum = torch.fft.rfft(rows[..., :count], size).conj() * torch.fft.rfft(rows, size)
    first = torch.fft.irfft(spectrum.sum(1), size)[:, :length]  # sums of z[0] z[j]

    raw = rows.new_empty(len(rows), look_back, length)  # sums of z[i] z[j]
    raw[:, 0] = first
    raw[:, :, 0] = first[:, :look_back]
    come, go = rows[..., count:], rows[..., : length - 1]
    raw[:, 1:, 1:] = come[..., : look_back - 1].mT @ come
    raw[:, 1:, 1:] -= go[..., : look_back - 1].mT @ go
    for i in range(1, look_back):
        raw[:, i, 1:] += raw[:, i - 1, :-1]
    # every row less the mean of its window's look-back
    level = raw.mean(1)  # sums of z[j] times that mean
    level_squared = level[:, :look_back].mean(1)
    running = F.pad(rows.square().sum(1).cumsum(1), (1, 0))
    own = running[:, count + look_back :] - running[:, look_back:length]
    squares = own - 2 * level[:, look_back:] + level_squared[:, None]
    raw -= level[:, :look_back, None]
    raw -= level[:, None]
    raw += level_squared[:, None, None]
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
