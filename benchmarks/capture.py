"""Training steps as CUDA graphs against steps launched kernel by kernel: `python -m benchmarks.capture`, on a GPU.

Trains each config twice from the same seed, on generated data, with `trainer.capture` off and on. Losses must agree but
for rounding. Options of `fit` may follow and change all runs alike, e.g. `--model.backbone.dim 128`. One training is of
the size of the Traffic benchmark at its longest usual look-back, and held to a time and to the memory of a small GPU:

    python -m benchmarks.capture --only "timeseries, 862 variables" --steps 40 --name traffic
"""

import argparse
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from app.door import main as app
from app.versions import device_name
from benchmarks.shared.rows import Row, command_line, write
from benchmarks.shared.runs import CONF

FIRST = 20  # steps that are not timed: compilation, and the capture itself
TRAININGS = {
    "timeseries": ["timeseries_ett"],
    "timeseries, 862 variables": ["timeseries_traffic", "--data.look_back=512"],
    "genomics": ["genomics_sample", "--data.floors=false", "--data.max_length=60"],  # all of one length
    "text": ["text_lm"],
    "text, carried state": ["text_lm", "--data.tbptt=4", "--data.tbptt_groups=2"],
}
MUSTS = {"timeseries, 862 variables": ("<= 150", "<= 16")}  # milliseconds of a captured step, and GB
QUIET = [
    *("--data.source=sample", "--trainer.logger=false", "--trainer.enable_checkpointing=false"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.limit_val_batches=0"),
    *("--trainer.num_sanity_val_steps=0", "--trainer.max_epochs=-1", "--trainer.log_every_n_steps=1000000"),
]


class Steps(Callback):
    """Loss of every step, milliseconds of a step once the first are taken, and the most GB in use on a GPU."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].detach())
        if len(self.losses) == FIRST:
            _wait()
            self.start = perf_counter()

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        _wait()
        self.milliseconds = 1000 * (perf_counter() - self.start) / (len(self.losses) - FIRST)
        self.gigabytes = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None


def measure(config: str, options: list[str]) -> Steps:
    """One training."""
    callback = f"--trainer.callbacks+={Steps.__module__}.Steps"
    fitted = app(["fit", "--config", str(CONF / f"{config}.yaml"), *QUIET, *options, callback])
    return next(callback for callback in fitted.trainer.callbacks if type(callback).__name__ == "Steps")


def rows_of(name: str, alone: Steps, captured: Steps, device: str, command: str) -> list[Row]:
    """Milliseconds of a step both ways, and how far the losses part."""
    one, other = (torch.stack(steps.losses).cpu() for steps in (alone, captured))
    apart = ((one - other).abs() / one.abs().clamp(min=1e-6)).max().item()
    note = f"losses of the last step {one[-1]:.6f} and {other[-1]:.6f}, {len(one)} steps"
    shared = {"aim": "", "seeds": [0], "device": device, "command": command}
    quick, small = MUSTS.get(name, ("", ""))
    rows = [
        Row(f"{name}: a step launched kernel by kernel", alone.milliseconds, None, "ms", must="", **shared),
        Row(f"{name}: a step as a graph", captured.milliseconds, None, "ms", must=quick, **shared),
        Row(f"{name}: largest relative difference of two losses", apart, None, "", must="", **shared, note=note),
    ]
    if captured.gigabytes is not None:
        rows.append(Row(f"{name}: memory of steps as graphs", captured.gigabytes, None, "GB", must=small, **shared))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capture", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=";".join(TRAININGS), help="trainings, separated by semicolons (%(default)s)")
    parser.add_argument("--steps", type=int, default=120, help="of each training (%(default)s)")
    parser.add_argument("--name", default="capture", help="of the results (%(default)s)")
    given, more = parser.parse_known_args()
    if given.steps <= FIRST:
        parser.error(f"--steps must be more than {FIRST}, which are not timed")
    command = command_line("capture")
    device = device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    rows: list[Row] = []
    for name in given.only.split(";"):
        config, *options = TRAININGS[name]
        options += [f"--trainer.max_steps={given.steps}", *more]
        alone = measure(config, [*options, "--trainer.capture=false"])
        captured = measure(config, [*options, "--trainer.capture=true"])
        found = rows_of(name, alone, captured, device, command)
        rows += found
        for row in found:
            print(f"{row.metric}: {row.value:.4g} {row.unit} {row.note}", flush=True)
        write("capture", given.name, rows)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
