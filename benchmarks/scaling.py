"""Weak scaling: `python -m benchmarks.scaling --config conf/text_books.yaml --batch_size 8 --devices 1,2,4`.

How fast N devices of this machine train, each with as many samples a step as one alone, which has no strategy. Every
measurement is a `python -m app fit` of some steps without validation; its first third, in which kernels are compiled,
does not count. Further options are those of `fit`: `--model.backbone.variant mag`.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from lightning import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.runs import curves_folder
from app.versions import device_name
from benchmarks.shared.rows import Row, command_line, spread, write
from benchmarks.shared.runs import CONF

MUST = {2: ">= 0.95", 4: ">= 0.90"}  # of the speed of one device, on GPUs
ALONE = "alone"
EVERY = 5  # steps between two measurements of the speed


@dataclass
class Speed:
    """What one run has measured.

    Args:
        strategy: `ddp` or `fsdp`; ALONE for one device.
        devices: how many.
        tokens: per second, of all devices, one value for some steps each.
        gib: most memory that a device has held.
        parameters: of the model.
    """

    strategy: str
    devices: int
    tokens: list[float]
    gib: float
    parameters: int


class LogSize(Callback):
    """Write parameters and peak memory into a run's log as it ends."""

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        gib = torch.tensor(peak_gib(module.device), device=module.device)
        values = {
            "gib": trainer.strategy.reduce(gib, reduce_op="max"),
            "parameters": sum(p.numel() for p in module.parameters()),
        }
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)


def peak_gib(device: torch.device) -> float:
    """Most memory that this process has held: of the GPU, or else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(strategy: str, devices: int, batch_size: int, steps: int, options: Sequence[str]) -> Speed:
    """Train for some steps on some devices; a run that fails has said why, and ends this process too."""
    layer = [] if strategy == ALONE else ["--config", str(CONF / f"{strategy}.yaml")]
    with TemporaryDirectory() as folder:
        fixed = {
            "data.batch_size": batch_size * devices,
            "trainer.devices": devices,
            "trainer.max_steps": steps,
            "trainer.log_every_n_steps": EVERY,
            "trainer.limit_val_batches": 0,
            "trainer.enable_checkpointing": "false",
            "trainer.enable_progress_bar": "false",
            "trainer.enable_model_summary": "false",
            "trainer.callbacks+": "benchmarks.scaling.LogSize",
            "trainer.logger.save_dir": folder,
            "trainer.logger.name": strategy,
        }
        command = [sys.executable, "-m", "app", "fit", *options, *layer]
        done = subprocess.run([*command, *(f"--{key}={value}" for key, value in fixed.items())], check=False)
        if done.returncode:
            sys.exit(f"error: {strategy}, {devices} devices: the run above ended with {done.returncode}")
        events = EventAccumulator(str(curves_folder(Path(folder, strategy, "version_0")))).Reload()
    values = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    tokens = values["train/tokens_per_second"]
    return Speed(strategy, devices, tokens[len(tokens) // 3 :], values["gib"][-1], int(values["parameters"][-1]))


def rows_of(speeds: Sequence[Speed], device: str, command: str, bounded: bool) -> list[Row]:
    """Speed, its share of that of as many single devices, and peak memory; the first of `speeds` is of one device.

    Args:
        speeds: what was measured.
        device: in words.
        command: that measures it again.
        bounded: whether the share has a bound.
    """
    rows = []
    alone = median(speeds[0].tokens)
    for speed in speeds:
        title = f"{speed.strategy}, {speed.devices} device{'s' if speed.devices > 1 else ''}"
        note = f"{speed.parameters / 1e6:.1f} million parameters"
        shared = {"seeds": [0], "device": device, "command": command, "note": note, "aim": ""}
        tokens = median(speed.tokens)
        rows.append(Row(f"{title}: speed", tokens, spread(speed.tokens), "tokens/s", "", **shared))
        rows.append(Row(f"{title}: peak memory of a device", speed.gib, None, "GiB", "", **shared))
        if speed.devices > 1:
            must = MUST.get(speed.devices, "") if bounded else ""
            rows.append(Row(f"{title}: weak scaling", tokens / alone / speed.devices, None, "", must, **shared))
    return rows


def draw(speeds: Sequence[Speed], path: Path) -> None:
    """Plot speed over devices, and what as many single devices would reach."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    alone, counts = speeds[0], sorted({speed.devices for speed in speeds})
    axes.plot(counts, [median(alone.tokens) * n for n in counts], "k:", label="as many single devices")
    for strategy in dict.fromkeys(speed.strategy for speed in speeds[1:]):
        points = [(s.devices, median(s.tokens)) for s in speeds if s.strategy in (ALONE, strategy)]
        axes.plot(*zip(*points, strict=True), "o-", label=strategy)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="devices, each with as many samples a step", ylabel="tokens per second", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--config", action="append", required=True, help="of `fit`; may be given more than once")
    parser.add_argument("--batch_size", type=int, required=True, help="samples per step and device")
    parser.add_argument("--devices", default="1,2", help="numbers of devices, the first of them 1 (%(default)s)")
    parser.add_argument("--strategies", default="ddp,fsdp", help="conf/NAME.yaml of each (%(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="of each run (%(default)s)")
    parser.add_argument("--name", default="scaling", help="of the results (%(default)s)")
    given, options = parser.parse_known_args()
    first, *counts = (int(count) for count in given.devices.split(","))
    if first != 1 or given.steps < 3 * EVERY:
        parser.error(f"--devices must start with 1, which others are compared with; --steps at least {3 * EVERY}")
    for config in reversed(given.config):
        options = ["--config", config, *options]
    plan = [(ALONE, 1), *((strategy, count) for strategy in given.strategies.split(",") for count in counts)]
    speeds = []
    for strategy, count in plan:
        speeds.append(measure(strategy, count, given.batch_size, given.steps, options))
        gpu = torch.cuda.is_available()
        device = device_name(torch.device("cuda" if gpu else "cpu"))
        rows = rows_of(speeds, device, command_line("scaling"), gpu)
        draw(speeds, write("scaling", given.name, rows).with_suffix(".png"))
        print(f"{strategy}, {count}: {median(speeds[-1].tokens):,.0f} tokens/s", flush=True)


if __name__ == "__main__":
    main()
