"""A season's course learned for each variable, as in CycleNet (arXiv 2409.18479, section 3.1)."""

from functools import cache

import torch
from pandas.tseries.frequencies import to_offset
from torch import Tensor, nn


@cache
def fixed_step(freq: str) -> int:
    """Nanoseconds from one row to the next.

    Raises:
        ValueError: the step varies, as that of months does.
    """
    try:
        return to_offset(freq).nanos
    except ValueError as err:
        raise ValueError(
            f"head.cycle needs rows at a fixed step, from minutes to days; they come every {freq!r}"
        ) from err


class CycleTable(nn.Module):
    """One value per phase of a season and variable, learned, zero at the start.

    The model sees windows less the table and its forecast gets the table back. A row's phase follows from its stamp and
    not from its place in the file, so that a newer file or a gap before the window changes nothing.

    Args:
        period: rows of a season.
        variables: V.
    """

    def __init__(self, period: int, variables: int) -> None:
        super().__init__()
        if period < 2:
            raise ValueError(f"head.cycle is {period}; give the rows of a season, at least 2, or 0 for none")
        self.period = period
        self.course = nn.Parameter(torch.zeros(period, variables))

    def forward(self, origins: Tensor, freq: str, rows: range) -> Tensor:
        """The table [B, rows, V] at `rows`, counted from the origins, int64 nanoseconds [B]."""
        counted = origins // fixed_step(freq)
        phases = (counted[:, None] + torch.arange(rows.start, rows.stop, device=origins.device)) % self.period
        return nn.functional.embedding(phases, self.course)
