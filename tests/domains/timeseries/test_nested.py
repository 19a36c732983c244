"""The mean of the maps of a look-back and of its parts: their sums follow from those of the whole."""

import numpy as np
import pytest
import torch
from torch import Tensor

from domains.timeseries.linear import ridge_map, squared_error
from domains.timeseries.nested import SHORTEST, nested_map, part, whole
from domains.timeseries.products import Products, products
from domains.timeseries.windows import Rows, Windows

HORIZON = 5
UNITS = torch.zeros(2), torch.ones(2)


def windows(values: Tensor, first: int, end: int, look_back: int) -> Windows:
    none, counts = torch.zeros(len(values), 0), torch.arange(len(values))
    return Windows(Rows(values, values, counts, none, none, counts), torch.arange(first, end), look_back, HORIZON)


def walk(rows: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, 2)).cumsum(0))


@pytest.mark.parametrize("rows", [3, 4, 9])
def test_sums_of_a_part_are_those_of_windows_cut_to_it(rows: int) -> None:
    values = walk(60)
    long = products(windows(values, 0, 40, 9), *UNITS)
    wanted = products(windows(values, 9 - rows, 49 - rows, rows), *UNITS)
    for found, sums in zip(part(long, rows), wanted, strict=True):
        torch.testing.assert_close(found, sums, rtol=1e-9, atol=1e-9)


def test_a_map_of_a_part_forecasts_alike_from_the_whole() -> None:
    values = walk(60)
    long, short = products(windows(values, 0, 40, 9), *UNITS), products(windows(values, 5, 45, 4), *UNITS)
    weight = torch.randn(4, HORIZON, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(squared_error(long, whole(weight, 9)), squared_error(short, weight), rtol=1e-9, atol=0)


def sums(values: Tensor, *parts: tuple[int, int]) -> list[Products]:
    return [products(windows(values, *each, 4 * SHORTEST), *UNITS) for each in parts]


def test_validation_chooses_how_short_parts_are_averaged() -> None:
    """What a far row says turns around between train and validation: the mean with shorter maps errs less. Where
    validation is the train part itself, the whole look-back's map is the best.
    """
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(1600, 2)))
    values = noise.clone()
    for row in range(200, 1600):
        values[row] += (0.6 if row < 1000 else -0.6) * values[row - 200] + 0.5 * values[row - 1]
    train, validation = sums(values, (200, 700), (1000, 1300))
    weight, error, penalty = nested_map(train, validation)
    _, alone, chosen = ridge_map(train, validation)
    assert error < 0.99 * alone and penalty == chosen
    torch.testing.assert_close(error, squared_error(validation, weight))
    torch.testing.assert_close(nested_map(train, train)[0], ridge_map(train, train)[0])


def test_a_short_look_back_has_no_parts() -> None:
    values = walk(400)
    short = [products(windows(values, *each, 2 * SHORTEST - 1), *UNITS) for each in ((0, 150), (150, 250))]
    torch.testing.assert_close(nested_map(*short)[0], ridge_map(*short)[0], rtol=0, atol=0)
