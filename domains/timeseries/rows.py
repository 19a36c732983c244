"""What windows are cut from: the rows of a series, and past its end what is known beforehand."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from domains.timeseries.clock import counted, say
from domains.timeseries.marks import Mark, calendar_marks
from domains.timeseries.series import Series, stamps_after
from domains.timeseries.windows import Rows


def rows_of(series: Series, beyond: int, marks: Sequence[Mark], ahead: bool) -> Rows:
    """The rows of one series, and as many `beyond` its end, where nothing but what is known beforehand is known.

    Args:
        series: the series.
        beyond: rows past its end.
        marks: calendar marks of every row.
        ahead: whether `series.future` is known by the row, not the same forever.

    Raises:
        ValueError: it is not known that far.
    """

    def padded(x: np.ndarray) -> Tensor:
        """The last row again past the end: nothing reads it, but every cell must be a number."""
        return torch.tensor(np.concatenate([x, np.repeat(x[-1:], beyond, 0)]))

    truth = padded(series.truth)
    truth[len(series.values) :] = torch.nan
    past = np.zeros((len(series.stamps), 0)) if series.past is None else series.past
    future = torch.tensor(_future(series, beyond, marks, ahead))
    counts = counted(series.stamps, series.freq, series.zone)
    return Rows(padded(series.values), truth, padded(series.stamps), padded(past), future, padded(counts))


def _future(series: Series, beyond: int, marks: Sequence[Mark], ahead: bool) -> np.ndarray:
    """What is known beforehand, float64 [T + beyond, K]."""
    stamps = series.stamps
    if beyond:
        stamps = np.concatenate([stamps, stamps_after(stamps, series.freq, beyond, series.zone)])
    calendar = calendar_marks(stamps, marks, series.zone).astype(np.float64)
    future = series.future
    if future is None:
        return calendar
    if not ahead and len(future) < len(stamps):
        future = np.concatenate([future, np.repeat(future[-1:], len(stamps) - len(future), 0)])
    if len(future) < len(stamps):
        raise ValueError(
            f"data.future_covariates of {series.columns[0]!r} are known for {len(future) - len(series.stamps)} rows "
            f"past the last value, but a horizon of {beyond} needs them up to {say(stamps[-1], series.zone)}; append "
            "rows that hold them and no other value"
        )
    return np.concatenate([future[: len(stamps)], calendar], axis=1)
