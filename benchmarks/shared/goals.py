"""What the forecaster's scores are held to, and the simple forecasts that stand beside them."""

import json
from functools import cache

from app.versions import git_commit, versions
from benchmarks.shared.forecasts import METRICS
from benchmarks.shared.runs import FOLDER, kept
from domains.timeseries import TimeSeriesData
from domains.timeseries.baselines import baselines

# (must, aim) of the mean of the four horizons, MSE/MAE: at look-back 96, and at any other
GOALS_96 = {
    "ETTh1": (".438/.433", ".431/.425"),
    "ETTh2": (".371/.397", ".367/.391"),
    "ETTm1": (".383/.396", ".376/.379"),
    "ETTm2": (".276/.328", ".267/.314"),
    "Weather": (".243/.281", ".237/.259"),
}
GOALS_ANY = {
    "ETTh1": (".404/.421", ".398/.417"),
    "ETTh2": (".333/.382", ".333/.380"),
    "ETTm1": (".352/.387", ".338/.369"),
    "ETTm2": (".250/.309", ".247/.306"),
    "Weather": (".227/.265", ".218/.249"),
}


@cache
def simple(dataset: str, look_back: int, horizon: int) -> dict[str, dict[str, float]]:
    """Test scores of the simple forecasts of one task, kept beside the runs: a long look-back takes minutes."""
    path = FOLDER / f"simple_{dataset}_{look_back}_{horizon}.json"
    if (found := kept(path, git_commit())) is None:
        data = TimeSeriesData(dataset, look_back, horizon, batch_size=512, source="file")
        data.setup()
        found = {"versions": versions(), "scores": baselines(data)}
        path.write_text(json.dumps(found))
    return found["scores"]


def goals(dataset: str, look_back: int) -> dict[str, tuple[str, str]]:
    """Must and aim of the average of the four horizons, by metric."""
    bounds = (GOALS_96 if look_back == 96 else GOALS_ANY).get(dataset)
    if bounds is None:
        return {}
    must, aim = (bound.split("/") for bound in bounds)
    return {name: (f"<= 0{must[i]}", f"<= 0{aim[i]}") for i, name in enumerate(METRICS)}
