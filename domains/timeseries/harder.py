"""How much harder than its validation part a panel is to forecast: what months say that validation has not seen.

Where windows are so few that intervals are calibrated on those of all series together, the validation part is often a
part of a year: half a year without Christmas promises too much for the half that has it. The train windows hold whole
years. Errors of a trained network there are smaller than elsewhere, but those of the least-squares map that it starts
from hardly are, as it has few weights and a panel many windows. So the start is asked by how much more than validation
alone both parts together would widen its intervals, and those of the trained model widen by as much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from domains.timeseries.intervals import OWN, fewest, order_statistic
from domains.timeseries.windows import Windows, on_device

if TYPE_CHECKING:
    from domains.timeseries.data import TimeSeriesData
    from domains.timeseries.head import ForecastHead

CELLS = 2**22  # rows of the windows of a part that are asked about
AT_ONCE = 4096  # windows


@torch.no_grad()
def beyond_validation(head: ForecastHead, data: TimeSeriesData) -> Tensor:
    """By what factor train and validation windows together widen the intervals of each step, [H, levels], at least 1.

    It is 1 where there is no least-squares start, or validation has windows enough for each series to stand alone.

    Args:
        head: at its start.
        data: after `setup`.
    """
    train, validation = data.windows["train"], data.windows["val"]
    enough = OWN * max(map(fewest, head.intervals)) * (len(head.columns) if data.panel else 1)
    if head.linear is None or len(validation) >= enough:
        return torch.ones_like(head.growth[:, 0])
    own = _scores(head, validation)
    both, of_validation = (
        order_statistic(scores, head.intervals)[0] for scores in (torch.cat([own, _scores(head, train)]), own)
    )
    return (both / of_validation).nan_to_num(nan=1.0, posinf=1.0).clamp(min=1.0)


def _scores(head: ForecastHead, windows: Windows) -> Tensor:
    """How many half-widths the truths of some windows are from what the start says, [N, H, levels]."""
    rows = (head.look_back + head.horizon) * (1 if windows.series is not None else windows.rows.values.shape[1])
    some = max(min(len(windows), CELLS // rows), 1)
    was = head.training
    head.eval()
    scores = []
    for index in torch.linspace(0, len(windows) - 1, some).long().split(AT_ONCE):
        batch = on_device(windows[index], head.out.weight.device)
        silent = head.out.weight.new_zeros(batch.past.shape[0] * batch.past.shape[2], head.out.weight.shape[1])
        scores.append(head.scores(head.readout(silent, batch), batch).transpose(1, 2).flatten(0, 1))
    head.train(was)
    return torch.cat(scores)
