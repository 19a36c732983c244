"""What a run writes down while it trains: TensorBoard scalars and pictures, checkpoints, its configuration."""

import math
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, cast

import torch
from lightning import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.image import imread
from pandas import DataFrame
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from app import signals
from app.board import Board
from app.declared import declared
from app.errors import UserError
from app.files import write_text
from app.guard import SkipNonFinite
from app.module import TitansModule
from app.pictures import memory_figure, save_figure
from app.resume import differences, judge, plain
from app.runs import curves_folder, run_folder
from app.tables import TableWriter


class StoreConfig(Callback):
    """Put the run's complete configuration into its folder and, with what the data are, into every checkpoint.

    Args:
        config: the configuration as YAML.
        strict: refuse to go on from a checkpoint of other data, in place of a warning.
    """

    def __init__(self, config: str, strict: bool) -> None:
        self.config = config
        self.strict = strict

    def setup(self, trainer: Trainer, module: TitansModule, stage: str) -> None:
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # log_dir is a collective: ask on every device
        self.data = plain(declared(trainer).datamodule.identity())
        if trainer.is_global_zero and not declared(trainer).fast_dev_run and trainer.loggers:
            write_text(folder / "config.yaml", self.config)

    def on_save_checkpoint(self, trainer: Trainer, module: TitansModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
        checkpoint["data"] = self.data

    def on_load_checkpoint(self, trainer: Trainer, module: TitansModule, checkpoint: dict[str, Any]) -> None:
        # The same files may hold other data than when the checkpoint was written.
        then = checkpoint.get("data", self.data)
        judge(differences(then, self.data, "data"), str(trainer.ckpt_path), self.strict)


class PrintSize(Callback):
    """Prints how many parameters a model has, in place of Lightning's table, whose FLOPs are 0 here."""

    def on_fit_start(self, trainer: Trainer, module: TitansModule) -> None:
        if not trainer.is_global_zero:
            return
        sizes = {name: _parameters(part) for name, part in module.named_children()}
        parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items() if size)
        print(f"parameters: {_parameters(module):,} ({parts})")


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class EndOnSignal(Callback):
    """Let a signal end the command at once, as nothing is saved; see `app.signals`."""

    def _act(self, trainer: Trainer, module: TitansModule) -> None:
        # Lightning has installed its own signal handlers by now; this replaces them.
        signals.act()

    on_train_start = on_validation_start = on_test_start = on_predict_start = _act


class LogTraining(Callback):
    """Loss, its largest since the last log step, learning rate, gradient norm before clipping, steps that were skipped,
    tokens per second at log steps; memory health at some.

    Nothing is computed at the steps between, so that the host never waits for the device there. Log steps are every
    `trainer.log_every_n_steps`, or the last one of a training that is shorter.

    Args:
        guard: what skips steps; it comes before this callback, which logs the gradient norm that it measured.
        health_every: log steps from one look at the memory to the next.
    """

    def __init__(self, guard: SkipNonFinite, health_every: int = 5) -> None:
        self.guard = guard
        self.health_every = health_every
        self.losses: list[Tensor] = []
        self._restart_clock()

    def _restart_clock(self) -> None:
        self.tokens = 0
        self.start = perf_counter()

    def on_train_start(self, trainer: Trainer, module: TitansModule) -> None:
        self.every = int(min(declared(trainer).log_every_n_steps, max(trainer.estimated_stepping_batches, 1)))

    def on_train_epoch_start(self, trainer: Trainer, module: TitansModule) -> None:
        self._restart_clock()

    def on_validation_end(self, trainer: Trainer, module: TitansModule) -> None:
        self._restart_clock()

    def on_train_batch_start(self, trainer: Trainer, module: TitansModule, batch: Any, batch_idx: int) -> None:
        # The optimiser step that this batch leads to, counted from 1.
        self.step = trainer.global_step + 1
        self.logs = self.step % self.every == 0
        if self.step % (self.every * self.health_every) == 0:
            module.backbone.record(True)

    def on_before_optimizer_step(self, trainer: Trainer, module: TitansModule, optimizer: Optimizer) -> None:
        if self.logs:
            self.values: dict[str, Any] = {
                "train/grad_norm": self.guard.norm,
                "train/lr": optimizer.param_groups[0]["lr"],
            }

    def on_train_batch_end(
        self, trainer: Trainer, module: TitansModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.tokens += module.tokens
        self.losses.append(outputs["loss"])
        # The step has not changed while gradients are still being accumulated.
        if not self.logs or trainer.global_step != self.step:
            return
        self.values["train/loss"] = trainer.strategy.reduce(outputs["loss"], reduce_op="mean")
        # a spike between two points of the curve would be lost
        self.values["train/loss_max"] = trainer.strategy.reduce(torch.stack(self.losses).max(), reduce_op="max")
        self.values["train/skipped"] = self.guard.counts["total"]
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        self.values["train/tokens_per_second"] = self.tokens * trainer.world_size / (perf_counter() - self.start)
        self.values |= {f"memory/{name}": value for name, value in module.backbone.health().items()}
        module.backbone.record(False)
        # `self.log` would repeat a value at every log step until the epoch ends.
        for logger in trainer.loggers:
            # Lightning counts steps from 0.
            logger.log_metrics(self.values, step=self.step - 1)
        self.losses = []
        self._restart_clock()


class Pictures(Callback):
    """Where pictures go: those of a training into TensorBoard, those of a test into the folder of its run.

    To draw a validation's takes a sixth of a second, as long as half an epoch of a small model on a GPU does. So they
    are drawn at most every ten seconds, and at the end of the training those of its last validation.
    """

    SECONDS = 10.0

    def __init__(self) -> None:
        self.drawn = -math.inf  # when pictures of a validation were drawn last
        self.waiting: dict[str, Figure] = {}
        self.step = 0  # that they are of

    def shows(self, trainer: Trainer) -> bool:
        """Whether this validation's pictures are wanted, on this device."""
        return isinstance(trainer.logger, Board) and trainer.is_global_zero and not trainer.sanity_checking

    def show(self, trainer: Trainer, figures: dict[str, Figure]) -> None:
        """Add figures, by tag, to the curves of a training: now, or at its end if no later ones have come by then."""
        self._forget()
        self.waiting = figures
        self.step = trainer.global_step
        if monotonic() - self.drawn >= self.SECONDS:
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, module: TitansModule) -> None:
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        for tag, figure in self.waiting.items():
            cast(Board, trainer.logger).add_figure(tag, figure, self.step)  # `shows` has said that it is one
            self.drawn = monotonic()
        self._forget()

    def _forget(self) -> None:
        for figure in self.waiting.values():
            pyplot.close(figure)
        self.waiting = {}

    def keep(self, trainer: Trainer, figures: dict[str, Figure]) -> None:
        """Write figures, by tag, as PNG into `pictures` of the run whose checkpoint is tested, and for TensorBoard."""
        folder = run_folder(Path(cast(str, trainer.ckpt_path)))
        files = {tag: folder / "pictures" / f"{tag.replace('/', '_')}.png" for tag in figures}
        try:
            for tag, figure in figures.items():
                save_figure(files[tag], figure)
            with SummaryWriter(curves_folder(folder)) as board:
                for tag, file in files.items():  # of the file: to draw a figure again takes longer
                    board.add_image(f"test/{tag}", imread(file), dataformats="HWC")
        except (OSError, UserError) as error:
            # A test whose pictures cannot be written still has its scores.
            rank_zero_warn(f"{folder}: not every picture could be written ({error})")


class LogPictures(Pictures):
    """The head's pictures of the first batch of every validation."""

    def on_validation_batch_end(
        self, trainer: Trainer, module: TitansModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0 and self.shows(trainer):
            self.show(trainer, module.head.pictures(outputs, batch))


class DrawMemory(Pictures):
    """What the memories kept of the first batch of a test."""

    def on_test_batch_end(
        self, trainer: Trainer, module: TitansModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self.first = batch

    def on_test_epoch_end(self, trainer: Trainer, module: TitansModule) -> None:
        if not trainer.is_global_zero:
            return
        with trainer.precision_plugin.forward_context():
            figure = memory_figure(module, self.first)
        if figure is not None:
            self.keep(trainer, {"memory_surprise": figure})


class WritePredictions(Callback):
    """Append every predicted batch to one file, so that no table is too long for the machine's memory.

    Where the data can draw their predictions, a picture of the first ones lies beside it.

    Args:
        path: a .csv or .parquet file; what it held before is replaced.

    Raises:
        UserError: another kind of file, or a folder that is not there.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in (".csv", ".parquet"):
            raise UserError(f"output: {path} is neither .csv nor .parquet; name one of these")
        if not path.parent.is_dir():
            raise UserError(f"output: there is no folder {path.parent}; make it first")
        self.table = TableWriter(path)
        self.path = path

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        module: TitansModule,
        outputs: DataFrame,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if declared(trainer).datamodule.provenance()["data"] == "sample":
            outputs = outputs.assign(data="sample")
        self.table.write(outputs)
        if batch_idx == 0:
            self.first = outputs

    def on_predict_end(self, trainer: Trainer, module: TitansModule) -> None:
        self.table.close()
        figure = declared(trainer).datamodule.picture(self.first)
        if figure is not None:
            save_figure(self.path.with_suffix(".png"), figure)
