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
from torch.optim import Optimizer

from app.head import Head
from app.module import TitansModule


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


class WritePredictions(Callback):
    """Append every predicted batch to one csv file, so that no table is too long for the machine's memory.

    Args:
        path: the file; what it held before is replaced.
    """

    def __init__(self, path: Path) -> None:
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
        if trainer.datamodule.provenance()["data"] == "sample":
            outputs = outputs.assign(data="sample")
        first = batch_idx == 0
        outputs.to_csv(self.path, mode="w" if first else "a", header=first, index=False)
