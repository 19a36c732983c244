"""Intervals of a running prediction, which follow the errors of its own forecasts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from domains.timeseries.intervals import Tracker
from domains.timeseries.windows import Batch, on_device

if TYPE_CHECKING:
    from domains.timeseries.data import TimeSeriesData
    from domains.timeseries.head import ForecastHead


class Tracked:
    """The intervals of one `predict`, which follow the errors of its own forecasts as their truths become known.

    Windows come in the order of time, those of a panel one series after another.

    Args:
        head: whose intervals they are.
        data: to be predicted; forecasts of the future are preceded by those of its last rows.
    """

    def __init__(self, head: ForecastHead, data: TimeSeriesData) -> None:
        self.head = head
        self.every = data.every
        self.growth = head.growth.clone()  # of each series, as it is now
        self.of = -1
        self.tracker: Tracker | None = None
        self.recent = data.recent_batches()

    def catch_up(self, model: Callable[[Batch], Tensor]) -> None:
        """Forecast what is known by now, and learn from it."""
        recent, self.recent = self.recent, []
        for batch in recent:
            batch = on_device(batch, self.growth.device)
            self.follow(model(batch), batch)

    def follow(self, output: Tensor, batch: Batch) -> Tensor:
        """The factor [B, H, V, intervals] of each window, H the trained horizon at most."""
        horizon = min(self.head.horizon, output.shape[1])
        nearest = output[:, :horizon]
        scores = self.head.scores(nearest, batch._replace(target=batch.target[:, :horizon])).float()
        # of steps that are trained and not asked for nothing is learnt, as of those whose truth is unknown
        scores = F.pad(scores, (0, 0, 0, 0, 0, self.head.horizon - horizon), value=torch.nan)
        series = [0] * len(scores) if batch.series is None else batch.series.tolist()
        growths = []
        for own, score in zip(series, scores, strict=True):
            place = slice(None) if batch.series is None else slice(own, own + 1)
            if own != self.of:
                self.of = own
                self.tracker = Tracker(self.growth[:, place], self.head.intervals, self.every)
            growths.append(self.tracker.growth)
            self.tracker.push(score)
            self.growth[:, place] = self.tracker.growth
        return torch.stack(growths)[:, :horizon]
