"""The one LightningModule of every domain: a Titans backbone between the two ends of a head."""

import warnings
from typing import Any

import torch
from lightning import LightningModule
from pandas import DataFrame
from torch import Tensor, nn

from app.data import ShardedBatches, run_seed
from app.errors import UserError, user_errors
from app.head import Head
from app.optim import OptimConfig
from memory import BackboneConfig, TitansBackbone


class TitansModule(LightningModule):
    """Embed a batch, mix it over time with a Titans backbone, read the answer out.

    Args:
        head: the domain's part: embedding, read-out, loss, metrics, pictures.
        backbone: the Titans model between the head's two ends.
        optim: optimiser and learning rate.
        compile: run the backbone through torch.compile.
    """

    def __init__(
        self,
        head: Head,
        backbone: BackboneConfig = BackboneConfig(),
        optim: OptimConfig = OptimConfig(),
        compile: bool = False,
    ) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a module is no hyper-parameter: see below
            self.save_hyperparameters(logger=False)
        if isinstance(self.hparams["head"], Head):  # built by hand: a checkpoint can hold its weights only
            self.hparams.pop("head")
        self.head = head
        self.optim = optim
        self.backbone = TitansBackbone(backbone, head.feed_forward)
        if compile:
            self.backbone.compile()  # in place, so that a checkpoint's keys do not depend on it
        self.metrics = nn.ModuleDict(
            {"val": head.metrics().clone(prefix="val/"), "test": head.test_metrics().clone(prefix="test/")}
        )
        self.tokens = 0  # of the last batch
        self.summary: dict[str, Tensor] = {}  # metrics of the last evaluation that are no scalar

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.head.fit_to(self.trainer.datamodule)

    def forward(self, batch: Any) -> Tensor:
        """The head's answer to a batch."""
        tokens, mask = self.head.embed(batch)
        self.tokens = tokens.shape[0] * tokens.shape[1]
        hidden, _ = self.backbone(tokens, mask=mask)
        return self.head.readout(hidden, batch)

    def on_train_start(self) -> None:
        # a resumed run counts on from the middle of its epoch, but Lightning would serve its first batches again
        loop = self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.completed % self.trainer.num_training_batches
        for loader in loop._combined_loader.flattened:
            if isinstance(loader.sampler, ShardedBatches):
                loader.sampler.start = done

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # dropout is a function of the place in the run, so that a resumed run equals one that never stopped
        torch.manual_seed(run_seed(self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.head.loss(self(batch), batch)
        self.log("train/loss", loss, prog_bar=True, logger=False)  # this device's; LogTraining logs that of all
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        output = self._evaluate(batch, "val")
        self.head.collect(output, batch)
        return output

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: Any, stage: str) -> Tensor:
        output = self(batch)
        self.head.update(self.metrics[stage], output, batch)
        return output

    @user_errors()
    def _check_data(self) -> None:
        self.head.check(self.trainer.datamodule)  # not in setup, where a checkpoint is not loaded yet

    on_validation_start = on_test_start = on_predict_start = _check_data

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")
        self.head.calibrate()

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, stage: str) -> None:
        metrics = self.metrics[stage]
        values = metrics.compute()
        self.summary = {name.removeprefix(f"{stage}/"): values.pop(name) for name in [*values] if values[name].ndim}
        for name, value in values.items():
            # every device has computed the same value already: sync_dist only keeps Lightning from warning
            self.log(name, value, prog_bar=name == f"{stage}/{self.head.monitor}", sync_dist=True)
        metrics.reset()

    def predict_step(self, batch: Any, batch_idx: int) -> DataFrame:
        return self.head.predict(self, batch)

    def configure_optimizers(self) -> dict[str, Any]:
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise UserError("the schedule needs the length of the run: set trainer.max_epochs or trainer.max_steps")
        optimizer, schedule = self.optim.build(self, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["head"] = class_name(self.head)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse, in one line, a checkpoint of another domain or of another size."""
        ours, theirs = class_name(self.head), checkpoint.get("head")
        if ours != theirs:
            raise UserError(f"the checkpoint holds a {theirs}, the config wants a {ours}; use the checkpoint's config")
        have, given = _shapes(self.state_dict()), _shapes(checkpoint["state_dict"])
        wrong = sorted(name for name in have.keys() | given.keys() if have.get(name) != given.get(name))
        if wrong:
            named = [f"{name} is {given.get(name, 'absent')}, not {have.get(name, 'absent')}" for name in wrong[:3]]
            more = [f"and {len(wrong) - 3} more"] if len(wrong) > 3 else []
            raise UserError(f"the checkpoint does not fit the model of the config: {'; '.join(named + more)}")


def _shapes(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a state dict, which may hold other things too (a head's column names)."""
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}


def class_name(thing: object) -> str:
    """Dotted name of an object's class."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
