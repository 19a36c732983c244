"""Does a memory that reads a year forecast better than one that reads a week? PJM's hourly load, six regions, 13 years:

    python -m benchmarks.forecast_stream --look_backs 168,1344,8760 --horizons 24,168 --seeds 3

Every run is `python -m app fit` and then `test` with conf/timeseries_pjm.yaml, with the memory and with nothing in its
place at equal parameters. The closed-form linear map of the same look-back and seasonal naive forecasts stand beside.
The file is pjm_hourly_6regions_2005_2018.csv.gz in `timeseries` of the data folder. Options of `fit` may follow.
"""

import argparse
import sys
from itertools import product
from statistics import mean

from app.door import respelled
from benchmarks.shared.forecasts import Results, arguments, cell_rows, growing, results_name
from benchmarks.shared.rows import Row, command_line, write
from benchmarks.shared.runs import CONF, Run, seeded
from data_prep.files import data_root
from domains.timeseries import TimeSeriesData
from domains.timeseries.baselines import baselines
from domains.timeseries.naive import naive_scores

FILE = "pjm_hourly_6regions_2005_2018.csv.gz"
KINDS = ("memory", "identity")
SEASONS = (24, 168, 8736)  # a day, a week, and the year of 52 weeks
MUST = 0.97  # of the best error at the shortest look-back, which the memory at the longest is to stay below
Cell = tuple[int, int, str]  # look-back, horizon, what stands in the memory's place


def options(look_back: int, horizon: int, kind: str) -> list[str]:
    """Options of `fit`."""
    config = ["--config", str(CONF / "timeseries_pjm.yaml")]
    file = ["--data.file", str(data_root() / "timeseries" / FILE)]
    control = ["--trainer.callbacks+=benchmarks.ablation.controls.ReplaceMixers", f"--trainer.callbacks.kind={kind}"]
    return [*config, *file, "--data.look_back", str(look_back), "--data.horizon", str(horizon), *control]


def simple(look_back: int, horizon: int) -> dict[str, float]:
    """Test MSE of the linear map of a look-back, and of seasonal naive forecasts."""
    file = str(data_root() / "timeseries" / FILE)
    data = TimeSeriesData(file=file, look_back=look_back, horizon=horizon, batch_size=512, defects="fill")
    data.setup()
    errors = {f"linear map of {look_back} rows": baselines(data)["linear"]["mse"]}
    for season in SEASONS:
        data.wanted_season = season
        errors |= {name: score["mse"] for name, score in naive_scores(data).items() if name != "naive"}
    return errors


def verdict(horizon: int, cells: dict[Cell, Results], floors: dict[str, float], seeds: int, again: str) -> list[Row]:
    """The memory at the longest look-back beside the best of all at the shortest; none before all of it is there."""
    own = {(look_back, kind): results for (look_back, rows, kind), results in cells.items() if rows == horizon}
    shortest, longest = min(own)[0], max(own)[0]
    needed = [own.get((look_back, kind), []) for look_back, kind in product({shortest, longest}, KINDS)]
    if shortest == longest or any(len(results) < seeds for results in needed):
        return []
    errors = {key: mean(result["metrics"]["test/mse"] for result in results) for key, results in own.items()}
    near = [errors[shortest, kind] for kind in KINDS] + [floors[f"linear map of {shortest} rows"]]
    row = cell_rows("", own[longest, "memory"], seeds, {}, again)[0]
    metric = f"PJM horizon {horizon}: memory of {longest} rows over the best of {shortest}, test mse"
    ratio = errors[longest, "memory"] / min(near)
    return [Row(metric, ratio, None, "", f"<= {MUST}", "", row.seeds, row.device, again, commit=row.commit)]


def runs(given: argparse.Namespace, more: list[str]) -> dict[Cell, list[Run]]:
    """The runs of every cell."""
    keys = product(map(int, given.look_backs.split(",")), map(int, given.horizons.split(",")), KINDS)
    return {key: seeded("pjm_{}_{}_{}".format(*key), [*options(*key), *more], given.seeds) for key in keys}


def main() -> None:
    parser = arguments("forecast_stream", __doc__)
    parser.add_argument("--look_backs", default="168,1344,8760", help="rows, separated by commas (%(default)s)")
    given, more = parser.parse_known_args(respelled(sys.argv[1:], {}))
    again, floors = command_line("forecast_stream"), {}
    for cells in growing(runs(given, more), given.workers):
        rows = []
        for (look_back, horizon, kind), results in cells.items():
            if (look_back, horizon) not in floors:
                floors[look_back, horizon] = simple(look_back, horizon)
            label = f"PJM {look_back}/{horizon} {'memory' if kind == 'memory' else 'without memory'}"
            rows += cell_rows(label, results, given.seeds, {}, again)
        for horizon in dict.fromkeys(horizon for _, horizon in floors):
            errors = {name: error for key, own in floors.items() if key[1] == horizon for name, error in own.items()}
            for name, error in errors.items():
                rows.append(Row(f"PJM horizon {horizon} {name} test mse", error, None, "", "", "", [], "cpu", again))
            rows += verdict(horizon, cells, errors, given.seeds, again)
        write("forecast_stream", results_name("forecast_stream", given), rows)


if __name__ == "__main__":
    main()
