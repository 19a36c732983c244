"""Rolling origins: where each fold's parts end, and how its forecasts score beside naive ones."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from domains.timeseries.metrics import mae, mase, mase_scale, mse, season_length, seasonal_naive, smape, wape
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


def score(predictions: pd.DataFrame, series: Series, train: np.ndarray) -> pd.DataFrame:
    """MSE and MAE (scaled by the train rows), MASE, sMAPE and WAPE of forecasts and of the naive ones beside them.

    Args:
        predictions: tables of `forecast_table`, one below the other, truth known everywhere.
        series: the series that they forecast.
        train: its train rows [T, V], which scale MSE, MAE and MASE.

    Returns:
        columns `model`, `by` (`all`, `origin`, `step` or `series`), `at` and the metrics; each interval's coverage too.
    """
    shape = (-1, len(series.columns), int(predictions["step"].max()))  # N, V, H: the order of `forecast_table`
    truth = predictions["truth"].to_numpy(np.float64).reshape(shape)
    origins = predictions["origin"].to_numpy("datetime64[ns]").reshape(shape)[:, 0, 0]
    known = np.searchsorted(series.stamps, origins.astype(np.int64)) + 1
    season, values = season_length(series.freq), series.values.astype(np.float64)
    if season >= len(train):  # no season to look back to, nor to scale by
        season = 1
    models = {"this run": predictions["prediction"].to_numpy(np.float64).reshape(shape)}
    models["naive"] = seasonal_naive(values, known, shape[2], 1)
    if season > 1:
        models[f"seasonal naive ({season} rows)"] = seasonal_naive(values, known, shape[2], season)
    inside = {}
    for lower in predictions.filter(regex="^lower_"):
        level = lower.removeprefix("lower_")
        held = predictions["truth"].between(predictions[lower], predictions[f"upper_{level}"]).astype(np.float64)
        inside[f"coverage_{level}"] = (
            held.where(predictions[["truth", lower]].notna().all(axis=1)).to_numpy().reshape(shape)
        )

    train = train.astype(np.float64)
    mean, std, scale = np.nanmean(train, 0)[:, None], np.nanstd(train, 0), mase_scale(train, season)
    std = np.where(std > 0, std, 1)[:, None]

    def metrics(model: str, part: tuple) -> dict[str, float]:
        variables = part[1]
        f, y, s = models[model][part], truth[part], std[variables]
        return {
            "mse": mse((f - mean[variables]) / s, (y - mean[variables]) / s),
            "mae": mae((f - mean[variables]) / s, (y - mean[variables]) / s),
            "mase": mase(f, y, scale[variables]),
            "smape": smape(f, y),
            "wape": wape(f, y),
            **({name: float(np.nanmean(held[part])) for name, held in inside.items()} if model == "this run" else {}),
        }

    return pd.DataFrame(
        [
            {"model": model, "by": by, "at": at, **metrics(model, part)}
            for by, at, part in _parts(truth.shape, pd.DatetimeIndex(origins), series.columns)
            for model in models
        ]
    )


def _parts(
    shape: tuple[int, int, int], origins: pd.DatetimeIndex, columns: list[str]
) -> Iterator[tuple[str, object, tuple[slice, slice, slice]]]:
    """What a row of scores is taken over: its kind, its name and the part of arrays [N, V, H]."""
    whole = slice(None)
    yield "all", "", (whole, whole, whole)
    for i, origin in enumerate(origins):
        yield "origin", origin, (slice(i, i + 1), whole, whole)
    for i, name in enumerate(columns):
        yield "series", name, (whole, slice(i, i + 1), whole)
    for i in range(shape[2]):
        yield "step", i + 1, (whole, whole, slice(i, i + 1))
