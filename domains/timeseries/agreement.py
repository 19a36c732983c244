"""What a head and its data must agree on, and what is said beforehand where they do in part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from domains.timeseries.intervals import fewest, percent

if TYPE_CHECKING:
    from domains.timeseries.data import TimeSeriesData
    from domains.timeseries.head import ForecastHead


def refuse_other(head: ForecastHead, data: TimeSeriesData) -> None:
    """Refuse data whose variables, inputs or frequency are not those that a head was fitted to.

    Raises:
        ValueError: names what differs.
    """
    for kind in ("columns", "inputs"):
        own = getattr(head, kind)
        theirs = list(data.columns if kind == "columns" else data.input_names)
        if theirs != own:
            missing = [name for name in own if name not in theirs]
            unknown = [name for name in theirs if name not in own]
            what = f"missing {missing[:9]}, unknown {unknown[:9]}" if missing or unknown else f"order is {theirs}"
            raise ValueError(f"{kind} differ from the checkpoint's {own[:9]}: {what}; rename or reorder them")
    if data.freq != head.freq:  # the forecast's stamps would be wrong
        raise ValueError(f"rows come every {data.freq!r}, the checkpoint's every {head.freq!r}; resample them")
    if data.predicted > head.horizon and data.past_size:
        raise ValueError(
            f"data.predict_rows {data.predicted} is past the trained {head.horizon} rows, where nobody knows "
            "data.past_covariates; forecast less, or train with a longer data.horizon or without them"
        )
    if data.predicted > head.horizon:
        rank_zero_warn(
            f"the model was trained to forecast {head.horizon} rows: those from {head.horizon + 1} to "
            f"{data.predicted} are forecast from forecasts (rolled = True), without intervals"
        )


def refuse_negative(data: TimeSeriesData) -> None:
    """Refuse series of which a value is below zero.

    Raises:
        ValueError: names the first such series.
    """
    for series in data.content.series:
        for name, values in zip(series.columns, series.truth.T, strict=True):
            least = np.nanmin(values)
            if least < 0:
                raise ValueError(f"head.non_negative is true, but {name!r} holds {least:g}; drop the key")


def will_calibrate(head: ForecastHead, data: TimeSeriesData) -> bool:
    """Whether validation can calibrate intervals; where it cannot, or is too short for one, that is said."""
    if data.val_rows == 0:
        rank_zero_warn("no interval will be given: data.val_rows 0 leaves no rows to calibrate it on")
        return False
    scores = len(data.windows["val"]) * head.horizon * (1 if data.panel else len(head.columns))
    for level in (level for level in head.intervals if scores < fewest(level)):
        rank_zero_warn(
            f"no interval of {percent(level)} % will be given: the validation part has {scores} scores to "
            f"calibrate it on and {fewest(level)} are the fewest; raise data.val_rows"
        )
    return True
