"""TensorBoard logs that a training does not depend on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from app.errors import UserError


class Board(TensorBoardLogger):
    """A TensorBoardLogger that warns once when its file cannot be written, and is silent from then on.

    Its curves lie in a folder `label` of the run's, where that is set: TensorBoard names runs by their folders.
    """

    failed = False
    label = ""

    @classmethod
    def adopt(cls, logger: TensorBoardLogger) -> None:
        """Make a logger of the configuration, which may name Lightning's own class, one of these."""
        logger.__class__ = cls

    @property
    def experiment(self) -> Any:
        """The SummaryWriter.

        Raises:
            UserError: nothing can be written in the folder of the run.
        """
        try:
            if cast(Any, rank_zero_only).rank == 0 and self._experiment is None:
                self._experiment = SummaryWriter(str(Path(self.log_dir, self.label)), **self._kwargs)
            return super().experiment
        except OSError as error:
            cause = error.strerror or error
            raise UserError(
                f"{self.log_dir}: the run cannot be written there ({cause}); mend that or set trainer.logger.save_dir"
            ) from error

    def begin(self, settings: dict[str, Any], layout: dict[str, Any]) -> None:
        """Record the settings of a run, whose score will be `hp_metric`, and how its curves are grouped."""
        self._write(lambda: self._begin(settings, layout))

    def _begin(self, settings: dict[str, Any], layout: dict[str, Any]) -> None:
        self.experiment.add_custom_scalars(layout)
        # Without the first summary, a list of columns, TensorBoard puts those first in which runs differ.
        for summary in hparams(settings, {"hp_metric": 0.0})[1:]:
            self.experiment.file_writer.add_summary(summary)

    def add_figure(self, tag: str, figure: Figure, step: int) -> None:
        """Show a picture."""
        self._write(lambda: self.experiment.add_figure(tag, figure, step))

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Append scalars, see Lightning's."""
        self._write(lambda: super(Board, self).log_metrics(*args, **kwargs))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Record hyper-parameters, see Lightning's."""
        self._write(lambda: super(Board, self).log_hyperparams(*args, **kwargs))

    def save(self) -> None:
        """Flush, see Lightning's."""
        self._write(super().save)

    def finalize(self, status: str) -> None:
        """Close, see Lightning's."""
        self._write(lambda: super(Board, self).finalize(status))

    def _write(self, write: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            write()
        except (OSError, ValueError) as error:
            # Lightning wraps every error of the logger in a ValueError.
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            self.failed = True
            rank_zero_warn(
                f"{self.log_dir}: TensorBoard cannot write there ({cause.strerror or cause}); the training goes on "
                "without curves"
            )
