"""Rolling origins: where each fold's parts end, and how its forecasts score beside naive ones."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from domains.timeseries.metrics import mae, mase, mase_scale, mse, seasonal_naive, smape, wape
from domains.timeseries.report import instants_of
from domains.timeseries.series import Series


def fold_ends(
    ends: tuple[int, int, int], horizon: int, origins: int, stride: int, refit: int
) -> list[tuple[int, int, int]]:
    """Rows at which train, validation and test end in each fold, oldest fold first.

    The last origin is the latest whose horizon the test part holds. A fold has `refit` origins (all, without refit);
    its validation part is as long as the original one and ends at its first origin, and training takes all before that.

    Args:
        ends: the same rows of the whole series.
        horizon: rows forecast at each origin.
        origins: how many.
        stride: rows from one to the next.
        refit: origins that share a model; 0 means all.

    Raises:
        ValueError: the test part is too short, or a number is not positive.
    """
    if min(origins, stride) < 1 or refit < 0:
        raise ValueError("backtest needs --origins and --stride of at least 1 and no negative --refit")
    train, val, test = ends
    known = [test - horizon - stride * i for i in reversed(range(origins))]  # rows known at each origin
    if known[0] < val:
        room = max((test - horizon - val) // stride + 1, 0)
        raise ValueError(
            f"backtest: the test part of {test - val} rows has room for {room} origins {stride} rows apart that "
            f"forecast {horizon}, not for {origins}; lower --origins or --stride"
        )
    folds = [known[i : i + refit] for i in range(0, origins, refit)] if refit else [known]
    return [(fold[0] - (val - train), fold[0], fold[-1] + horizon) for fold in folds]


def score(predictions: pd.DataFrame, series: Sequence[Series], train: Sequence[slice], season: int) -> pd.DataFrame:
    """MSE and MAE (scaled by the train rows), MASE, sMAPE and WAPE of forecasts and of the naive ones beside them.

    Args:
        predictions: tables of `forecast_table`, one below the other, truth known everywhere.
        series: those that they forecast.
        train: the train rows of each, which scale MSE, MAE and MASE.
        season: rows of a season, that of seasonal naive and MASE; 1 for none.

    Returns:
        columns `model`, `by` (`all`, `origin`, `step` or `series`), `at` and the metrics; each interval's coverage too.
    """
    shape = (-1, int(predictions["step"].max()))  # N, H: the order of `forecast_table`
    truth = predictions["truth"].to_numpy(np.float64).reshape(shape)
    names = predictions["series"].to_numpy(object).reshape(shape)[:, 0]
    origins = predictions["origin"].iloc[:: shape[1]].reset_index(drop=True)
    at = instants_of(origins)
    if any(season >= len(one.values[rows]) for one, rows in zip(series, train, strict=True)):
        season = 1  # no season to look back to, nor to scale by
    models = {"this run": predictions["prediction"].to_numpy(np.float64).reshape(shape)}
    simple = {"naive": 1} | ({f"seasonal naive ({season} rows)": season} if season > 1 else {})
    models |= {name: np.full(truth.shape, np.nan) for name in simple}
    mean, std, scale = (np.full(len(truth), np.nan) for _ in range(3))
    for one, rows in zip(series, train, strict=True):
        seen = one.truth[rows]
        spread = np.nanstd(seen, 0)
        for v, name in enumerate(one.columns):
            own = names == name
            known = np.searchsorted(one.stamps, at[own]) + 1
            for model, back in simple.items():
                if own.any():
                    models[model][own] = seasonal_naive(one.values[:, [v]], known, shape[1], back)[:, 0]
            mean[own], std[own] = np.nanmean(seen[:, v]), spread[v] if spread[v] > 0 else 1
            scale[own] = mase_scale(seen[:, [v]], season)[0]
    inside = {}
    for lower in predictions.filter(regex="^lower_"):
        level = lower.removeprefix("lower_")
        held = predictions["truth"].between(predictions[lower], predictions[f"upper_{level}"]).astype(np.float64)
        held = held.where(predictions[["truth", lower]].notna().all(axis=1))
        inside[f"coverage_{level}"] = held.to_numpy().reshape(shape)

    def metrics(model: str, rows: np.ndarray, steps: slice) -> dict[str, float]:
        f = models[model][rows, steps]
        y = truth[rows, steps]
        m = mean[rows, None]
        s = std[rows, None]
        return {
            "mse": mse((f - m) / s, (y - m) / s),
            "mae": mae((f - m) / s, (y - m) / s),
            "mase": mase(f[None], y[None], scale[rows]),
            "smape": smape(f, y),
            "wape": wape(f, y),
            **({name: _mean(held[rows, steps]) for name, held in inside.items()} if model == "this run" else {}),
        }

    return pd.DataFrame(
        [
            {"model": model, "by": by, "at": place, **metrics(model, rows, steps)}
            for by, place, rows, steps in _parts(truth.shape, origins, names)
            for model in models
        ]
    )


def _mean(held: np.ndarray) -> float:
    """Mean of what is known; NaN of nothing, without a warning."""
    known = held[~np.isnan(held)]
    return float(known.mean()) if len(known) else float("nan")


def _parts(
    shape: tuple[int, int], origins: pd.Series, names: np.ndarray
) -> Iterator[tuple[str, object, np.ndarray, slice]]:
    """What a row of scores is taken over: its kind, its name, and the part of arrays [N, H]."""
    whole = slice(None)
    every = np.ones(shape[0], bool)
    yield "all", "", every, whole
    for origin in origins.unique():
        yield "origin", origin, (origins == origin).to_numpy(), whole
    for name in dict.fromkeys(names):
        yield "series", name, names == name, whole
    for i in range(shape[1]):
        yield "step", i + 1, every, slice(i, i + 1)
