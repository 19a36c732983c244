"""Checkpoints of a run: how they are written, when `last.ckpt` is, and how a stopped training leaves one."""

from pathlib import Path
from time import monotonic
from typing import Any

import torch
import torch.distributed as dist
from lightning import Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from app import signals
from app.declared import declared
from app.files import save_tensors
from app.head import Head
from app.module import TitansModule, read_checkpoint


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or not there, and are checked before they are believed.

    `opened` holds what a command has read of a file before its trainer was there, which is not read again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.opened: dict[Path, dict[str, Any]] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Replace a checkpoint; see `app.files.replacing`."""
        save_tensors(Path(path), checkpoint)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint onto the CPU; none may run code."""
        return self.opened.pop(Path(path), None) or read_checkpoint(path)


def checkpoints(head: Head) -> list[Checkpoint]:
    """`best.ckpt` by the head's monitored metric, and `last.ckpt`.

    The best is written first: a training that goes on from the last has that validation behind it.
    """
    return [KeepBest(head), KeepLast()]


class KeepBest(ModelCheckpoint):
    """`best.ckpt` by the head's metric. The first candidate of a model that answers untrained is its start.

    Args:
        head: says by which metric.
        folder: where to; by default the checkpoints' folder of the run.
    """

    def __init__(self, head: Head, folder: str | Path | None = None) -> None:
        name = f"val/{head.monitor}"
        super().__init__(folder, filename="best", monitor=name, mode=head.mode, enable_version_counter=False)

    def on_sanity_check_end(self, trainer: Trainer, module: TitansModule) -> None:
        if module.head.answers_untrained:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


class KeepLast(Checkpoint):
    """`last.ckpt`: at the start of a run, after every validation and epoch, and in between every few minutes.

    A signal to stop, on any device, writes it too and ends the command. Files are only written where Lightning goes on
    exactly: between two optimiser steps, and with no validation still to come that would be left out.

    The trainer's `save_minutes` says how long training goes on from one file to the next.
    """

    def setup(self, trainer: Trainer, module: TitansModule, stage: str) -> None:
        folder = trainer.log_dir or trainer.default_root_dir  # log_dir is a collective: ask on every device
        self.path = Path(folder) / "checkpoints" / "last.ckpt"
        if trainer.world_size > 1:  # over the CPUs: the hosts ask after every step, and must not wait for their GPUs
            self.hosts = dist.new_group(backend="gloo")

    def on_load_checkpoint(self, trainer: Trainer, module: TitansModule, checkpoint: dict[str, Any]) -> None:
        if checkpoint.get("global_step") == 0:
            checkpoint.pop("loops", None)  # Lightning takes step 0 for a place behind a validation

    def on_sanity_check_start(self, trainer: Trainer, module: TitansModule) -> None:
        signals.postpone()

    def on_sanity_check_end(self, trainer: Trainer, module: TitansModule) -> None:
        if signum := self._agreed(trainer, signals.received()):
            self._leave(trainer, signum, "before the first step")

    def on_train_start(self, trainer: Trainer, module: TitansModule) -> None:
        signals.postpone()
        self.written = monotonic()
        if not trainer.global_step:
            self._save(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, module: TitansModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loop = trainer.fit_loop.epoch_loop
        if loop.batch_progress.is_last_batch or loop._should_accumulate():
            return  # the end of the epoch comes soon, and gradients that are summed up are in no file
        fetcher = trainer.fit_loop._data_fetcher
        if fetcher is not None and loop._should_check_val_fx(fetcher):
            return  # a file from here would go on behind the validation
        due = monotonic() - self.written > 60 * declared(trainer).save_minutes
        due |= trainer.global_step == trainer.max_steps or trainer.should_stop  # nothing else would write this step
        signum = self._agreed(trainer, signals.received() or int(due))
        if signum:
            self._save(trainer)
        if signum > 1:
            self._leave(trainer, signum, f"at step {trainer.global_step}")

    def on_validation_start(self, trainer: Trainer, module: TitansModule) -> None:
        self._stop_in_validation(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, module: TitansModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._stop_in_validation(trainer)

    def _stop_in_validation(self, trainer: Trainer) -> None:
        """Leave a file that begins this validation again: what it has counted so far is in no file."""
        if trainer.sanity_checking or not (signum := self._agreed(trainer, signals.received())):
            return
        loop = trainer.fit_loop.epoch_loop
        # Lightning goes on from no file of the last step, not even to validate, and summed gradients are in none
        if trainer.global_step != trainer.max_steps and not loop._should_accumulate():
            _begin_again(loop.val_loop.batch_progress)
            self._save(trainer)
        self._leave(trainer, signum, f"in the validation at step {trainer.global_step}")

    def on_validation_end(self, trainer: Trainer, module: TitansModule) -> None:
        loop = trainer.fit_loop.epoch_loop
        between_steps = not loop._should_accumulate()
        if between_steps and not loop.batch_progress.is_last_batch and not trainer.sanity_checking:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: TitansModule) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:  # else the training ends within an epoch
            self._save(trainer)
        if signum := self._agreed(trainer, signals.received()):
            self._leave(trainer, signum, f"at step {trainer.global_step}")

    def on_train_end(self, trainer: Trainer, module: TitansModule) -> None:
        signals.act()

    def _agreed(self, trainer: Trainer, wish: int) -> int:
        """The largest wish of all devices, so that they act on it at the same step."""
        if trainer.world_size == 1:
            return wish
        largest = torch.tensor(wish)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.hosts)
        return int(largest)

    def _save(self, trainer: Trainer) -> None:
        if not declared(trainer).fast_dev_run:
            trainer.save_checkpoint(self.path, weights_only=False)
        self.written = monotonic()

    def _leave(self, trainer: Trainer, signum: int, place: str) -> None:
        rank_zero_only(print)(f"\nstopped by {signals.name(signum)} {place}; go on with --ckpt last")
        # one process ends the command; a second exit code would make Lightning kill it
        raise SystemExit(128 + signum if trainer.is_global_zero else 0)


def _begin_again(progress: Any) -> None:
    """Set the progress of Lightning's validation loop to a first batch that has been started and not finished."""
    progress.total.completed -= progress.current.completed
    progress.current.completed = 0
    for count in (progress.total, progress.current):
        count.reset_on_restart()
    progress.increment_ready()
    progress.increment_started()
