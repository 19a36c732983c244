"""The start of the forecaster as a forecaster of its own: map, course of a day and maps of each variable, untrained."""

import json
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch

from app.versions import git_commit, versions
from benchmarks.shared.runs import FOLDER, kept
from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries.windows import Windows


def closed_form(dataset: str, horizon: int, look_backs: Sequence[int], day: int) -> dict[str, Any]:
    """Test scores with the look-back that validates best, kept beside the runs.

    Nothing is random in it. Every ridge, how much is taken of the course and of each variable's own map, and the
    look-back are chosen on validation; nothing looks at the test part before.

    Args:
        dataset: a benchmark set.
        horizon: rows to forecast.
        look_backs: rows to choose among.
        day: rows of a day.

    Returns:
        `validation`, the MSE by look-back; `look_back`, the chosen one; `test`, its MSE and MAE; `seconds`; `versions`.
    """
    name = "_".join(map(str, look_backs))
    path = FOLDER / f"closed_{dataset}_{horizon}_{name}.json"
    if (found := kept(path, git_commit())) is not None:
        return found
    begin = perf_counter()
    started = {}
    for look_back in look_backs:
        data = TimeSeriesData(dataset, look_back, horizon, batch_size=256, source="file")
        data.setup()
        head = started_head(data, day)
        started[look_back] = scores(head, data.windows["val"])["mse"], head, data
    best = min(started, key=lambda look_back: started[look_back][0])
    _, head, data = started[best]
    found = {
        "validation": {str(look_back): error for look_back, (error, _, _) in started.items()},
        "look_back": best,
        "test": scores(head, data.windows["test"]),
        "seconds": perf_counter() - begin,
        "versions": versions(),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return found


def started_head(data: TimeSeriesData, day: int) -> ForecastHead:
    """A head at its start; of a model that adds nothing yet one token is as good as many."""
    sizes = data.input_size, data.horizon, data.look_back
    token: dict[str, Any] = {
        "patch": data.look_back,
        "stride": data.look_back,
        "channel_mixing": "none",
        "intervals": (),
    }
    head = ForecastHead(1, *sizes, **token, cycle=day, linear=True, own_maps=True).eval()
    head.fit_to(data)
    return head


@torch.no_grad()
def scores(head: ForecastHead, windows: Windows) -> dict[str, float]:
    """MSE and MAE over every window."""
    metrics = head.metrics()
    for index in torch.arange(len(windows)).split(256):
        batch = windows[index]
        hidden = torch.zeros(len(index) * batch.past.shape[2], 1, 1)
        head.update(metrics, head.readout(hidden, batch), batch)
    return {name: value.item() for name, value in metrics.compute().items()}
