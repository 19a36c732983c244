"""Forecasts past the trained horizon: block by block, each from the forecasts before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from domains.timeseries.windows import Batch, Covariates

if TYPE_CHECKING:
    from domains.timeseries.head import ForecastHead

PATHS = 32  # sample paths that are drawn past the trained horizon
DRAWN = 8  # levels at which each path's distribution of a later block counts, so that 256 values make a quantile


def roll(head: ForecastHead, model: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
    """The scaled answer for as many steps as the batch has targets, [B, steps, V] or [B, steps, V, Q].

    Without quantiles each forecast is the look-back of the next. With quantiles the later blocks are those of sample
    paths (as DeepAR's, Salinas et al. 2020, section 3): each path feeds back one value per series and step, drawn from
    the quantiles of the block before, and the quantiles told are those of all paths' distributions together. A path
    keeps its level within a block, as errors of neighbouring steps are alike. Nothing is drawn beyond the outermost
    quantiles, which makes the outermost told a little narrow. The draws are the same every time.
    """
    steps = batch.target.shape[1]
    first = model(_asked(head, batch, batch.past, 0))
    if steps <= head.horizon:
        return first[:, :steps]
    blocks = -(-steps // head.horizon)
    if not head.quantiles:
        return torch.cat(_path(head, model, batch, first, [None] * (blocks - 1)), 1)[:, :steps]
    grid = (torch.arange(DRAWN) + 0.5) / DRAWN
    pooled = []
    for draws in _draws(blocks - 1):
        later = torch.cat(_path(head, model, batch, first, draws)[1:], 1)
        pooled.append(torch.stack([_at(later, head.quantiles, float(level)) for level in grid], -1))
    values = torch.cat(pooled, -1)  # [B, later steps, V, PATHS * DRAWN]
    levels = torch.tensor(head.quantiles, dtype=values.dtype, device=values.device)
    # not torch.quantile, which refuses more than 2^24 numbers
    places = (levels * (values.shape[-1] - 1)).round().long()
    return torch.cat([first, values.sort(-1).values[..., places]], 1)[:, :steps]


def _draws(blocks: int) -> list[list[float]]:
    """The level of each path in each block: every block has the same levels, in an order of its own."""
    generator = torch.Generator().manual_seed(0)
    levels = (torch.arange(PATHS, dtype=torch.float64) + 0.5) / PATHS
    columns = [levels[torch.randperm(PATHS, generator=generator)] for _ in range(blocks)]
    return torch.stack(columns, 1).tolist()


def _path(
    head: ForecastHead, model: Callable[[Batch], Tensor], batch: Batch, first: Tensor, draws: list[float | None]
) -> list[Tensor]:
    """Answers of every block along one path.

    Args:
        head: that answers.
        model: answers a batch.
        batch: what is asked.
        first: its answer for the trained horizon.
        draws: level of the values that each later block sees of the one before it; None for the point forecast.
    """
    past = batch.past
    outputs = [first]
    for block, level in enumerate(draws, 1):
        values = head.point(outputs[-1]) if level is None else _at(outputs[-1], head.quantiles, level)
        past = torch.cat([past, head.restored(values, batch)], 1)[:, -head.look_back :]
        outputs.append(model(_asked(head, batch, past, block * head.horizon)))
    return outputs


def _asked(head: ForecastHead, batch: Batch, past: Tensor, start: int) -> Batch:
    """What is asked about the trained horizon that begins `start` steps after the batch's own, by its look-back."""
    covariates = batch.covariates
    if covariates is not None:
        rows = torch.arange(start, start + head.look_back + head.horizon)
        # past the last step that is asked for nothing is known, and nothing is read
        rows = rows.clamp(max=covariates.future.shape[1] - 1)
        covariates = Covariates(covariates.past, covariates.future[:, rows])
    counts = None if batch.counts is None else batch.counts + start
    return batch._replace(past=past, covariates=covariates, counts=counts)


def _at(output: Tensor, levels: list[float], level: float) -> Tensor:
    """The value [B, H, V] at a level between forecast quantiles [B, H, V, Q], linearly; the outermost beyond them."""
    above = next((i for i, other in enumerate(levels) if other >= level), len(levels) - 1)
    below = max(above - 1, 0)
    if above == below or level > levels[above]:
        return output[..., above]
    share = (level - levels[below]) / (levels[above] - levels[below])
    return output[..., below] + share * (output[..., above] - output[..., below])
