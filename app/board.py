"""TensorBoard logs that a training does not depend on."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure

from app.errors import UserError


class Board(TensorBoardLogger):
    """A TensorBoardLogger that warns once when its file cannot be written, and is silent from then on."""

    failed = False

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
            return super().experiment
        except OSError as error:
            cause = error.strerror or error
            raise UserError(
                f"{self.log_dir}: the run cannot be written there ({cause}); mend that or set trainer.logger.save_dir"
            ) from error

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
