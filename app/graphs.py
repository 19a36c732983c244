"""Work on a device that comes again: recorded once for each layout of what it is given, and replayed from then on."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from app.module import TitansModule
from memory import BackboneState

# Batches of a layout that are taken one by one: what is compiled or allocated at first use is there then.
WARM_UP = 2
MOST = 8  # layouts that are recorded, as each graph keeps memory of its own

Result = TypeVar("Result")
Record = Callable[[Callable[[], Any], Any], Callable[[], Any]]
Health = list[tuple[int, dict[str, Tensor]]]  # of a memory, see `NeuralMemory`


class Pool:
    """Memory that the graphs of a run share, of which one runs at a time; on a processor, none.

    A capture that fails leaves the random numbers of earlier graphs as if they were still being captured. From then on
    no graph of the run is replayed or captured.

    Args:
        device: of the run.
        failed: whether a capture has failed in an earlier pool of the run.
    """

    def __init__(self, device: torch.device, failed: bool = False) -> None:
        self.handle = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self.failed = failed


class CudaGraph:
    """Work recorded without being done; every call does it once, on the same addresses.

    Args:
        work: launches kernels, and never waits for them.
        pool: memory that several graphs share, of which one runs at a time.
    """

    def __init__(self, work: Callable[[], Any], pool: Any) -> None:
        self.graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        try:
            # other threads, such as one that pins batches, may go on with what a capture forbids
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self.result = work()
        finally:
            torch.cuda.set_stream(stream)  # one that has failed would leave its own

    def __call__(self) -> Any:
        self.graph.replay()
        return self.result


class Graphs(Generic[Result]):
    """A work's graphs, one for each layout of batches that comes again.

    Args:
        work: launches kernels, and never waits for them, for a batch and the state that its rows go on from.
        record: makes a replay of work in memory that several share, see `CudaGraph`.
        pool: that memory, which other graphs of the run may share.
        module: what works; what its memories measure where they do, Python gathers at every replay.
        named: what is recorded, in a user's words.
    """

    def __init__(
        self,
        work: Callable[[Any, BackboneState | None], Result],
        record: Record,
        pool: Pool,
        module: TitansModule,
        named: str,
    ) -> None:
        self.work = work
        self.record = record
        self.pool = pool
        self.device = module.device
        self.backbone = module.backbone
        self.memories = [*module.backbone.memories().values()]
        self.named = named
        self.seen: Counter[str] = Counter()
        self.replays: dict[str, Replay[Result]] = {}

    def __call__(self, batch: Any, before: BackboneState | None = None) -> Result | None:
        """What the work leaves, where its next replay will overwrite it; None where it is not recorded, and not to be
        recorded now.
        """
        if self.pool.failed:
            self.backbone.side_by_side = False
            self.replays = {}  # and their memory
            return None
        layout = described(batch, before, any(memory.recording for memory in self.memories))
        self.seen[layout] += 1
        room = len(self.replays) < MOST
        # in the last step of a warm-up already: what the graph launches is compiled there
        self.backbone.side_by_side = layout in self.replays or (room and self.seen[layout] >= WARM_UP)
        if layout not in self.replays:
            if self.seen[layout] <= WARM_UP or not room:
                return None
            try:
                self.replays[layout] = Replay(self, batch, before)
            except RuntimeError as error:
                self._give_up(error)
                return None
            if len(self.replays) == MOST:
                self._tell(f"{self.named} on batches of {MOST} layouts are captured, others are not")
        result, measured = self.replays[layout](batch, before)
        for memory, health in zip(self.memories, measured, strict=True):
            memory.health += health
        return result

    def measured(self, batch: Any, before: BackboneState | None) -> tuple[Result, list[Health]]:
        """What the work leaves, and what each memory measures of it, which the memories do not keep."""
        earlier = [memory.health for memory in self.memories]
        try:
            for memory in self.memories:
                memory.health = []
            return self.work(batch, before), [memory.health for memory in self.memories]
        finally:
            for memory, health in zip(self.memories, earlier, strict=True):
                memory.health = health

    def _give_up(self, error: RuntimeError) -> None:
        told = str(error).strip().splitlines()[0]
        self._tell(f"all steps are launched kernel by kernel, as one of the {self.named} cannot be captured: {told}")
        self.pool.failed = True
        self.backbone.side_by_side = False

    @staticmethod
    def _tell(line: str) -> None:
        rank_zero_only(print)(f"trainer.capture: {line}")


class Replay(Generic[Result]):
    """A recorded work, and the places that it reads its batch from.

    Args:
        graphs: what records.
        batch: the first batch of its layout.
        before: the state that its rows go on from; None where they begin.

    Raises:
        RuntimeError: the work waits for the device, or does what no graph can hold.
    """

    def __init__(self, graphs: Graphs[Result], batch: Any, before: BackboneState | None) -> None:
        self.batch = apply_to_collection(batch, Tensor, Tensor.clone)
        self.before = None if before is None else before.map(Tensor.clone)
        self.places = tensors(self.batch, self.before)
        generator = torch.cuda.default_generators[graphs.device.index] if graphs.device.type == "cuda" else None
        state = generator and generator.clone_state()
        # Weights that autocast has converted before would be read as they are now, and those that it converts here are
        # there only once the graph has run.
        torch.clear_autocast_cache()
        try:
            self.replay = graphs.record(lambda: graphs.measured(self.batch, self.before), graphs.pool.handle)
        except RuntimeError:
            if generator and state:  # it would still believe that it is being captured
                generator.graphsafe_set_state(state)
            raise
        finally:
            torch.clear_autocast_cache()

    def __call__(self, batch: Any, before: BackboneState | None) -> tuple[Result, list[Health]]:
        for place, value in zip(self.places, tensors(batch, before), strict=True):
            place.copy_(value)
        return self.replay()


def described(batch: Any, before: BackboneState | None, measures: bool) -> str:
    """Everything of a batch and a state but the numbers in their tensors, and whether memories measure what they read:
    work that agrees in it is one graph.
    """

    def shape(tensor: Tensor) -> tuple[tuple[int, ...], torch.dtype]:
        return tuple(tensor.shape), tensor.dtype

    return repr((apply_to_collection(batch, Tensor, shape), before and before.map(shape), measures))


def tensors(batch: Any, before: BackboneState | None) -> list[Tensor]:
    """All tensors of a batch and a state, in a fixed order."""
    everything: list[Tensor] = []
    apply_to_collection(batch, Tensor, everything.append)
    if before is not None:
        before.map(lambda tensor: everything.append(tensor) or tensor)
    return everything
