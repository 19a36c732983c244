"""Does a memory that is carried along a stream forecast better than a week of look-back? PJM's hourly load, 13 years:

    python -m benchmarks.forecast_stream --look_backs 168,1344,8760 --horizons 24,168 --seeds 3

Each of the six regions is a stream of days, a token each, and every day is an origin: a forecast is the closed-form
linear map of a look-back and what the last seven tokens add to it. What lies further back reaches the forecast through
that map or through the memory's state, which is carried from token to token, for a year before the first origin that is
scored. In the control (`none`) an MLP of equal parameters on each token alone stands in the memory's place. With
`calendar`, tokens also know hour, weekday and day of the year, which tell much of what a year of look-back does.

Training sequences are 400 days, each of which is an origin, so that a token costs as much as a forecast; windows with a
year of look-back would cost 365 tokens. Scored are the windows of the benchmarks' protocol, one an hour: 24 streams a
region. The file is pjm_hourly_6regions_2005_2018.csv.gz in `timeseries` of the data folder.
"""

import argparse
from copy import deepcopy
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from app.optim import OptimConfig
from app.versions import device_name, versions
from benchmarks.shared.forecasts import Results, growing
from benchmarks.shared.rows import Row, command_line, spread, write
from benchmarks.shared.runs import Run
from data_prep.files import data_root
from domains.timeseries import TimeSeriesData
from domains.timeseries.linear import linear_map
from domains.timeseries.marks import calendar_marks
from domains.timeseries.naive import naive_scores
from memory import BackboneConfig, MemoryConfig, TitansBackbone
from memory.backbone import Block

FILE = "pjm_hourly_6regions_2005_2018.csv.gz"
KINDS = ("memory", "none", "memory, calendar", "none, calendar")
SEASONS = (24, 168, 8736)  # a day, a week, and the year of 52 weeks
DAY, WEEK, LAST, YEAR = 24, 168, 7, 365  # rows, rows, tokens that a forecast is read from, tokens read before it
DIM, LENGTH, BATCH = 32, 400, 16
MUST = 0.97  # of the best error without a memory at a week of look-back
Cell = tuple[int, int, str]  # look-back of the linear map, horizon, kind


class Stream(NamedTuple):
    """What is known of all regions; an origin r is the number of rows known there.

    Args:
        rows: scaled load, float32 [V, R].
        week: mean of the last 168 rows before each origin, [V, R + 1].
        marks: calendar of each row, [R, M].
        linear: forecasts of the linear map at each origin, [V, R + 1, H]; NaN before its first.
        ends: rows at which train, validation and test end.
        first: origin.
    """

    rows: Tensor
    week: Tensor
    marks: Tensor
    linear: Tensor
    ends: tuple[int, int, int]
    first: int

    @property
    def horizon(self) -> int:
        """Rows forecast."""
        return self.linear.shape[-1]

    def tokens(self, region: Tensor, origins: Tensor) -> Tensor:
        """The days before origins [B, T] of regions [B]: rows less the week's mean, that mean, marks, [B, T, F]."""
        day = self.rows[region[:, None, None], origins[..., None] + torch.arange(-DAY, 0, device=origins.device)]
        week = self.week[region[:, None], origins][..., None]
        return torch.cat([day - week, week, self.marks[origins - 1]], -1)

    def left(self, region: Tensor, origins: Tensor) -> Tensor:
        """What the linear map leaves over of the truth, [B, T, H]."""
        ahead = origins[..., None] + torch.arange(self.horizon, device=origins.device)
        return self.rows[region[:, None, None], ahead] - self.linear[region[:, None], origins]


def data_of(look_back: int, horizon: int) -> TimeSeriesData:
    """The file, cut into windows."""
    file = str(data_root() / "timeseries" / FILE)
    data = TimeSeriesData(file=file, look_back=look_back, horizon=horizon, batch_size=512, defects="fill")
    data.setup()
    return data


def map_of(data: TimeSeriesData) -> Tensor:
    """The linear map of the look-back of a file, [L, H], float64."""
    return linear_map(data.windows["train"], data.windows["val"], *data.scale())


def forecasts(x: Tensor, weight: Tensor) -> Tensor:
    """What a map [L, H] of rows less their mean forecasts at the origins L, ..., R of rows [V, R]: [V, R + 1 - L, H].

    Each of its columns is a filter, which a Fourier transform applies at all origins at once.
    """
    look_back, horizon = weight.shape
    size = 1 << (x.shape[1] - 1).bit_length()
    spectrum = torch.fft.rfft(x, size)
    running = F.pad(x.cumsum(1), (1, 0))
    level = (running[:, look_back:] - running[:, :-look_back]) / look_back
    found = torch.empty(*level.shape, horizon)
    for step, column in enumerate(weight.T):
        filtered = torch.fft.irfft(spectrum * torch.fft.rfft(column.flip(0), size), size)
        found[..., step] = filtered[:, look_back - 1 : x.shape[1]] + level * (1 - column.sum())
    return found


def stream_of(data: TimeSeriesData, weight: Tensor, calendar: bool, device: torch.device) -> Stream:
    """The streams of a file on a device, and the forecasts of a linear map of its look-back at every origin."""
    mean, std = data.scale()
    x = ((data.windows["train"].rows.values - mean) / std).T.contiguous()
    first = max(data.look_back, WEEK)
    linear = F.pad(forecasts(x, weight), (0, 0, data.look_back, 0), value=torch.nan)
    linear[:, :first] = torch.nan
    week = F.pad(x.unfold(1, WEEK, 1).mean(2), (WEEK, 0))
    marks = torch.tensor(calendar_marks(data.series.stamps, ("hour", "weekday", "yearday") if calendar else ()))
    rows, week, marks, linear = (part.float().to(device) for part in (x, week, marks, linear))
    return Stream(rows, week, marks, linear, data.ends(data.series), first)


class Alone(nn.Module):
    """In the place of a mixer an MLP on each token alone.

    Args:
        parameters: how many it is to have; they come in steps of 2 DIM.
    """

    def __init__(self, parameters: int) -> None:
        super().__init__()
        width = round(parameters / (2 * DIM))
        self.layers = nn.Sequential(nn.Linear(DIM, width, bias=False), nn.SiLU(), nn.Linear(width, DIM, bias=False))

    def forward(self, x: Tensor, state: None = None, mask: None = None) -> tuple[Tensor, None]:
        """[B, T, DIM] to [B, T, DIM]."""
        return self.layers(x), None


class Carried(nn.Module):
    """A block over days with a memory or an MLP in its place, read out from the last seven of them.

    Args:
        features: of a token.
        horizon: rows forecast.
        memory: whether there is one.
    """

    def __init__(self, features: int, horizon: int, memory: bool) -> None:
        super().__init__()
        # half of what was written is left after 2,066 days
        config = BackboneConfig("lmm", DIM, layers=1, dropout=0.1, memory=MemoryConfig(heads=2, forgetting_start=-8))
        self.into = nn.Linear(features, DIM)
        self.backbone = TitansBackbone(config)
        if not memory:
            block = cast(Block, self.backbone.blocks[0])
            block.mixers[0] = Alone(count(block.mixers))
        self.dropout = nn.Dropout(0.1)
        self.out = nn.Linear(LAST * DIM, horizon)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """What is added to the linear map at every token [B, T, F], [B, T, H]."""
        hidden = self.backbone(self.dropout(self.into(tokens)))[0]
        last = F.pad(hidden, (0, 0, LAST - 1, 0)).unfold(1, LAST, 1)
        return self.out(self.dropout(last.flatten(2)))


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def scored(model: Carried, stream: Stream, part: int) -> float:
    """MSE over the windows of validation (1) or test (2), each stream read from a year before."""
    model.eval()
    begin, end = stream.ends[part - 1 : part + 1]
    region = torch.arange(len(stream.rows), device=stream.rows.device)
    total = 0.0
    cells = 0
    for hour in range(begin, begin + DAY):
        before = min(YEAR, (hour - stream.first) // DAY)
        origins = torch.arange(hour - before * DAY, end - stream.horizon + 1, DAY, device=region.device)
        origins = origins.expand(len(region), -1)
        added = model(stream.tokens(region, origins))[:, before:]
        error = stream.left(region, origins[:, before:]) - added
        total += error.square().sum().item()
        cells += error.numel()
    return total / cells


def kept_in(folder: str, look_back: int | str, horizon: int | str) -> Path:
    """Where a linear map lies for all trainings on it: that of 8,760 rows takes minutes."""
    return Path(folder, f"{look_back}_{horizon}.pt")


def train(run: Run, folder: str) -> dict[str, Any]:
    """One training with a seed on a map of a folder, and the test of what validated best."""
    look_back, horizon, kind, seed, epochs = run.options
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weight = torch.load(kept_in(folder, look_back, horizon))
    stream = stream_of(data_of(int(look_back), int(horizon)), weight, "calendar" in kind, device)
    torch.manual_seed(int(seed))
    regions = len(stream.rows)
    model = Carried(DAY + 1 + stream.marks.shape[1], stream.horizon, kind.startswith("memory")).to(device)
    latest = stream.ends[0] - stream.horizon - DAY * (LENGTH - 1)  # first origin of a sequence
    steps = regions * (stream.ends[0] - stream.first) // (BATCH * LENGTH)  # so that an epoch has each hour as an origin
    optimizer, schedule = OptimConfig(lr=3e-3).build(model, int(epochs) * steps)
    start = process_time()
    linear = {name: scored(model, stream, part) for part, name in ((1, "val"), (2, "test"))}  # it adds nothing yet
    best = linear["val"], deepcopy(model.state_dict())
    for epoch in range(int(epochs)):
        model.train()
        for _ in range(steps):
            region = torch.randint(regions, (BATCH,)).to(device)
            origins = torch.randint(stream.first, latest + 1, (BATCH, 1)) + DAY * torch.arange(LENGTH)
            origins = origins.to(device)
            error = model(stream.tokens(region, origins)) - stream.left(region, origins)
            optimizer.zero_grad()
            error[:, LAST - 1 :].square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        validation = scored(model, stream, 1)
        print(f"epoch {epoch}: validation {validation:.4f}, {process_time() - start:.0f} s", flush=True)
        if validation < best[0]:
            best = validation, deepcopy(model.state_dict())
    model.load_state_dict(best[1])
    return {
        "validation": best[0],
        "test": scored(model, stream, 2),
        "linear": linear["test"],
        "seed": int(seed),
        "seconds": process_time() - start,
        "parameters": count(model),
        "device": device_name(device),
        "versions": versions(),
    }


def naive(horizon: int) -> dict[str, float]:
    """Test MSE of seasonal naive forecasts."""
    data = data_of(WEEK, horizon)
    errors = {}
    for season in SEASONS:
        data.wanted_season = season
        errors |= {name: score["mse"] for name, score in naive_scores(data).items() if name != "naive"}
    return errors


def rows_of(horizon: int, cells: dict[Cell, Results], seeds: int, again: str) -> list[Row]:
    """Test MSE of every cell of a horizon and of its linear maps, and the memory beside what reads a week; the verdict
    only once all seeds are there.
    """
    own = {(look_back, kind): results for (look_back, rows, kind), results in cells.items() if rows == horizon}
    errors = {key: mean(result["test"] for result in results) for key, results in own.items()}
    rows = []
    for (look_back, kind), results in own.items():
        row = partial(Row, unit="", aim="", command=again, device=results[0]["device"])
        row = partial(row, commit=results[0]["versions"]["commit"])
        linear = f"PJM horizon {horizon}, linear map of {look_back} rows"
        if f"{linear}, test mse" not in {each.metric for each in rows}:
            rows.append(row(f"{linear}, test mse", results[0]["linear"], None, must="", seeds=[]))
        lacking = f", PARTIAL: {len(results)} of {seeds} seeds" if len(results) < seeds else ""
        validation, seconds = (mean(result[name] for result in results) for name in ("validation", "seconds"))
        told = (
            f"validation {validation:.4f}, {results[0]['parameters']} parameters, {seconds:.0f} s of the CPU{lacking}"
        )
        tested = [result["test"] for result in results]
        of_seeds = sorted(result["seed"] for result in results)
        metric = f"{linear} and {kind}, test mse"
        rows.append(row(metric, mean(tested), spread(tested), must="", seeds=of_seeds, note=told))
        control = own.get((look_back, kind.replace("memory", "none")), [])
        if look_back == WEEK and kind.startswith("memory") and len(results) == len(control) == seeds:
            near = min(errors[look_back, kind.replace("memory", "none")], results[0]["linear"])
            metric = f"PJM horizon {horizon}, {kind} over the best of {WEEK} rows, test mse"
            must = f"<= {MUST}" if kind == "memory" else ""
            rows.append(row(metric, mean(tested) / near, None, must=must, seeds=of_seeds))
    return rows


def main() -> None:
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.forecast_stream", description=__doc__, formatter_class=form)
    parser.add_argument("--look_backs", default="168,1344,8760", help="rows of linear maps (%(default)s)")
    parser.add_argument("--horizons", default="24,168", help="rows to forecast, separated by commas (%(default)s)")
    parser.add_argument("--kinds", default=";".join(KINDS), help="separated by semicolons (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of every cell (%(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="of a training (%(default)s)")
    parser.add_argument("--workers", type=int, help="runs at a time (a core each with a GPU, else two)")
    parser.add_argument("--name", default="forecast_stream", help="of the file in results/forecast_stream")
    given = parser.parse_args()
    horizons = [int(horizon) for horizon in given.horizons.split(",")]
    runs = {}
    for look_back, horizon, kind in product(map(int, given.look_backs.split(",")), horizons, given.kinds.split(";")):
        options = str(look_back), str(horizon), kind
        name = "_".join(("stream", *options, str(given.epochs))).replace(", ", "_")
        runs[look_back, horizon, kind] = [
            Run(f"{name}_{seed}", (*options, str(seed), str(given.epochs))) for seed in range(given.seeds)
        ]
    again = command_line("forecast_stream")
    floors = []
    for horizon in horizons:
        for season, error in naive(horizon).items():
            floors.append(Row(f"PJM horizon {horizon}, {season}, test mse", error, None, "", "", "", [], "cpu", again))
    with TemporaryDirectory() as folder:
        missing = {key[:2] for key, seeds in runs.items() if any(not run.path.is_file() for run in seeds)}
        for look_back, horizon in sorted(missing):
            torch.save(map_of(data_of(look_back, horizon)), kept_in(folder, look_back, horizon))
        for cells in growing(runs, given.workers, partial(train, folder=folder)):
            rows = [row for horizon in horizons for row in rows_of(horizon, cells, given.seeds, again)]
            write("forecast_stream", given.name, floors + rows)


if __name__ == "__main__":
    main()
