"""The map and the course of a season in closed form: sums against windows, least squares, and what validation keeps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries.linear import linear_map, squared_error
from domains.timeseries.products import Products, consecutive
from domains.timeseries.seasonal import Folded, course_beside, fold, seasonal_map, without_course
from domains.timeseries.series import Series
from domains.timeseries.windows import Batch, Rows, Windows

PERIOD, LOOK_BACK, HORIZON = 6, 10, 4  # no look-back of whole seasons
STAMPS = torch.from_numpy(pd.date_range("2020-01-01 03:00", periods=400, freq="h").as_unit("ns").asi8)
COUNTS = STAMPS // 3_600_000_000_000


def windows(values: Tensor, first: int, end: int, series: Tensor | None = None) -> Windows:
    rows = Rows(values, values, STAMPS, torch.zeros(len(values), 0), torch.zeros(len(values), 0), COUNTS)
    return Windows(rows, torch.arange(first, end), LOOK_BACK, HORIZON, series)


def noisy(variables: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(400, variables)).cumsum(0))


def squares(part: Windows, course: Tensor, weight: Tensor, instance_norm: bool) -> Tensor:
    """Sum of squared errors of a head with this course and map, from its windows one by one."""
    sizes = course.shape[1], HORIZON, LOOK_BACK
    head = ForecastHead(4, *sizes, instance_norm=instance_norm, cycle=PERIOD, linear=True, intervals=()).double()
    head.linear.copy_(weight)
    head.cycle.course.data = course
    batch: Batch = part[torch.arange(len(part))]
    hidden = torch.zeros(batch.past.shape[0] * batch.past.shape[2], head.tokens, 4, dtype=torch.float64)
    return (head.readout(hidden, batch) - batch.target).square().nansum()


@pytest.mark.parametrize("instance_norm", [True, False])
def test_sums_say_what_a_head_errs_by_on_every_window(instance_norm: bool) -> None:
    random = torch.Generator().manual_seed(0)
    course = torch.randn(PERIOD, 2, generator=random, dtype=torch.float64)
    weight = torch.randn(LOOK_BACK, HORIZON, generator=random, dtype=torch.float64) / 4
    part = windows(noisy(2), 0, 300)
    sums = fold(part, torch.zeros(2), torch.ones(2), PERIOD, instance_norm)
    left = without_course(sums, course)
    wanted = squares(part, course, weight, instance_norm)
    torch.testing.assert_close(squared_error(left, weight), wanted, rtol=1e-9, atol=0)


@pytest.mark.parametrize("apart", [False, True])
def test_sums_of_rows_that_follow_each_other_are_those_of_windows_one_by_one(apart: bool) -> None:
    """Also where the rows are far from zero; every second window, then the others, are spelt out."""
    part = windows(1e3 + noisy(3), 20, 300)
    mean, std = torch.tensor([1e3, 990.0, 1005.0]), torch.tensor([2.0, 3.0, 0.5])
    spelt = Windows(part.rows, torch.cat([part.starts[::2], part.starts[1::2]]), LOOK_BACK, HORIZON)
    assert consecutive(part) and not consecutive(spelt)
    found, wanted = (fold(each, mean, std, PERIOD, True, apart) for each in (part, spelt))
    for ours, theirs in zip([*found.whole, *found[1:]], [*wanted.whole, *wanted[1:]], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))
    course = torch.randn(PERIOD, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    each = without_course(fold(spelt, mean, std, PERIOD, True, apart=True), course)
    for ours, theirs in zip(without_course(found, course), each, strict=True):
        torch.testing.assert_close(ours, theirs if apart else theirs.sum(0), rtol=1e-9, atol=1e-6)


def test_windows_with_a_gap_or_an_unknown_cell_are_spelt_out() -> None:
    values = noisy(2)
    part = windows(values, 0, 50)
    assert not consecutive(Windows(part.rows, torch.cat([part.starts, torch.arange(60, 90)]), LOOK_BACK, HORIZON))
    truth = values.clone()
    truth[30, 1] = torch.nan
    rows = Rows(values, truth, STAMPS, torch.zeros(400, 0), torch.zeros(400, 0), COUNTS)
    assert not consecutive(Windows(rows, part.starts, LOOK_BACK, HORIZON))
    assert consecutive(Windows(rows, torch.arange(31, 80), LOOK_BACK, HORIZON))


def test_no_other_course_errs_less_beside_a_map() -> None:
    """The errors of the head's own windows have no slope at the course that is found, but for the shrinkage's."""
    part = windows(noisy(2), 0, 300)
    sums = fold(part, torch.zeros(2), torch.ones(2), PERIOD, True)
    weight = torch.full((LOOK_BACK, HORIZON), 0.02, dtype=torch.float64)
    course = course_beside(sums, weight, 1e-9)
    least = squares(part, course, weight, True)
    for place in range(2 * PERIOD):
        for step in (-1e-3, 1e-3):
            other = course.clone()
            other.view(-1)[place] += step
            assert squares(part, other, weight, True) > least


def test_a_long_season_takes_no_more_than_its_square() -> None:
    """A day of minutes has 1,440 phases, whose cube would be 24 GB."""
    largest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            made = function(*args, **(kwargs or {}))
            largest = max(largest, made.numel() if isinstance(made, Tensor) else 0)
            return made

    period = 60
    values = torch.rand(2, period, 1, LOOK_BACK + HORIZON, dtype=torch.float64, generator=torch.Generator())
    whole = Products(*(torch.zeros(size, dtype=torch.float64) for size in ((LOOK_BACK,) * 2, (LOOK_BACK, HORIZON), ())))
    sums = Folded(whole, values[0, ..., 0], values[0, ..., :LOOK_BACK], values[1, ..., :HORIZON])
    with Sizes():
        course = course_beside(sums, torch.zeros(LOOK_BACK, HORIZON, dtype=torch.float64), 0.1)
        without_course(sums, course)
    assert largest <= period**2


def test_a_window_with_an_unknown_target_counts_for_nothing() -> None:
    values = noisy(1)
    with_gap = values.clone()
    with_gap[305:] = torch.nan
    mean, std = torch.zeros(1), torch.ones(1)
    rows = Rows(values, with_gap, STAMPS, torch.zeros(400, 0), torch.zeros(400, 0), COUNTS)
    gap = Windows(rows, torch.arange(0, 300), LOOK_BACK, HORIZON)
    known = windows(values, 0, 305 - LOOK_BACK - HORIZON + 1)
    found, wanted = (fold(part, mean, std, PERIOD, True) for part in (gap, known))
    for ours, theirs in zip(found[1:], wanted[1:], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_panel_has_a_course_for_every_series() -> None:
    """Windows of one variable that say which series they are of give the sums of windows of all variables."""
    values = noisy(2)
    mean, std = torch.tensor([0.5, -1.0]), torch.tensor([2.0, 3.0])
    whole = fold(windows(values, 0, 100), mean, std, PERIOD, True)
    longer = Rows(
        values.T.reshape(-1, 1), values.T.reshape(-1, 1), STAMPS.repeat(2), *[torch.zeros(800, 0)] * 2, COUNTS.repeat(2)
    )
    starts = torch.cat([torch.arange(100), 400 + torch.arange(100)])
    panel = Windows(longer, starts, LOOK_BACK, HORIZON, torch.arange(2).repeat_interleave(100))
    for found, wanted in zip(fold(panel, mean, std, PERIOD, True)[1:], whole[1:], strict=True):
        torch.testing.assert_close(found, wanted)


def test_maps_of_each_variable_stand_on_the_course(write: Callable[[Series], Path]) -> None:
    """Of rows every 15 minutes, too: what they add to a start with a course never makes validation worse."""
    stamps = pd.date_range("2020-01-01", periods=400, freq="15min").as_unit("ns").asi8
    season = torch.tensor([2.0, -1.0, 0.0, 1.0, -2.0, 0.0]).repeat(67)[:400, None].numpy()
    path = write(Series(0.1 * noisy(2).numpy() + season, ["a", "b"], stamps, "15min"))
    data = TimeSeriesData(file=str(path), look_back=LOOK_BACK, horizon=HORIZON)
    data.setup()
    batch = data.windows["val"][torch.arange(len(data.windows["val"]))]
    errors = []
    for own_maps in (False, True):
        sizes = 2, HORIZON, LOOK_BACK
        head = ForecastHead(4, *sizes, cycle=PERIOD, linear=True, own_maps=own_maps, intervals=()).eval()
        head.fit_to(data)
        errors.append(head.errors(head.readout(head.embed(batch)[0], batch), batch).mean())
    assert head.own.any() and errors[1] < errors[0]


def test_validation_keeps_a_course_that_helps_and_no_other() -> None:
    """A season in noise is found; one that validation does not have is left alone, and the map is the linear one."""
    mean, std = torch.zeros(1), torch.ones(1)
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(400, 1)))
    season = torch.tensor([2.0, -1.0, 0.0, 1.0, -2.0, 0.0], dtype=torch.float64).repeat(67)[:400, None]
    train, validation = (windows(noise + season, *part) for part in ((0, 200), (220, 380)))
    course, weight = seasonal_map(train, validation, mean, std, PERIOD, True)
    shown = torch.corrcoef(torch.stack([course[:, 0], season[21 : 21 + PERIOD, 0]]))[0, 1]  # from the row of midnight
    assert shown > 0.95
    assert squares(validation, course, weight, True) < 0.9 * squares(
        validation, 0 * course, linear_map(train, validation, mean, std), True
    )
    turned = torch.cat([noise[:210] + season[:210], noise[210:] - season[210:]])
    train, validation = (windows(turned, *part) for part in ((0, 195), (220, 380)))
    course, weight = seasonal_map(train, validation, mean, std, PERIOD, True)
    assert not course.any()
    torch.testing.assert_close(weight, linear_map(train, validation, mean, std))
