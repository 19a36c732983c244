"""Lightning's trainer with our bounds, checkpoints that are whole, and captured steps."""

import math
import os
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from app.board import Board
from app.capture import CaptureSteps
from app.checkpoints import WholeCheckpoints
from app.declared import DeclaredTrainer
from app.errors import UserError
from app.guard import total_norm
from app.module import TitansModule
from app.restore import CheckedRestore
from memory.bounds import check_bounds

BOUNDS = {  # of our own numbers, and of those that Lightning divides by, or takes without a look
    "accumulate_grad_batches": (1, math.inf),
    "check_val_every_n_epoch": (1, math.inf),
    "gradient_clip_val": (0, math.inf),
    "log_every_n_steps": (1, math.inf),
    "num_nodes": (1, math.inf),
    "num_sanity_val_steps": (-1, math.inf),
    "save_minutes": (0, math.inf),
    "max_skipped": (1, math.inf),
    "patience": (1, math.inf),
}


def check_duration(given: str | timedelta | dict[str, int] | None) -> None:
    """Refuse a `max_time` that is no length of time, or none that a training could take.

    Raises:
        ValueError: says what may be given.
    """
    if given is None:
        return
    try:
        seconds = cast(float, Timer(given).time_remaining())
    except (MisconfigurationException, OverflowError, TypeError):
        seconds = 0
    if seconds <= 0:
        raise ValueError(
            f"trainer.max_time is {given!r}; give DD:HH:MM:SS, or days, hours, minutes and seconds, more than 0 in all"
        )


class TitansTrainer(DeclaredTrainer):
    """The trainer of every command.

    Args:
        args: what Lightning's trainer takes.
        save_minutes: minutes of training, at most, from one `last.ckpt` to the next; validations write it too.
        max_skipped: steps in a row without a finite loss and gradient, all of them skipped, that stop the training.
        capture: on a GPU, take training steps and answer evaluation batches by CUDA graphs where batches of one layout
            come again; false launches every kernel by itself, as it must be where a callback looks at gradients.
        patience: validations without a better score after which training ends; None trains to the end. The score is the
            one that picks the best checkpoint.
        kwargs: what Lightning's trainer takes.
    """

    def __init__(
        self,
        *args: Any,
        save_minutes: float = 10.0,
        max_skipped: int = 20,
        capture: bool = False,
        patience: int | None = None,
        **kwargs: Any,
    ) -> None:
        own = {"save_minutes": save_minutes, "max_skipped": max_skipped, "patience": patience}
        check_bounds("trainer", {**kwargs, **own}, BOUNDS)
        check_duration(kwargs.get("max_time"))
        # Lightning would replace the sampler that makes our batches.
        if kwargs.get("overfit_batches"):
            raise ValueError("trainer.overfit_batches is not served; set trainer.limit_train_batches")
        super().__init__(*args, **kwargs)
        most = max(os.cpu_count() or 1, 8)
        if self.strategy.root_device.type == "cpu" and self.num_devices > most:
            raise ValueError(f"trainer.devices is {self.num_devices}; this machine has room for {most} on its CPU")
        self.save_minutes = save_minutes
        self.max_skipped = max_skipped
        self.patience = patience
        self.checkpoints = WholeCheckpoints()
        self.strategy.checkpoint_io = self.checkpoints
        self._checkpoint_connector = CheckedRestore(self)
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                Board.adopt(logger)
        if capture:
            # The first place, as Lightning wants those that write checkpoints to be last.
            self.callbacks.insert(0, CaptureSteps())
        # Settings of a further trainer like this one.
        self.settings: dict[str, Any] = {**kwargs, "max_skipped": max_skipped, "capture": capture, "patience": patience}

    def save_checkpoint(
        self, filepath: str | Path, weights_only: bool | None = None, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, on all devices together.

        Raises:
            UserError: it cannot be written, or holds numbers that are not finite. Every device raises it, so that none
                waits for another.
        """
        failure = None
        held = [*self.lightning_module.parameters()]
        states = [state for optimizer in self.optimizers for state in optimizer.state.values()]
        held += [value for state in states for value in state.values() if value.ndim]
        if not total_norm(held).isfinite():
            raise UserError(f"{filepath}: not written, as weights are no longer finite; the file of before is good")
        try:
            super().save_checkpoint(filepath, weights_only, storage_options)
        except UserError as error:
            failure = str(error)
            # The devices that write nothing wait at this barrier.
            self.strategy.barrier("Trainer.save_checkpoint")
        if failure := self.strategy.broadcast(failure):
            raise UserError(failure)

    def fit(self, model: TitansModule, *args: Any, **kwargs: Any) -> None:
        """Run the full optimization routine.

        A model that answers untrained is validated as a whole before its first step, and is then a candidate for
        `best.ckpt`: training never makes it worse.

        Args:
            model: to be trained.
            args: what Lightning's `fit` takes.
            kwargs: what Lightning's `fit` takes.
        """
        if kwargs.get("ckpt_path"):
            model.init_from = None  # what it goes on from has weights of its own
        if model.head.answers_untrained and not self.fast_dev_run:
            self.num_sanity_val_steps = math.inf
        if self.patience is not None:
            monitor = f"val/{model.head.monitor}"
            # before the callbacks that write, so that these know of the end
            self.callbacks.insert(0, EarlyStopping(monitor, mode=model.head.mode, patience=self.patience))
        super().fit(model, *args, **kwargs)
