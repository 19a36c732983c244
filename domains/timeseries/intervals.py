"""How sure a forecast is: pinball loss of quantiles, CRPS from it, and conformal intervals that follow the errors.

An interval is point - g * below to point + g * above. The two half-widths are the window's own: from the point to the
two quantiles that bound the interval where those are forecast (Kivaranovic, Johnson and Leeb 2020, section 3.2), else
the spread of its look-back (locally weighted conformal prediction, Lei et al. 2018, section 5.2). They are positive and
so is g, so that lower <= point <= upper whatever happens; a quiet window has a narrow interval.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

LARGEST = 2**24  # conformity scores held at most, 64 MB
OWN = 5  # times the fewest windows from which a level can be calibrated: as many, and a cell stands on its own
LEAST = 0.1  # of a series' usual spread, which no window's own is taken to be below
SPEED = 1.5  # by how many e-folds a miss in every window of a horizon would widen an interval, see `Tracker`


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
    return 2 * pinball(quantiles, truth, levels) @ borders.diff().to(quantiles.dtype)


def percent(level: float) -> str:
    """A level as names carry it: 0.9 is `90`, 0.975 `97.5`."""
    return f"{100 * level:.6g}"


def half_widths(
    point: Tensor, spread: Tensor, output: Tensor, quantiles: Sequence[float], levels: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """What lies below and above the point in the interval of each level before calibration, [B, H, V, levels].

    Where both quantiles (1 - level) / 2 and (1 + level) / 2 are forecast, they bound it; elsewhere, and where the two
    nearly meet, the window's own spread tells how far the truth may stray.

    Args:
        point: forecast, [B, H, V].
        spread: of each window's look-back, positive, [B, 1, V].
        output: forecast quantiles, [B, H, V, Q]; the point where there are none.
        quantiles: their levels.
        levels: of the intervals.
    """
    below = []
    above = []
    for level in levels:
        places = [_place(quantiles, q) for q in ((1 - level) / 2, (1 + level) / 2)]
        if None in places:
            below.append(spread.expand_as(point))
            above.append(spread.expand_as(point))
        else:
            lower, upper = (output[..., place] for place in places)
            below.append(torch.maximum(point - lower, LEAST * spread))
            above.append(torch.maximum(upper - point, LEAST * spread))
    return torch.stack(below, -1), torch.stack(above, -1)


def _place(levels: Sequence[float], level: float) -> int | None:
    """Where `level` stands among `levels`; None where it does not."""
    return next((i for i, other in enumerate(levels) if abs(other - level) < 1e-6), None)


def check_levels(quantiles: Sequence[float], intervals: Sequence[float]) -> None:
    """Refuse levels outside (0, 1) or out of order, and quantiles without the median.

    Raises:
        ValueError: names the key.
    """
    for name, levels in (("quantiles", quantiles), ("intervals", intervals)):
        if list(levels) != sorted(set(levels)) or not all(0 < level < 1 for level in levels):
            raise ValueError(f"head.{name} must rise between 0 and 1, such as 0.1, 0.5, 0.9; got {list(levels)}")
    if quantiles and 0.5 not in quantiles:
        raise ValueError(f"head.quantiles needs 0.5, the forecast itself; got {list(quantiles)}")


def fewest(level: float) -> int:
    """Scores without which no interval of a level can be calibrated, 1 / (1 - level): of fewer, none is the largest."""
    return int(1 / (1 - level) + 0.999999)


def order_statistic(scores: Tensor, levels: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The ceil((n + 1) level)-th smallest of the n scores that are known, over the first dimension.

    It is at least the next score, exchangeable with them, with probability `level` (Lei et al. 2018, theorem 2).

    Args:
        scores: [N, ..., levels], NaN where unknown.
        levels: of the last dimension.

    Returns:
        [..., levels] and how many were known, likewise; NaN where they were fewer than `fewest(level)`.
    """
    known = scores.isfinite().sum(0)
    ranks = ((known + 1) * torch.tensor(levels, device=scores.device, dtype=torch.float64)).ceil().long()
    nearest = scores.sort(0).values.gather(0, (ranks.minimum(known) - 1).clamp(min=0)[None])[0]  # NaN sorts last
    few = known < torch.tensor([fewest(level) for level in levels], device=scores.device)
    return nearest.masked_fill(few, torch.nan), known


class Conformal(Metric):
    """By what factor the half-widths of intervals must grow to hold the truth as often as they promise.

    The score of a truth y is (point - y) / below or (y - point) / above, whichever is positive, and g is an
    `order_statistic` of the scores of validation windows: split conformal prediction. The share of later truths that g
    covers is then Beta distributed with standard deviation sqrt(level (1 - level) / (n + 2)) for n scores (Vovk 2012,
    proposition 2a), which rules what is pooled:

    - n windows >= 5 / (1 - level), that is +-4 points at 90 %: a g for each step and series, as errors grow with the
      step and differ between series.
    - fewer: a g for each step, from the windows of all series. Scores are in units of each window's own spread, and so
      comparable. It grows by what the train part tells of harder times, see `harder`.
    - if those are too few as well: one g, from all windows, series and steps.
    - fewer than 1 / (1 - level) scores in all: no interval, NaN.

    A truth that is NaN counts for nothing. Of a long part every second, fourth, ... window is kept: 2^24 scores.

    Args:
        levels: share of truths that each interval is to hold.
    """

    full_state_update = False

    def __init__(self, levels: Sequence[float]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("series", default=[], dist_reduce_fx="cat")
        self.seen = 0
        self.every = 1

    def update(self, scores: Tensor, series: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            scores: [B, H, V, levels].
            series: int64 [B], which series of a panel each is of; None where the V variables stand beside each other.
        """
        thinned = slice(-self.seen % self.every, None, self.every)
        self.scores.append(scores.detach().float()[thinned])
        self.series.append(torch.zeros(len(scores), dtype=torch.int64, device=scores.device)[thinned])
        if series is not None:
            self.series[-1] += series[thinned]
        self.seen += len(scores)
        if sum(map(Tensor.numel, self.scores)) > LARGEST:
            self.scores[:] = [torch.cat(self.scores)[::2]]
            self.series[:] = [torch.cat(self.series)[::2]]
            self.every *= 2

    def compute(self, count: int, harder: Tensor | float = 1.0) -> Tensor:
        """The factors g, [H, count, levels] for `count` series or variables; pooled ones times `harder` [H, levels]."""
        scores = _whole(self.scores)
        series = _whole(self.series)
        enough = [OWN * fewest(level) for level in self.levels]
        everything = scores.flatten(0, 2), scores.transpose(1, 2).flatten(0, 1)
        (overall, _), (by_step, known) = (order_statistic(part, self.levels) for part in everything)
        bounds = torch.tensor(enough, device=scores.device)
        pooled = torch.where(known >= bounds, by_step, overall) * harder  # [H, levels]
        growth = pooled[:, None].repeat(1, count, 1)
        parts = [(slice(None), scores)]
        if scores.shape[2] != count:  # a panel: the windows of each series, one after another
            sizes = torch.bincount(series, minlength=count).tolist()
            each = scores[series.argsort(stable=True)].split(sizes)
            parts = [(slice(i, i + 1), part) for i, part in enumerate(each) if len(part)]
        for place, part in parts:
            own, known = order_statistic(part, self.levels)
            growth[:, place] = torch.where(known >= bounds, own, growth[:, place])
        return growth

    def reset(self) -> None:
        """Forget every window."""
        super().reset()
        self.seen = 0
        self.every = 1


class Tracker:
    """Intervals that follow the errors of a series: after each window whose truth is known, g is moved.

    What validation calibrated holds for windows exchangeable with its own, and no series is so kind. A truth outside
    multiplies g of its step and variable by exp(r level), one inside by exp(-r (1 - level)): the share of truths inside
    then tends to `level` whatever the series does, since log g would else grow without bound (adaptive conformal
    inference, Gibbs and Candes 2021, proposition 4.1; as steps of log g, Angelopoulos, Candes and Tibshirani 2023,
    theorem 1). A forecast h rows ahead is judged only after h rows, never before. r is 1.5 / H, as an error lasts for
    about a horizon of windows.

    Args:
        growth: g of the first window, [H, V, levels].
        levels: what each interval is to hold.
        every: rows from one window to the next.
    """

    def __init__(self, growth: Tensor, levels: Sequence[float], every: int = 1) -> None:
        self.growth = growth.clone()
        horizon = len(growth)
        self.levels = torch.tensor(levels, device=growth.device, dtype=growth.dtype)
        self.rate = min(SPEED * every / horizon, 0.5)
        self.lags = torch.arange(horizon, device=growth.device) // every  # windows until a step is known
        self.steps = torch.arange(horizon, device=growth.device)
        shape = (horizon // every + 1, *growth.shape)
        self.waiting = torch.full(shape, -1, dtype=torch.int8, device=growth.device)  # 1 outside, 0 inside, -1 unknown
        self.count = 0

    def push(self, scores: Tensor) -> None:
        """Go on to the next window: what is known there of this one's scores [H, V, levels], and of earlier ones."""
        outside = torch.where(scores.isfinite(), (scores > self.growth).to(torch.int8), -1)
        self.waiting[self.count % len(self.waiting)] = outside
        judged = self.waiting[(self.count - self.lags) % len(self.waiting), self.steps]  # [H, V, levels]
        change = torch.exp(self.rate * (judged - (1 - self.levels)))
        self.growth = torch.where(judged >= 0, self.growth * change, self.growth)
        self.count += 1


class Coverage(Metric):
    """Share of truths inside intervals that a `Tracker` moves through the windows of a test part, and their widths.

    Of a long part every second, fourth, ... window is kept, so that no part is too long for the memory.

    Args:
        levels: what each interval is to hold.
    """

    full_state_update = False
    STATES = ("scores", "widths", "origins", "series")

    def __init__(self, levels: Sequence[float]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        for name in self.STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.seen = 0
        self.every = 1
        self.growth = torch.zeros(0)
        self.stride = 1

    def update(self, scores: Tensor, widths: Tensor, origins: Tensor, series: Tensor | None, growth: Tensor) -> None:
        """Count a batch.

        Args:
            scores: [B, H, V, levels].
            widths: of the intervals at g = 1, in scaled units, [B, H, V, levels].
            origins: int64 [B].
            series: int64 [B] in a panel, else None.
            growth: g as validation left it, [H, count, levels].
        """
        self.growth = growth
        thinned = slice(-self.seen % self.every, None, self.every)
        whole = torch.zeros_like(origins) if series is None else series
        for name, part in zip(self.STATES, (scores.float(), widths.float(), origins, whole), strict=True):
            getattr(self, name).append(part.detach()[thinned])
        self.seen += len(scores)
        if sum(map(Tensor.numel, self.scores)) > 4 * LARGEST:
            for name in self.STATES:
                getattr(self, name)[:] = [torch.cat(getattr(self, name))[::2]]
            self.every *= 2

    def compute(self) -> dict[str, Tensor]:
        """`coverage_90` and `width_90` of each level; of several steps and series also `_by_step` and `_by_series`."""
        scores, widths, origins, series = (_whole(getattr(self, name)) for name in self.STATES)
        wide = scores.shape[2] == self.growth.shape[1]
        sums = self.growth.new_zeros(3, *self.growth.shape)  # truths known, those inside, widths
        order = origins.argsort(stable=True)
        order = order[series[order].argsort(stable=True)]
        before = -1
        tracker = None
        for i, own in zip(order.tolist(), series[order].tolist(), strict=True):
            place = slice(None) if wide else slice(own, own + 1)
            if own != before:
                tracker = Tracker(self.growth[:, place], self.levels, self.every * self.stride)
                before = own
            known = scores[i].isfinite()
            sums[0, :, place] += known
            sums[1, :, place] += torch.where(known, (scores[i] <= tracker.growth).float(), 0.0)
            sums[2, :, place] += torch.where(known, widths[i] * tracker.growth, 0.0)
            tracker.push(scores[i])
        sums[1:, self.growth.isnan()] = torch.nan  # nobody calibrated is not nothing covered
        values: dict[str, Tensor] = {}
        for level, (known, inside, width) in zip(self.levels, sums.movedim(-1, 0), strict=True):
            for name, part in (("coverage", inside), ("width", width)):
                label = f"{name}_{percent(level)}"
                values[label] = part.sum() / known.sum()
                parts = {"by_step": part.sum(1) / known.sum(1), "by_series": part.sum(0) / known.sum(0)}
                # torchmetrics makes a scalar of a single value, which would stand among the results as one
                values |= {f"{label}_{by}": each for by, each in parts.items() if len(each) > 1}
        return values

    def reset(self) -> None:
        """Forget every window."""
        super().reset()
        self.seen = 0
        self.every = 1


def _whole(state: list[Tensor] | Tensor) -> Tensor:
    return state if isinstance(state, Tensor) else torch.cat(state)  # a tensor once gathered from all devices
