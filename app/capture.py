"""A training step as one CUDA graph: forward, backward, guard, clipping and AdamW, launched at once; and the forward
pass of an evaluation step as another.

The kernels of a small model take less time than a host needs to launch them one by one. A step whose batch has the
layout of earlier ones is therefore recorded once and replayed from then on, on the same numbers but for rounding.

Where several devices train together, their gradients are summed in one piece between backward and guard. Each device
then takes every step so, whether it replays it or not: all sum the same things in the same order, and none has to know
what another does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning import Callback, Trainer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from app.declared import declared
from app.devices import share_gradients
from app.graphs import CudaGraph, Graphs, Pool, Record
from app.guard import SkipNonFinite
from app.module import TitansModule
from memory import BackboneState


@dataclass
class Outcome:
    """What a step leaves: its loss, the state where it leaves its rows (None where none is carried), tokens it read."""

    loss: Tensor
    state: BackboneState | None
    tokens: int


class CaptureSteps(Callback):
    """Take steps as graphs where a layout of batches comes again.

    Of a training step all is captured. On one device the other steps are left to Lightning; of several, every step is
    taken here. Such a step is taken in `TitansModule.on_train_batch_start`. Lightning's own passes find its loss, and
    no gradient: its hooks, counters and schedule run as ever, but no callback sees the gradients.

    Of a step of a validation or test the model's answer is captured, on each device for itself; what is counted of the
    answer is launched kernel by kernel. All graphs of a run share memory, as one of them runs at a time.

    Args:
        record: makes a replay of work; by default a CUDA graph on a GPU, and nothing elsewhere.
    """

    def __init__(self, record: Record | None = None) -> None:
        self.record = record
        self.told: set[str] = set()
        self.pool: Pool | None = None
        self.held: list[int] = []  # where the weights lie that graphs read
        self.steps: Graphs[Outcome] | None = None
        self.answers: Graphs[Tensor] | None = None

    def on_train_start(self, trainer: Trainer, module: TitansModule) -> None:
        if not self._captures(module, "steps", refusal(trainer)):
            return
        self.trainer = trainer
        self.guard = next(callback for callback in declared(trainer).callbacks if isinstance(callback, SkipNonFinite))
        self.rates = [torch.zeros((), device=module.device) for _ in trainer.optimizers[0].param_groups]
        self.together = isinstance(trainer.model, DistributedDataParallel)
        if self.together:  # `work` sums the gradients
            cast(DistributedDataParallel, trainer.model).require_backward_grad_sync = False
        module.take = self.take

    def on_validation_start(self, trainer: Trainer, module: TitansModule) -> None:
        captures = self._captures(module, "evaluation steps", evaluation_refusal(trainer, module))
        module.answer = self.answer if captures else None

    on_test_start = on_validation_start

    def on_validation_end(self, trainer: Trainer, module: TitansModule) -> None:
        module.backbone.side_by_side = False  # training steps that are captured set it for themselves

    on_test_end = on_validation_end

    def teardown(self, trainer: Trainer, module: TitansModule, stage: str) -> None:
        module.take = None
        module.answer = None
        module.backbone.side_by_side = False
        self.held = []
        self.steps = None
        self.answers = None

    def on_exception(self, trainer: Trainer, module: TitansModule, exception: BaseException) -> None:
        self.teardown(trainer, module, "")

    def _captures(self, module: TitansModule, named: str, reason: str) -> bool:
        """Whether steps can be captured; where they cannot, it is said once."""
        # until a graph's layout comes: launched one by one its kernels are too many
        module.backbone.side_by_side = False
        record = self.record or (CudaGraph if module.device.type == "cuda" else None)
        if record is None:
            return False
        if reason:
            if named not in self.told:
                rank_zero_only(print)(f"trainer.capture: {named} are launched kernel by kernel, {reason}")
            self.told.add(named)
            return False
        held = [tensor.data_ptr() for tensor in (*module.parameters(), *module.buffers())]
        if held != self.held:  # a graph goes on reading where they were
            self.held = held
            self.module = module
            # PyTorch takes up no pool again whose graphs are gone while a tensor, such as a gradient, is left in it.
            self.pool = Pool(module.device, failed=self.pool is not None and self.pool.failed)
            self.steps = Graphs(self.work, record, self.pool, module, "steps")
            self.answers = Graphs(self._answered, record, self.pool, module, "evaluation steps")
        return True

    def take(self, batch: Any) -> Tensor | None:
        """The loss of a step that was taken for `batch`; None where Lightning is to take it."""
        before = self.module.state_before(batch)
        for group, rate in zip(self.trainer.optimizers[0].param_groups, self.rates, strict=True):
            rate.fill_(group["lr"])
        outcome = self.steps(batch, before) if self.steps else None
        if outcome is None and not self.together:
            return None
        outcome = outcome or self.work(batch, before)
        self.module.tokens = outcome.tokens
        self.module.keep_state(batch, None if outcome.state is None else outcome.state.map(Tensor.clone))
        return outcome.loss.clone()

    def answer(self, batch: Any) -> Tensor | None:
        """What the model answers to an evaluation batch; None where Lightning's step is to ask it."""
        output = self.answers(batch) if self.answers else None
        return None if output is None else output.clone()

    def _answered(self, batch: Any, before: BackboneState | None) -> Tensor:
        return self.module.forward(batch)

    def work(self, batch: Any, before: BackboneState | None) -> Outcome:
        """A whole step, all of it on the device."""
        trainer, module, optimizer = self.trainer, self.module, self.trainer.optimizers[0]
        optimizer.zero_grad()  # so that new gradients are made, in a graph in its own memory
        with trainer.precision_plugin.forward_context():
            loss, state = module.training_loss(batch, before)
        module.backward(loss)
        if self.together:
            share_gradients(module.parameters())
        self.guard.judge(module, optimizer)
        module.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
        with capturable(optimizer, self.rates):
            optimizer.step()
        return Outcome(loss.detach(), state, module.tokens)


def refusal(trainer: Trainer) -> str:
    """Why no step of a training can be captured; empty where some can."""
    if isinstance(trainer.strategy, ParallelStrategy) and not plain_ddp(trainer):
        return "as devices train together in another way than that of conf/ddp.yaml"
    if trainer.accumulate_grad_batches > 1:
        return "as gradients of several batches are accumulated"
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        return "as the loss is scaled for half precision"
    if profiled(trainer):
        return "as they are being profiled"
    if not any(isinstance(callback, SkipNonFinite) for callback in declared(trainer).callbacks):
        return "as nothing guards them"
    if not all(group.get("fused") for group in trainer.optimizers[0].param_groups):
        return "as the optimiser is not a fused one"
    return ""


def evaluation_refusal(trainer: Trainer, module: TitansModule) -> str:
    """Why no step of a validation or test can be captured; empty where some can."""
    whole = trainer.model is module or isinstance(trainer.model, DistributedDataParallel)
    if not whole or any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        return "as devices gather the weights from each other"
    return "as they are being profiled" if profiled(trainer) else ""


def profiled(trainer: Trainer) -> bool:
    """Whether a profiler is asked what each kernel takes."""
    profiler = declared(trainer).profiler
    return profiler is not None and type(profiler).__name__ != "PassThroughProfiler"


def plain_ddp(trainer: Trainer) -> bool:
    """Whether all that devices do together is to take the mean of whole gradients."""
    model = trainer.model
    hook = getattr(trainer.strategy, "_ddp_comm_hook", None)
    return isinstance(model, DistributedDataParallel) and not (
        model.find_unused_parameters or model.static_graph or hook
    )


@contextmanager
def capturable(optimizer: Optimizer, rates: list[Tensor]) -> Iterator[None]:
    """Let the optimiser read its learning rates from tensors while inside, so that a replay takes those of its step."""
    before = [(group["lr"], group["capturable"]) for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
        group["capturable"] = True
    try:
        yield
    finally:
        for group, (rate, flag) in zip(optimizer.param_groups, before, strict=True):
            group["lr"] = rate
            group["capturable"] = flag
