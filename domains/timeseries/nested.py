"""The linear map of a look-back, averaged with those of its last half, quarter and eighth: where a forecaster starts.

How far back rows still tell something changes from year to year: validation months may prefer days where the years
after them want weeks. Forecasts from both, averaged, then err less than a choice between them (Bates and Granger 1969,
doi 10.2307/3008764). A mean of linear maps is a linear map, so that it costs no forecast anything, and all of them
follow from the sums of the longest look-back.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from domains.timeseries.linear import PENALTIES, Penalty, ridge_map, squared_error
from domains.timeseries.products import Products

SHORTEST = 64  # rows of a part; on ETTh1 means with shorter ones validated better and tested worse


def nested_map(
    train: Products, validation: Products, penalties: Sequence[Penalty] = PENALTIES
) -> tuple[Tensor, Tensor, Penalty]:
    """The mean of the ridge maps of the look-back and of its last parts, [L, H], float64, the sum of its squared errors
    on validation, and the penalty of the longest map.

    Validation chooses a penalty for every map, and to how short a part the mean goes: perhaps to none.

    Args:
        train: sums over the windows that maps are fitted to, of all variables together.
        validation: sums over those that choose.
        penalties: to choose among for the map of the whole look-back.
    """
    total, least, penalty = ridge_map(train, validation, penalties)
    best = total
    count = 1
    rows = len(total) // 2
    while rows >= SHORTEST:
        own, _, _ = ridge_map(part(train, rows), part(validation, rows))
        total = total + whole(own, len(total))
        count += 1
        error = squared_error(validation, total / count)
        if error < least:
            best, least = total / count, error
        rows //= 2
    return best, least, penalty


def part(sums: Products, rows: int) -> Products:
    """The sums of the same windows, were their look-backs its last `rows` rows alone; the mean that is taken away from
    rows and targets is then that of these.
    """
    gram = sums.gram[-rows:, -rows:]
    moment = sums.moment[-rows:]
    level = gram.mean(1, keepdim=True)  # of every row times the mean of the part
    squares = sums.squares - 2 * moment.mean(0).sum() + moment.shape[1] * level.mean()
    left = moment - level
    return Products(gram - level - level.mT + level.mean(), left - left.mean(0), squares)


def whole(weight: Tensor, look_back: int) -> Tensor:
    """The map [L, H] of the whole look-back, less its mean, that forecasts as a map [rows, H] of its last part does."""
    rows = len(weight)
    return F.pad(weight - weight.mean(0) + 1 / rows, (0, 0, look_back - rows, 0))
