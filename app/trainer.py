"""Lightning's trainer with checkpoints that are whole, a longer `predict`, and `backtest`."""

import copy
import math
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from app.board import Board
from app.callbacks import WritePredictions
from app.checkpoints import WholeCheckpoints
from app.data import DomainData
from app.errors import UserError
from app.guard import SkipNonFinite, total_norm
from app.module import TitansModule
from app.restore import CheckedRestore
from memory.bounds import check_bounds

BOUNDS = {  # of our own numbers, and of those that Lightning divides by, or takes without a look
    "accumulate_grad_batches": (1, math.inf),
    "check_val_every_n_epoch": (1, math.inf),
    "gradient_clip_val": (0, math.inf),
    "log_every_n_steps": (0, math.inf),
    "num_nodes": (1, math.inf),
    "num_sanity_val_steps": (-1, math.inf),
    "save_minutes": (0, math.inf),
    "max_skipped": (1, math.inf),
}


class TitansTrainer(Trainer):
    """The trainer of every command.

    Args:
        args: what Lightning's trainer takes.
        save_minutes: minutes of training, at most, from one `last.ckpt` to the next; validations write it too.
        max_skipped: steps in a row without a finite loss and gradient, all of them skipped, that stop the training.
        kwargs: what Lightning's trainer takes.
    """

    def __init__(self, *args: Any, save_minutes: float = 10.0, max_skipped: int = 20, **kwargs: Any) -> None:
        check_bounds("trainer", {**kwargs, "save_minutes": save_minutes, "max_skipped": max_skipped}, BOUNDS)
        if kwargs.get("overfit_batches"):  # Lightning would take the sampler away that makes our batches
            raise ValueError("trainer.overfit_batches is not served; set trainer.limit_train_batches")
        super().__init__(*args, **kwargs)
        most = max(os.cpu_count() or 1, 8)
        if self.strategy.root_device.type == "cpu" and self.num_devices > most:
            raise ValueError(f"trainer.devices is {self.num_devices}; this machine has room for {most} on its CPU")
        self.save_minutes, self.max_skipped = save_minutes, max_skipped
        self.strategy.checkpoint_io = WholeCheckpoints()
        self._checkpoint_connector = CheckedRestore(self)
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                Board.adopt(logger)
        self.settings = {**kwargs, "max_skipped": max_skipped}  # those of the trainers that `backtest` refits with

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
            self.strategy.barrier("Trainer.save_checkpoint")  # where the devices that write nothing wait
        if failure := self.strategy.broadcast(failure):
            raise UserError(failure)

    def predict(self, *args: Any, horizon: int | None = None, output: str | None = None, **kwargs: Any) -> Any:
        """Run inference on your data.

        Args:
            args: what Lightning's `predict` takes.
            horizon: steps to predict where the data let you choose; past those of the training, predictions are fed
                back as if they had been observed.
            output: file to write, .csv or .parquet; by default predictions.csv in the folder of the checkpoint's run.
            kwargs: what Lightning's `predict` takes.
        """
        if horizon is not None:
            kwargs["datamodule"].extend(horizon)
        if output is not None:
            self.callbacks.append(WritePredictions(Path(output)))
        return super().predict(*args, **kwargs)

    def backtest(
        self,
        model: TitansModule,
        datamodule: DomainData,
        ckpt_path: str | Path | None = None,
        origins: int = 10,
        stride: int | None = None,
        refit: int = 0,
    ) -> pd.DataFrame:
        """Predict from rolling origins, with or without training anew on what was known at each.

        Args:
            model: the model as it was built; a checkpoint's weights take the place of its own.
            datamodule: data that can be cut at any origin.
            ckpt_path: the model that predicts, unless `refit` trains others: `best`, `last` or a file.
            origins: how many, the last of them as late as the data allow.
            stride: steps from one origin to the next; by default those that are predicted, so that none is twice.
            refit: train from scratch at every origin (1), every second (2), ... on the data before it; 0 never.

        Returns:
            the predictions, as `predict` writes them.
        """
        datamodule.prepare_data()
        datamodule.setup("fit")
        fresh, tables = copy.deepcopy(model), []
        for fold in datamodule.folds(origins, stride, refit):
            if refit:
                tables += self._refit(copy.deepcopy(fresh), fold)
            else:
                tables += self.predict(model, datamodule=fold, ckpt_path=ckpt_path, return_predictions=True)
        return pd.concat(tables, ignore_index=True)

    def _refit(self, model: TitansModule, fold: DomainData) -> list[pd.DataFrame]:
        """Predictions for `fold` of a model trained on it, by the weights that validated best."""
        with TemporaryDirectory() as folder:
            best = ModelCheckpoint(folder, monitor=f"val/{model.head.monitor}", mode=model.head.mode)
            quiet = {"enable_checkpointing": True, "enable_progress_bar": False, "enable_model_summary": False}
            trainer = type(self)(**{**self.settings, **quiet, "logger": False, "callbacks": [best, SkipNonFinite()]})
            trainer.fit(model, datamodule=fold)
            return trainer.predict(model, datamodule=fold, ckpt_path=best.best_model_path, return_predictions=True)
