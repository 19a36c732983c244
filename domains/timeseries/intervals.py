"""How sure a forecast is: pinball loss of quantiles, CRPS from it, and split-conformal intervals."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

KEPT = 2**24  # conformity scores held at most, 64 MB


def pinball(quantiles: Tensor, truth: Tensor, levels: Tensor) -> Tensor:
    """Quantile loss max(q (y - f), (q - 1) (y - f)) of Koenker and Bassett (1978), [..., Q].

    Args:
        quantiles: forecasts f, [..., Q].
        truth: y, [...].
        levels: q, [Q].
    """
    missed = truth[..., None] - quantiles
    return torch.maximum(levels * missed, (levels - 1) * missed)


def crps(quantiles: Tensor, truth: Tensor, levels: Tensor) -> Tensor:
    """Continuous ranked probability score 2 * integral of the pinball loss over q (Gneiting and Ranjan 2011, eq. 13).

    Each level stands for the part of (0, 1) that lies nearest to it: a plain mean over levels such as 0.05, 0.25, 0.5
    would count the tails, where the pinball loss is small, too often. A single level 0.5 gives the absolute error.

    Args:
        quantiles: forecasts f, [..., Q].
        truth: y, [...].
        levels: q, [Q], rising.

    Returns:
        [...], in the units of `truth`.
    """
    borders = torch.cat([levels.new_zeros(1), (levels[1:] + levels[:-1]) / 2, levels.new_ones(1)])
    return 2 * pinball(quantiles, truth, levels) @ borders.diff()


def percent(level: float) -> str:
    """A level as names carry it: 0.9 is `90`, 0.975 `97.5`."""
    return f"{100 * level:.6g}"


class Conformal(Metric):
    """By how much intervals must grow on either side to hold the truth as often as they promise.

    Conformalised quantile regression (Romano, Patterson and Candes 2019, eq. 6 to 8) on the validation windows: the
    score of a window is max(lower - y, y - upper), and an interval grows by the ceil((n + 1) level)-th smallest of n
    scores. Where a forecast has no quantiles, lower = upper = the point forecast and the score is |y - point|: plain
    split conformal prediction (Lei et al. 2018). Every step and variable has a width of its own, as errors grow with
    the step and differ between variables; a pooled width would be right on average and wrong nearly everywhere. With
    too few windows for a level the largest score stands in. A truth that is NaN counts for nothing.

    The promise holds for windows exchangeable with the validation part's. A series drifts, so that `test` measures the
    coverage anew. Of a long part every second, fourth, ... window is kept, at most 2^24 scores.

    Args:
        levels: share of truths that each interval is to hold.
    """

    full_state_update = False

    def __init__(self, levels: Sequence[float]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.seen, self.every = 0, 1

    def update(self, lower: Tensor, upper: Tensor, truth: Tensor) -> None:
        """Count a batch: bounds [B, H, V, levels] and truth [B, H, V], in scaled units."""
        scores = torch.maximum(lower - truth[..., None], truth[..., None] - upper).detach().float()
        self.scores.append(scores[-self.seen % self.every :: self.every])
        self.seen += len(scores)
        if sum(map(Tensor.numel, self.scores)) > KEPT:
            self.scores[:] = [torch.cat(self.scores)[::2]]
            self.every *= 2

    def compute(self) -> Tensor:
        """Growth [H, V, levels] of each interval, negative where it may shrink."""
        scores = self.scores if isinstance(self.scores, Tensor) else torch.cat(self.scores)  # a tensor once gathered
        known = scores.isfinite().sum(0)  # [H, V, levels]; NaN sorts behind every number
        ranks = ((known + 1) * torch.tensor(self.levels, device=scores.device, dtype=torch.float64)).ceil().long()
        return scores.sort(0).values.gather(0, (ranks.minimum(known) - 1).clamp(min=0)[None])[0]

    def reset(self) -> None:
        """Forget every window."""
        super().reset()
        self.seen, self.every = 0, 1
