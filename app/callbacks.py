"""What a run writes down while it trains: TensorBoard scalars and pictures, checkpoints, its configuration."""

from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib import pyplot
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from app.errors import UserError
from app.head import Head
from app.module import TitansModule
from app.pictures import error_figure, memory_figure, picks
from app.tables import TableWriter


def checkpoints(head: Head) -> list[ModelCheckpoint]:
    """`best.ckpt` by the head's monitored metric and `last.ckpt` of every validation, in the run's folder.

    Two callbacks, as Lightning's `save_last` skips a validation that brought no improvement.
    """
    best = ModelCheckpoint(monitor=f"val/{head.monitor}", mode=head.mode, filename="best", enable_version_counter=False)
    return [best, ModelCheckpoint(filename="last", enable_version_counter=False)]


class StoreConfig(Callback):
    """Put the run's complete configuration into its folder and into every checkpoint.

    Args:
        config: the configuration as YAML.
    """

    def __init__(self, config: str) -> None:
        self.config = config

    def setup(self, trainer: Trainer, module: TitansModule, stage: str) -> None:
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # log_dir is a collective: ask on every device
        if trainer.is_global_zero and not trainer.fast_dev_run and trainer.loggers:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(self.config)

    def on_save_checkpoint(self, trainer: Trainer, module: TitansModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config


class LogTraining(Callback):
    """Loss, learning rate, gradient norm before clipping, tokens per second at log steps; memory health at some.

    Nothing is computed at the steps between, so that the host never waits for the device there.

    Args:
        health_every: log steps from one look at the memory to the next.
    """

    def __init__(self, health_every: int = 5) -> None:
        self.health_every = health_every
        self._restart_clock()

    def _restart_clock(self, *_: Any) -> None:
        self.tokens, self.start = 0, perf_counter()

    on_train_epoch_start = on_validation_end = _restart_clock

    def on_train_batch_start(self, trainer: Trainer, module: TitansModule, batch: Any, batch_idx: int) -> None:
        self.step = trainer.global_step + 1  # the optimiser step that this batch leads to, from 1
        self.logs = self.step % trainer.log_every_n_steps == 0
        if self.step % (trainer.log_every_n_steps * self.health_every) == 0:
            module.backbone.record(True)

    def on_before_optimizer_step(self, trainer: Trainer, module: TitansModule, optimizer: Optimizer) -> None:
        if self.logs:
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            self.values = {
                "train/grad_norm": torch.nn.utils.get_total_norm(gradients),
                "train/lr": optimizer.param_groups[0]["lr"],
            }

    def on_train_batch_end(
        self, trainer: Trainer, module: TitansModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.tokens += module.tokens
        if not self.logs or trainer.global_step != self.step:  # the latter: gradients are still being accumulated
            return
        self.values["train/loss"] = trainer.strategy.reduce(outputs["loss"], reduce_op="mean")
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        self.values["train/tokens_per_second"] = self.tokens * trainer.world_size / (perf_counter() - self.start)
        self.values |= {f"memory/{name}": value for name, value in module.backbone.health().items()}
        module.backbone.record(False)
        for logger in trainer.loggers:  # not self.log, which repeats a value at every log step until the epoch ends
            logger.log_metrics(self.values, step=self.step - 1)  # counted from 0, as Lightning does
        self._restart_clock()


class LogPictures(Callback):
    """The head's pictures of the first validation batch, and of the whole, once per validation."""

    def on_validation_batch_end(
        self, trainer: Trainer, module: TitansModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0 and self._draws(trainer):
            self._add(trainer, module.head.pictures(outputs, batch))

    def on_validation_end(self, trainer: Trainer, module: TitansModule) -> None:
        if module.summary and self._draws(trainer):
            self._add(trainer, module.head.summary_pictures(module.summary))

    def _draws(self, trainer: Trainer) -> bool:
        tensorboard = isinstance(trainer.logger, TensorBoardLogger)
        return tensorboard and trainer.is_global_zero and not trainer.sanity_checking

    def _add(self, trainer: Trainer, figures: dict[str, Figure]) -> None:
        for tag, figure in figures.items():
            trainer.logger.experiment.add_figure(tag, figure, trainer.global_step)
            pyplot.close(figure)


class DrawTest(Callback):
    """Pictures of a test in TensorBoard and as PNG: best, median and worst sample, error by step, what memory kept, and
    the head's own of the whole.

    Args:
        folder: the run's folder; the files go into `pictures` in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_test_start(self, trainer: Trainer, module: TitansModule) -> None:
        self.errors: list[Tensor] = []

    def on_test_batch_end(
        self, trainer: Trainer, module: TitansModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self.first = batch
        errors = module.head.errors(outputs, batch)
        if errors is not None:
            self.errors.append(errors)

    def on_test_epoch_end(self, trainer: Trainer, module: TitansModule) -> None:
        if not trainer.is_global_zero:
            return
        figures, shown = {}, self.first
        with trainer.precision_plugin.forward_context():
            if self.errors:
                errors = torch.cat(self.errors)
                figures["error_by_step"] = error_figure(errors)
                for name, index in picks(errors).items():
                    sample = trainer.test_dataloaders.dataset[torch.tensor([index])]
                    sample = trainer.strategy.batch_to_device(sample)
                    drawn = module.head.pictures(module(sample), sample)
                    figures |= {f"{tag}_{name}": figure for tag, figure in drawn.items()}
                    shown = sample if name == "median" else shown
            if (figure := memory_figure(module, shown)) is not None:
                figures["memory_surprise"] = figure
        self._keep(figures)

    def on_test_end(self, trainer: Trainer, module: TitansModule) -> None:
        if trainer.is_global_zero and module.summary:
            self._keep(module.head.summary_pictures(module.summary))

    def _keep(self, figures: dict[str, Figure]) -> None:
        folder = self.folder / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        with SummaryWriter(self.folder) as board:
            for tag, figure in figures.items():
                figure.savefig(folder / f"{tag.replace('/', '_')}.png", dpi=120)
                board.add_figure(f"test/{tag}", figure)


class WritePredictions(Callback):
    """Append every predicted batch to one file, so that no table is too long for the machine's memory.

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

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        module: TitansModule,
        outputs: DataFrame,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.datamodule.provenance()["data"] == "sample":
            outputs = outputs.assign(data="sample")
        self.table.write(outputs)

    def teardown(self, trainer: Trainer, module: TitansModule, stage: str) -> None:
        self.table.close()
