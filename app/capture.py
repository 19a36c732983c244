"""A training step as one CUDA graph: forward, backward, guard, clipping and AdamW, launched at once.

The kernels of a small model take less time than a host needs to launch them one by one. A step whose batch has the
layout of earlier ones is therefore recorded once and replayed from then on, on the same numbers but for rounding.

Where several devices train together, their gradients are summed in one piece between backward and guard. Each device
then takes every step so, whether it replays it or not: all sum the same things in the same order, and none has to know
what another does.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning import Callback, Trainer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities import rank_zero_only
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from app.declared import declared
from app.devices import share_gradients
from app.guard import SkipNonFinite
from app.module import TitansModule
from memory import BackboneState

WARM_UP = 2  # steps of a layout that are taken one by one: what is compiled or allocated at first use is there then
MOST = 8  # layouts that are recorded, as each graph keeps memory of its own


@dataclass
class Outcome:
    """What a step leaves: its loss, the state where it leaves its rows (None where none is carried), tokens it read."""

    loss: Tensor
    state: BackboneState | None
    tokens: int


Work = Callable[[], Outcome]


class CudaGraph:
    """Work recorded without being done; every call does it once, on the same addresses.

    Args:
        work: launches kernels, and never waits for them.
        pool: memory that several graphs share, of which one runs at a time.
    """

    def __init__(self, work: Work, pool: Any) -> None:
        self.graph = torch.cuda.CUDAGraph()
        # other threads, such as one that pins batches, may go on with what a capture forbids
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.outcome = work()

    def __call__(self) -> Outcome:
        self.graph.replay()
        return self.outcome


class CaptureSteps(Callback):
    """Take training steps as graphs where a layout of batches comes again.

    On one device the other steps are left to Lightning; of several, every step is taken here. Such a step is taken in
    `TitansModule.on_train_batch_start`. Lightning's own passes find its loss, and no gradient: its hooks, counters and
    schedule run as ever, but no callback sees the gradients.

    Args:
        record: makes a replay of work; by default a CUDA graph on a GPU, and nothing elsewhere.
    """

    def __init__(self, record: Callable[[Work, Any], Work] | None = None) -> None:
        self.record = record

    def on_train_start(self, trainer: Trainer, module: TitansModule) -> None:
        on_gpu = module.device.type == "cuda"
        self.record = self.record or (CudaGraph if on_gpu else None)
        if self.record is None:
            return
        if reason := refusal(trainer):
            rank_zero_only(print)(f"trainer.capture: steps are launched kernel by kernel, {reason}")
            return
        self.trainer = trainer
        self.module = module
        self.guard = next(callback for callback in declared(trainer).callbacks if isinstance(callback, SkipNonFinite))
        self.memories = [*module.backbone.memories().values()]
        self.pool = torch.cuda.graph_pool_handle() if on_gpu else None
        self.rates = [torch.zeros((), device=module.device) for _ in trainer.optimizers[0].param_groups]
        self.seen: Counter[str] = Counter()
        self.steps: dict[str, Step] = {}
        self.captures = True
        self.together = isinstance(trainer.model, DistributedDataParallel)
        if self.together:  # `work` sums the gradients
            cast(DistributedDataParallel, trainer.model).require_backward_grad_sync = False
        module.take = self.take

    def on_train_end(self, trainer: Trainer, module: TitansModule) -> None:
        module.take = None
        self.steps = {}

    def on_exception(self, trainer: Trainer, module: TitansModule, exception: BaseException) -> None:
        self.on_train_end(trainer, module)

    def take(self, batch: Any) -> Tensor | None:
        """The loss of a step that was taken for `batch`; None where Lightning is to take it."""
        before = self.module.state_before(batch)
        step = self._recorded(batch, before)
        if step is None and not self.together:
            return None
        for group, rate in zip(self.trainer.optimizers[0].param_groups, self.rates, strict=True):
            rate.fill_(group["lr"])
        outcome = step(batch, before) if step else self.work(batch, before)
        self.module.tokens = outcome.tokens
        self.module.keep_state(batch, None if outcome.state is None else outcome.state.map(Tensor.clone))
        return outcome.loss.clone()

    def _recorded(self, batch: Any, before: BackboneState | None) -> "Step | None":
        """The step of the layout of `batch`; None where it is not recorded, and not to be recorded now."""
        if not self.captures or any(memory.recording for memory in self.memories):  # what they measure, Python gathers
            return None
        layout = described(batch, before)
        self.seen[layout] += 1
        if layout not in self.steps:
            if self.seen[layout] <= WARM_UP or len(self.steps) == MOST:
                return None
            try:
                self.steps[layout] = Step(self, batch, before)
            except RuntimeError as error:
                self._give_up(error)
                return None
            if len(self.steps) == MOST:
                rank_zero_only(print)(f"trainer.capture: batches of {MOST} layouts are captured, others are not")
        return self.steps[layout]

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

    def _give_up(self, error: RuntimeError) -> None:
        told = str(error).strip().splitlines()[0]
        rank_zero_only(print)(
            f"trainer.capture: steps are launched kernel by kernel, as one cannot be captured: {told}"
        )
        self.captures = False


class Step:
    """A recorded step, and the places that it reads its batch from.

    Args:
        capture: what records.
        batch: the first batch of its layout.
        before: the state that its rows go on from; None where they begin.

    Raises:
        RuntimeError: the step waits for the device, or does what no graph can hold.
    """

    def __init__(self, capture: CaptureSteps, batch: Any, before: BackboneState | None) -> None:
        self.batch = apply_to_collection(batch, Tensor, Tensor.clone)
        self.before = None if before is None else before.map(Tensor.clone)
        self.places = tensors(self.batch, self.before)
        generator = None if capture.pool is None else torch.cuda.default_generators[capture.module.device.index]
        state = generator and generator.clone_state()
        record = capture.record
        assert record is not None, "a training that captures nothing has no steps"
        try:
            self.replay = record(lambda: capture.work(self.batch, self.before), capture.pool)
        except RuntimeError:
            if generator and state:  # it would still believe that it is being captured
                generator.graphsafe_set_state(state)
            raise

    def __call__(self, batch: Any, before: BackboneState | None) -> Outcome:
        for place, value in zip(self.places, tensors(batch, before), strict=True):
            place.copy_(value)
        return self.replay()


def refusal(trainer: Trainer) -> str:
    """Why no step of a training can be captured; empty where some can."""
    if isinstance(trainer.strategy, ParallelStrategy) and not plain_ddp(trainer):
        return "as devices train together in another way than that of conf/ddp.yaml"
    if trainer.accumulate_grad_batches > 1:
        return "as gradients of several batches are accumulated"
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        return "as the loss is scaled for half precision"
    profiler = declared(trainer).profiler
    if profiler is not None and type(profiler).__name__ != "PassThroughProfiler":
        return "as they are being profiled"
    if not any(isinstance(callback, SkipNonFinite) for callback in declared(trainer).callbacks):
        return "as nothing guards them"
    if not all(group.get("fused") for group in trainer.optimizers[0].param_groups):
        return "as the optimiser is not a fused one"
    return ""


def plain_ddp(trainer: Trainer) -> bool:
    """Whether all that devices do together is to take the mean of whole gradients."""
    model = trainer.model
    hook = getattr(trainer.strategy, "_ddp_comm_hook", None)
    return isinstance(model, DistributedDataParallel) and not (
        model.find_unused_parameters or model.static_graph or hook
    )


def described(batch: Any, before: BackboneState | None) -> str:
    """Everything of a batch and a state but the numbers in their tensors: steps that agree in it are one graph."""

    def shape(tensor: Tensor) -> tuple[tuple[int, ...], torch.dtype]:
        return tuple(tensor.shape), tensor.dtype

    return repr((apply_to_collection(batch, Tensor, shape), before and before.map(shape)))


def tensors(batch: Any, before: BackboneState | None) -> list[Tensor]:
    """All tensors of a batch and a state, in a fixed order."""
    everything: list[Tensor] = []
    apply_to_collection(batch, Tensor, everything.append)
    if before is not None:
        before.map(lambda tensor: everything.append(tensor) or tensor)
    return everything


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
