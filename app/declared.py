"""What Lightning's trainer has and does not declare, for a checker of types."""

from typing import cast

from lightning import Callback, Trainer
from lightning.pytorch.profilers import Profiler

from app.data import DomainData


class DeclaredTrainer(Trainer):
    """What `app.trainer.TitansTrainer` extends: Lightning sets all but the last two, which are ours."""

    callbacks: list[Callback]
    datamodule: DomainData
    fast_dev_run: bool | int
    log_every_n_steps: int
    profiler: Profiler | None
    save_minutes: float
    max_skipped: int


def declared(trainer: Trainer) -> DeclaredTrainer:
    """The trainer of our runs where Lightning promises any trainer: as a hook's argument, or as a module's."""
    return cast(DeclaredTrainer, trainer)
