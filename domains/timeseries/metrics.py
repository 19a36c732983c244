"""Point-forecast metrics of a backtest, each of arrays [N, V, H] in the file's own units unless it says otherwise.

A truth that is NaN counts for nothing.
"""

import numpy as np
from pandas.tseries.frequencies import to_offset

from domains.timeseries.clock import DAY, MONTHS

# rows of a week of business days, and of a year
SEASONS = {
    "B": 5,
    "W": 52,
    **dict.fromkeys(("MS", "ME", "BMS", "BME"), 12),
    **dict.fromkeys(("QS", "QE", "BQS", "BQE"), 4),
}


def season_length(freq: str) -> int:
    """Rows of the season that a seasonal naive forecast repeats; 1 where there is none.

    It is a day where rows divide one, a week of daily rows, a year of weekly, monthly and quarterly ones.
    """
    if match := MONTHS.fullmatch(freq):
        return {1: 12, 3: 4}.get(int(match[1] or 1), 1)
    offset = to_offset(freq)
    try:
        step = offset.nanos
    except ValueError:  # a calendar step, whose length varies
        return SEASONS.get(offset.rule_code.split("-")[0], 1) if offset.n == 1 else 1
    if freq.endswith("ns"):  # plain integers, which have no day
        return 1
    if step in (DAY, 7 * DAY):
        return 7 if step == DAY else 52
    return DAY // step if DAY % step == 0 else 1


def seasonal_naive(values: np.ndarray, known: np.ndarray, horizon: int, season: int) -> np.ndarray:
    """The last whole season before each origin, repeated, [N, V, H]; a season of 1 is naive: the last value.

    Args:
        values: the series, [T, V].
        known: rows known at each origin, [N].
        horizon: H.
        season: m; step h takes row t + h - m ceil(h / m) (Hyndman and Athanasopoulos, fpp3, section 5.2).

    Raises:
        ValueError: an origin has less than a season behind it.
    """
    if known.min() < season:  # a negative row would be one of the future
        raise ValueError(f"a season of {season} rows is longer than the {known.min()} rows known at the first origin")
    steps = np.arange(1, horizon + 1)
    rows = known[:, None] - 1 + steps - season * -(-steps // season)  # [N, H]
    return values[rows].transpose(0, 2, 1)


def mase_scale(values: np.ndarray, season: int) -> np.ndarray:
    """Mean |y_t - y_(t-m)| of each variable over the train rows [T, V], the unit of MASE; NaN where it is zero."""
    scale = np.nanmean(np.abs(values[season:] - values[:-season]), 0)
    return np.where(scale > 0, scale, np.nan)


def mse(forecast: np.ndarray, truth: np.ndarray) -> float:
    """Mean (y - f)^2; to be given scaled values, as every published table is."""
    return float(np.nanmean(np.square(truth - forecast)))


def mae(forecast: np.ndarray, truth: np.ndarray) -> float:
    """Mean |y - f|; to be given scaled values, as every published table is."""
    return float(np.nanmean(np.abs(truth - forecast)))


def mase(forecast: np.ndarray, truth: np.ndarray, scale: np.ndarray) -> float:
    """Mean |y - f| / scale, in train errors of the seasonal naive forecast (Hyndman and Koehler 2006, section 3).

    Args:
        forecast: f, [N, V, H].
        truth: y, [N, V, H].
        scale: see `mase_scale`, [V]; a variable without one is left out.
    """
    scaled = np.abs(truth - forecast) / scale[:, None]
    return float(np.nanmean(scaled[:, ~np.isnan(scale)])) if not np.isnan(scale).all() else float("nan")


def smape(forecast: np.ndarray, truth: np.ndarray) -> float:
    """Mean 200 |y - f| / (|y| + |f|) in percent, 0 to 200 (Makridakis et al. 2020, the M4 competition); 0/0 is 0."""
    size = np.abs(truth) + np.abs(forecast)
    return float(np.nanmean(200 * np.abs(truth - forecast) / np.where(size == 0, 1, size)))


def wape(forecast: np.ndarray, truth: np.ndarray) -> float:
    """Sum |y - f| / sum |y|, all variables together (MAD/mean ratio, Kolassa and Schuetz 2007); NaN if y is zero."""
    total = np.nansum(np.abs(truth))
    return float(np.nansum(np.abs(truth - forecast)) / total) if total > 0 else float("nan")
