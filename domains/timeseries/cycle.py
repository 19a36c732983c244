"""A season's course learned for each variable, as in CycleNet (arXiv 2409.18479, section 3.1)."""

import torch
from torch import Tensor, nn

from domains.timeseries.clock import fixed_step


def refuse_calendar(freq: str) -> None:
    """Refuse rows at a step that varies, as that of months does.

    Raises:
        ValueError: it does.
    """
    if fixed_step(freq) is None:
        raise ValueError(f"head.cycle needs rows at a fixed step, from minutes to days; they come every {freq!r}")


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

    def forward(self, counts: Tensor, rows: range, series: Tensor | None = None) -> Tensor:
        """The table at `rows`, counted from the origins: [B, rows, V], or [B, rows, 1] of a panel.

        Args:
            counts: of the origins, the last rows known, int64 [B]; see `counted`.
            rows: which ones.
            series: int64 [B], which series of a panel each origin is of.
        """
        phases = (counts[:, None] + torch.arange(rows.start, rows.stop, device=counts.device)) % self.period
        if series is not None:
            return self.course[phases, series[:, None]][..., None]
        return nn.functional.embedding(phases, self.course)
