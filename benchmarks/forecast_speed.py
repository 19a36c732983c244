"""How long a benchmark cell takes, and how many forecasts a second:

    python -m benchmarks.forecast_speed --sets ETTh1 --horizons 96 --threads 2

Of the forecaster, and of iTransformer, PatchTST and DLinear of the Time-Series-Library where its folder is on the path
(`PYTHONPATH=$PWD:../Time-Series-Library`); elsewhere PatchTST is one of PyTorch's own layers, and the others are left
out, which is said. Measured are the seconds of training until the validation that turned out best, on the device that
is there, and windows of all variables forecast per second on the CPU. Seconds on a CPU are those in which it was busy
with this process, all threads together, so that others on the same machine change little. Every model sees the same
windows, look-back 96, and trains with the settings of its own scripts, at most --epochs, until three validations were
no better.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from types import SimpleNamespace

import torch
from lightning import Callback, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn import functional as F

from app.checkpoints import KeepBest
from app.cli import default_precision
from app.guard import SkipNonFinite
from app.module import TitansModule
from app.optim import OptimConfig
from app.quiet import quieten
from app.trainer import TitansTrainer
from app.versions import device_name
from benchmarks.shared.patchtst import PatchTST
from benchmarks.shared.rows import Row, command_line, markdown, spread, write
from domains.timeseries import ForecastHead, TimeSeriesData
from domains.timeseries.units import scaled
from memory import BackboneConfig, MemoryConfig

LOOK_BACK, PATIENCE = 96, 3
WINDOWS = 32  # in a batch whose forecast is timed
# of the Time-Series-Library's scripts for ETTh1 at horizon 96
PEERS = {
    "PatchTST": {"e_layers": 1, "n_heads": 2, "d_model": 512, "d_ff": 2048, "learning_rate": 1e-4, "batch_size": 32},
    "iTransformer": {"e_layers": 2, "n_heads": 8, "d_model": 128, "d_ff": 128, "learning_rate": 1e-4, "batch_size": 32},
    "DLinear": {"e_layers": 2, "n_heads": 8, "d_model": 512, "d_ff": 2048, "learning_rate": 1e-4, "batch_size": 32},
}
HELD_TO = "PatchTST"  # whose times ours must not exceed


@dataclass
class Measured:
    """What was measured of one model on one cell.

    Args:
        seconds: of training, until the validation that turned out best; one for each seed.
        errors: best validation MSE, likewise.
        speeds: windows forecast per second, one for each repeat.
    """

    seconds: list[float]
    errors: list[float]
    speeds: list[float]


def now() -> float:
    """Seconds of this process: those that have passed beside a GPU, else those of the CPU."""
    return perf_counter() if torch.cuda.is_available() else process_time()


class Clock(Callback):
    """Notes when each validation has ended, and its score; the check before the first step counts as time."""

    def setup(self, trainer: Trainer, module: TitansModule, stage: str) -> None:
        self.start = now()
        self.noted: list[tuple[float, float]] = []

    def on_validation_end(self, trainer: Trainer, module: TitansModule) -> None:
        self.noted.append((trainer.callback_metrics["val/mse"].item(), now() - self.start))


def ours(data: TimeSeriesData, seed: int, epochs: int) -> tuple[nn.Module, float, float]:
    """The forecaster of conf/timeseries_csv.yaml, trained; its best validation MSE and the seconds to it."""
    seed_everything(seed, verbose=False)
    head = ForecastHead(32, data.input_size, data.horizon, LOOK_BACK, 16, 8, loss="mae", linear=True, intervals=())
    backbone = BackboneConfig("lmm", dim=32, layers=1, dropout=0.1, memory=MemoryConfig(heads=2))
    module = TitansModule(head, backbone, OptimConfig(lr=1e-3))
    clock = Clock()
    with TemporaryDirectory() as folder:
        trainer = TitansTrainer(
            max_epochs=epochs,
            patience=PATIENCE,
            precision=default_precision("auto"),
            devices=1,
            gradient_clip_val=1.0,
            logger=False,
            callbacks=[SkipNonFinite(), clock, KeepBest(head, folder)],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=data)
    error, seconds = min(clock.noted)
    return module, error, seconds


def peer(name: str, data: TimeSeriesData, seed: int, epochs: int) -> tuple[nn.Module, float, float]:
    """A model of the Time-Series-Library, trained; its best validation MSE and the seconds to it.

    Raises:
        ImportError: the library is not on the path, and the model is not PatchTST.
    """
    settings = PEERS[name]
    kind = PatchTST if name == "PatchTST" and not installed() else import_module(f"models.{name}").Model
    torch.manual_seed(seed)
    sizes = {"enc_in": data.input_size, "dec_in": data.input_size, "c_out": data.input_size}
    usual = {"task_name": "long_term_forecast", "seq_len": LOOK_BACK, "label_len": 48, "pred_len": data.horizon}
    usual |= {"dropout": 0.1, "activation": "gelu", "factor": 1, "moving_avg": 25, "embed": "timeF", "freq": "h"}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = kind(SimpleNamespace(**usual, **sizes, **settings)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
    noted: list[tuple[float, float]] = []
    start = now()
    for epoch in range(epochs):
        for group in optimizer.param_groups:  # the library's `type1`: half the rate after every epoch
            group["lr"] = settings["learning_rate"] * 0.5**epoch
        model.train()
        for past, target in batches(data, "train", settings["batch_size"], device):
            optimizer.zero_grad()
            F.mse_loss(model(past, None, None, None), target).backward()
            optimizer.step()
        noted.append((validated(model, data, device), now() - start))
        if len(noted) - 1 - noted.index(min(noted)) >= PATIENCE:
            break
    error, seconds = min(noted)
    return model, error, seconds


def installed() -> bool:
    """Whether the Time-Series-Library is on the path."""
    return find_spec("models") is not None


def batches(data: TimeSeriesData, part: str, size: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Scaled look-backs and targets of a part, float32; those of the train part in random order."""
    windows = data.windows[part]
    mean, std = (each.to(windows.origins.device) for each in data.scale())
    order = torch.randperm(len(windows)) if part == "train" else torch.arange(len(windows))
    for index in order.split(size):
        batch = windows[index]
        yield tuple(scaled(x, batch, mean, std).float().to(device) for x in (batch.past, batch.target))


@torch.no_grad()
def validated(model: nn.Module, data: TimeSeriesData, device: str) -> float:
    """MSE over the validation windows."""
    model.eval()
    total, count = 0.0, 0
    for past, target in batches(data, "val", 512, device):
        total += (model(past, None, None, None) - target).square().sum().item()
        count += target.numel()
    return total / count


@torch.no_grad()
def speeds(answer: Callable[[], Tensor], repeats: int) -> list[float]:
    """Windows per second of the CPU in `repeats` rounds of about half a second; `answer` forecasts WINDOWS of them."""
    answer()
    start = process_time()
    answer()
    calls = max(int(0.5 / (process_time() - start)), 1)
    found = []
    for _ in range(repeats):
        start = process_time()
        for _ in range(calls):
            answer()
        found.append(calls * WINDOWS / (process_time() - start))
    return found


def measure(name: str, data: TimeSeriesData, given: argparse.Namespace) -> Measured:
    """Train and time one model on one cell, as the command line says."""
    seconds, errors = [], []
    for seed in range(given.seeds):
        train = ours if name == "ours" else partial(peer, name)
        model, error, taken = train(data, seed, given.epochs)
        seconds.append(taken)
        errors.append(error)
    model = model.cpu().eval()
    batch = data.windows["val"][torch.arange(WINDOWS)]
    batch = type(batch)(*(part.cpu() for part in batch[:3]))
    if name == "ours":
        return Measured(seconds, errors, speeds(lambda: model(batch), given.repeats))
    past = scaled(batch.past, batch, *data.scale()).float()
    return Measured(seconds, errors, speeds(lambda: model(past, None, None, None), given.repeats))


def rows_of(cell: str, found: dict[str, Measured], threads: int, again: str) -> list[Row]:
    """Seconds, validation and speed of every model on one cell, and ours held to PatchTST's."""
    device = device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    cpu = device_name(torch.device("cpu"))
    rows = []
    for name, own in found.items():
        seeds = list(range(len(own.seconds)))
        label = f"{cell} {name}"
        kind = ", of PyTorch's layers" if name == "PatchTST" and not installed() else ""
        note = f"validation MSE {median(own.errors):.4f}{kind}"
        for metric, values, unit, where in (
            ("seconds to its best validation", own.seconds, "s", device),
            (f"forecasts per second of the CPU, {threads} threads", own.speeds, "windows/s", cpu),
        ):
            value = median(values)
            rows.append(Row(f"{label} {metric}", value, spread(values), unit, "", "", seeds, where, again, note=note))
    if HELD_TO in found:
        mine, theirs = found["ours"], found[HELD_TO]
        ratios = {
            "seconds to its best validation": (median(mine.seconds) / median(theirs.seconds), device),
            "seconds per forecast": (median(theirs.speeds) / median(mine.speeds), cpu),
        }
        for metric, (ratio, where) in ratios.items():
            label = f"{cell} ours over {HELD_TO}, {metric}"
            rows.append(Row(label, ratio, None, "", "<= 1.0", "", [], where, again))
    return rows


def absent(cell: str, name: str, why: str, again: str) -> Row:
    """A model that could not be measured."""
    return Row(
        f"{cell} {name}",
        float("nan"),
        None,
        "",
        "",
        "",
        [],
        "",
        again,
        note=f"left out, the folder of the Time-Series-Library is not on PYTHONPATH: {why}",
    )


def main() -> None:
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.forecast_speed", description=__doc__, formatter_class=form)
    parser.add_argument("--sets", default="ETTh1", help="benchmark sets, separated by commas (%(default)s)")
    parser.add_argument("--horizons", default="96", help="rows to forecast, separated by commas (%(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of every model (%(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="of a training, at most (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of forecasts (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (%(default)s)")
    parser.add_argument("--name", default="forecast_speed", help="of the file in results/forecast_speed (%(default)s)")
    given = parser.parse_args()
    quieten()
    torch.set_num_threads(min(given.threads, os.cpu_count() or 1))
    again = command_line("forecast_speed")
    rows = []
    for dataset, horizon in product(given.sets.split(","), map(int, given.horizons.split(","))):
        data = TimeSeriesData(dataset, LOOK_BACK, horizon, batch_size=128, source="file")
        data.setup()
        cell = f"{dataset} {LOOK_BACK}/{horizon}"
        found = {}
        left_out = []
        for name in ("ours", *PEERS):
            try:
                found[name] = measure(name, data, given)
            except ImportError as missing:
                left_out.append(absent(cell, name, str(missing), again))
                print(f"{name} is left out: {missing}")
        rows += [*rows_of(cell, found, given.threads, again), *left_out]
        write("forecast_speed", given.name, rows)
    print(markdown(rows))


if __name__ == "__main__":
    main()
