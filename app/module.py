"""The one LightningModule of every domain: a Titans backbone between the two ends of a head."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast
from zipfile import is_zipfile

import torch
from lightning import LightningModule
from lightning.pytorch.core.saving import _load_state
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from pandas import DataFrame
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection
from torchmetrics.utilities.distributed import gather_all_tensors

from app.data import DomainData, ShardedBatches, run_seed
from app.declared import declared
from app.devices import device_count, seed_device, sum_over_devices
from app.errors import UserError, user_errors
from app.files import damage
from app.head import Head
from app.optim import OptimConfig
from app.reading import reading
from app.restore import CURE, check, refuse_other_weights, restoring
from app.tokens import TokenBatch
from memory import BackboneConfig, BackboneState, TitansBackbone

# Settings that a run may change which starts from the weights of another.
MAY_CHANGE = {"dropout", "window", "segment", "chunk", "backend", "checkpoint"}


class TitansModule(LightningModule):
    """Embed a batch, mix it over time with a Titans backbone, read the answer out.

    Args:
        head: the domain's part: embedding, read-out, loss, metrics, pictures.
        backbone: the Titans model between the head's two ends.
        optim: optimiser and learning rate.
        compile: run the backbone through torch.compile.
        init_from: a checkpoint whose weights training starts from, as if they were the random ones: all of them, or of
            another head that ours names in `starts_from` the backbone and the parts named there.
    """

    def __init__(
        self,
        head: Head,
        backbone: BackboneConfig = BackboneConfig(),
        optim: OptimConfig = OptimConfig(),
        compile: bool = False,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        with warnings.catch_warnings():
            # Lightning warns that a module is no hyper-parameter; the lines below take it out again.
            warnings.simplefilter("ignore")
            self.save_hyperparameters(logger=False)
        # A head built in Python has no configuration to store: a checkpoint holds its weights only.
        if isinstance(self.hparams["head"], Head):
            self.hparams.pop("head")
        self.head = head
        self.optim = optim
        self.backbone = TitansBackbone(backbone, head.feed_forward)
        if compile:
            # Compiled in place, so that the keys of a checkpoint stay the same.
            self.backbone.compile()
        self.metrics = nn.ModuleDict(
            {stage: head.metrics(stage).clone(prefix=f"{stage}/") for stage in ("val", "test")}
        )
        self.summary: dict[str, Tensor] = {}  # metrics of the last evaluation that are no scalar
        self.init_from = init_from
        # Tokens of the last batch.
        self.tokens = 0
        # The states in which the last training batches left their rows, where other batches go on from them.
        self.carried: list[BackboneState] = []
        # Take a whole training step, and answer an evaluation batch, see `app.capture`.
        self.take: Callable[[Any], Tensor | None] | None = None
        self.answer: Callable[[Any], Tensor | None] | None = None
        # Loss of the step in progress, where it was taken so.
        self.taken: Tensor | None = None
        # Norm of the gradients of the step in progress, where a guard measures it, see `app.guard`.
        self.gradient_norm: Tensor | None = None

    def setup(self, stage: str) -> None:
        if stage == "fit":
            if self.init_from:
                with restoring(f"model.init_from {self.init_from}", "a checkpoint of this model"):
                    self._start_from(read_checkpoint(self.init_from))
            with user_errors():
                self.head.fit_to(self._data)

    @property
    def _data(self) -> DomainData:
        """What the run reads: Lightning gives its trainer the data and does not declare so."""
        return declared(self.trainer).datamodule

    def _start_from(self, checkpoint: dict[str, Any]) -> None:
        """Take the weights of a checkpoint, or those that our head shares with its head."""
        parts = self.head.starts_from.get(checkpoint.get("head", ""))
        if parts is None:
            self.on_load_checkpoint(checkpoint)
            self.load_state_dict(checkpoint["state_dict"])
            self.carried = []
            return
        then, now = (shared_settings(values) for values in (checkpoint["hyper_parameters"], self.hparams))
        wrong = sorted(key for key in then.keys() & now.keys() if then[key] != now[key])
        if wrong:
            named = "; ".join(f"{key} is {then[key]} there and {now[key]} here" for key in wrong)
            raise UserError(f"model.init_from {self.init_from} does not fit: {named}; give both the same")
        prefixes = ("backbone.", *(f"head.{part}." for part in parts))
        ours, theirs = (
            {name: value for name, value in state.items() if name.startswith(prefixes)}
            for state in (self.state_dict(), checkpoint["state_dict"])
        )
        refuse_other_weights(ours, theirs, dict(self.named_parameters()))
        self.load_state_dict(theirs, strict=False)

    def forward(self, batch: Any) -> Tensor:
        """The head's answer to a batch."""
        return self._answer(batch, None)[0]

    def _answer(self, batch: Any, state: BackboneState | None) -> tuple[Tensor, BackboneState]:
        tokens, mask = self.head.embed(batch)
        self.tokens = tokens.shape[0] * tokens.shape[1]
        hidden, state = self.backbone(tokens, state, mask=mask)
        return self.head.readout(hidden, batch), state

    def on_train_start(self) -> None:
        self._check_data()  # of a checkpoint that training goes on from; the first validation may be hours away
        # a resumed run counts on from the middle of its epoch, but Lightning would serve its first batches again
        loop = self.trainer.fit_loop
        # `processed`, as a batch is not `completed` yet where a callback saves at its end
        progress = cast(_ProcessedTracker, loop.epoch_loop.batch_progress.current)
        done = int(progress.processed % self.trainer.num_training_batches)
        assert loop._combined_loader is not None  # it has been set up for this training
        for loader in loop._combined_loader.flattened:
            if isinstance(loader.sampler, ShardedBatches):
                loader.sampler.start = done
        rank = self.global_rank
        # The rows of a global batch lie one device after another.
        world = self.trainer.world_size
        self.carried = [s.map(lambda t: t.tensor_split(world)[rank].to(self.device)) for s in self.carried]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # dropout is a function of the place in the run, so that a resumed run equals one that never stopped
        seed_device(self.device, run_seed(self.current_epoch, batch_idx, self.global_rank))
        self.taken = None
        self.taken = self.take(batch) if self.take else None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.taken
        if loss is None:
            loss, state = self.training_loss(batch, self.state_before(batch))
            self.keep_state(batch, state)
        # This is the loss of this device; LogTraining logs the mean over all devices.
        self.log("train/loss", loss, prog_bar=True, logger=False)
        return loss

    def training_loss(self, batch: Any, before: BackboneState | None) -> tuple[Tensor, BackboneState | None]:
        """Scalar loss of a training batch whose rows go on from the state `before`, and the state where it leaves them,
        cut from the graph (truncated back-propagation through time); None where no state is carried.
        """
        carry = carry_of(batch)
        output, state = self._answer(batch, None if carry is None else self._entered(carry[0], before))
        loss = self.head.loss(output, batch)
        if device_count() > 1:
            loss = loss * self._weight(batch).to(loss.dtype)
        return loss, None if carry is None else state.detach()

    def state_before(self, batch: Any) -> BackboneState | None:
        """The state that rows of a training batch go on from; None where all of them begin."""
        carry = carry_of(batch)
        return self.carried[-carry[1]] if carry is not None and len(self.carried) >= carry[1] else None

    def keep_state(self, batch: Any, state: BackboneState | None) -> None:
        """Keep the state where a training batch leaves its rows, as long as others go on from it."""
        carry = carry_of(batch)
        self.carried = [] if carry is None or state is None else [*self.carried, state][-carry[1] :]

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        # A step that was taken as a whole has had its backward pass.
        if self.taken is not None:
            return
        # a loss that is not finite may have finite gradients here and there; its step is to be skipped on all devices
        whole = torch.where(loss.detach().isfinite(), 1.0, torch.nan)
        super().backward(loss * whole, *args, **kwargs)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # The guard has taken the norm of these gradients already; Lightning would take it again.
        if self.gradient_norm is None or not gradient_clip_val or gradient_clip_algorithm == "value":
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            nn.utils.clip_grads_with_norm_(self.parameters(), gradient_clip_val, self.gradient_norm)

    def _weight(self, batch: Any) -> Tensor:
        """What this device's loss counts in the mean over devices, so that it is that of the whole global batch."""
        own = torch.zeros((), dtype=torch.float64, device=self.device) + self.head.scored(batch)
        return own * device_count() / sum_over_devices(own).clamp(min=1)

    @user_errors()
    def _entered(self, fresh: Tensor, before: BackboneState | None) -> BackboneState:
        """The state that a batch starts from: its `fresh` rows [B] begin, the others go on from `before`.

        M_0 and persistent tokens are in the graph of every step, also of one in which no row of a device begins: DDP
        waits for a gradient of every parameter.
        """
        start = self.backbone.begin()
        return start.where(fresh, start if before is None else before)

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        output = self._evaluate(batch, "val")
        self.head.collect(output, batch)
        return output

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: Any, stage: str) -> Tensor:
        output = self.answer(batch) if self.answer else None
        if output is None:
            # Calling `self(batch)` would let FSDP shard the parameters again before the step has ended.
            output = self.forward(batch)
        self.head.update(self._metrics(stage), output, batch)
        return output

    def _metrics(self, stage: str) -> MetricCollection:
        return cast(MetricCollection, self.metrics[stage])

    @user_errors()
    def _check_data(self) -> None:
        # In `setup` the checkpoint would not be loaded yet.
        self.head.check(self._data)

    on_validation_start = on_test_start = on_predict_start = _check_data

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")
        self.head.calibrate()

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, stage: str) -> None:
        metrics = self._metrics(stage)
        values = metrics.compute()
        self.summary = {name.removeprefix(f"{stage}/"): values.pop(name) for name in [*values] if values[name].ndim}
        for name, value in values.items():
            # every device has computed the same value already: sync_dist only keeps Lightning from warning
            self.log(name, value, prog_bar=name == f"{stage}/{self.head.monitor}", sync_dist=True)
        metrics.reset()

    def predict_step(self, batch: Any, batch_idx: int) -> DataFrame:
        return self.head.predict(self, batch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        try:
            steps = self.trainer.estimated_stepping_batches
        except ValueError as error:  # Lightning counts an epoch's steps here, and finds it too short
            if "val_check_interval" not in str(error):
                raise
            told = f"trainer.val_check_interval is {self.trainer.val_check_interval} steps, and an epoch has fewer"
            raise UserError(f"{told}: lower it, or set trainer.check_val_every_n_epoch to null") from error
        if steps == float("inf"):
            raise UserError("the schedule needs the length of the run: set trainer.max_epochs or trainer.max_steps")
        optimizer, schedule = self.optim.build(self, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["head"] = class_name(self.head)
        # of all devices, so that any number of them can go on
        checkpoint["carried"] = [state.map(lambda t: self._gathered(t).cpu()) for state in self.carried]

    def _gathered(self, tensor: Tensor) -> Tensor:
        # not Lightning's all_gather, which asks for as many rows on every device
        return torch.cat(gather_all_tensors(tensor)) if device_count() > 1 else tensor

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse, in one line, a checkpoint of another domain or of another size, or whose weights are no numbers."""
        ours = class_name(self.head)
        theirs = checkpoint.get("head")
        if ours != theirs:
            raise UserError(f"the checkpoint holds a {theirs}, the config wants a {ours}; use the checkpoint's config")
        refuse_other_weights(self.state_dict(), checkpoint["state_dict"], dict(self.named_parameters()))
        self.carried = checkpoint.get("carried", [])


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Everything that a checkpoint holds, on the CPU.

    Raises:
        UserError: there is no such file.
        Unreadable: it is damaged, or no checkpoint.
    """
    if not Path(path).exists():
        raise UserError(f"there is no file {path}; give a checkpoint file")
    with reading(path, "a checkpoint", CURE) as at:
        if (place := damage(path)) is not None:
            raise at.error(f"damaged or no checkpoint, in {place}")
        content = torch.load(path, map_location="cpu", weights_only=True)
        check(content, at)
    return content


def trained_head(path: str | Path) -> str:
    """Dotted class name of the head that a checkpoint is of, without a look at its weights.

    Raises:
        UserError: there is no such file.
        Unreadable: it is no checkpoint.
    """
    if not Path(path).exists():
        raise UserError(f"there is no file {path}; give a checkpoint file")
    with reading(path, "a checkpoint", CURE) as at:
        if not is_zipfile(path):
            raise at.error("damaged or no checkpoint")
        return str(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["head"])


def load_module(path: str | Path, head: type[Head] = Head) -> TitansModule:
    """The model of a checkpoint with its weights, ready to answer, on a GPU where there is one.

    Args:
        path: the checkpoint.
        head: the class that its head must be of.

    Raises:
        UserError: there is no such file, or it is no checkpoint that the command line wrote, or of another head.
    """
    return module_of(read_checkpoint(path), path, head)


def module_of(content: dict[str, Any], path: str | Path, head: type[Head] = Head) -> TitansModule:
    """As `load_module`, of what `read_checkpoint` has read from `path`: a checkpoint is read and checked once."""
    if "config" not in content:
        raise UserError(f"{path} holds no config: it was not written by `python -m app fit`")
    return built(content, path, head)


def built(content: dict[str, Any], path: str | Path, head: type[Head] = Head) -> TitansModule:
    """As `module_of`, where `content` need hold no more than `hyper_parameters` and `state_dict`."""
    with restoring(path, "a checkpoint of a model"):
        module = cast(TitansModule, _load_state(TitansModule, content))
    if not isinstance(module.head, head):
        raise UserError(f"{path}: holds a {type(module.head).__name__}, and this is for a {head.__name__}")
    return module.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def shared_settings(hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What two heads' models must have in common for weights to mean the same, by its key in a config.

    Dropout, what attention sees, the memory's chunk and its backend may change from one run to the next.
    """
    config = hyper_parameters["backbone"]
    backbone: dict[str, Any] = dict(asdict(config) if isinstance(config, BackboneConfig) else config)
    memory = backbone.pop("memory")
    settings = {f"backbone.{key}": value for key, value in backbone.items()}
    settings |= {f"backbone.memory.{key}": value for key, value in memory.items()}
    head = hyper_parameters.get("head", {}).get("init_args", {})
    # `dim` is compared as a setting of the backbone.
    settings |= {f"head.{key}": value for key, value in head.items() if key != "dim"}
    return {key: value for key, value in settings.items() if key.split(".")[-1] not in MAY_CHANGE}


def carry_of(batch: Any) -> tuple[Tensor, int] | None:
    """Rows of a batch that begin and how many batches ago the others stopped, see `TokenBatch`; None for no state."""
    return batch.carry if isinstance(batch, TokenBatch) else None


def class_name(thing: object) -> str:
    """Dotted name of an object's class."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
