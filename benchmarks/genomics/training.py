"""Training of small classifiers of DNA, several at once on one device, a CUDA graph a step.

Models, optimiser, schedule and all their numbers are the application's, from its configs. What a Lightning trainer
cannot do is here: the steps of several runs take turns on one GPU, each on a stream of its own, and batches are made
where they are read, those of planted tasks anew at every step.
"""

import hashlib
import json
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from app.module import TitansModule
from app.optim import OptimConfig, split_parameters
from app.versions import device_name, git_commit
from benchmarks.genomics.tasks import METRICS, TASKS, source_of
from benchmarks.shared.at_once import autocast
from benchmarks.shared.runs import digest
from domains.genomics import SequenceHead
from domains.genomics.data import Batch
from memory import BackboneConfig, MemoryConfig, NeuralMemory

BACKBONES = {  # variant, and whether the memory writes
    "lmm": ("lmm", True),
    "memory off": ("lmm", False),
    "attention": ("attention", True),
    "swa": ("swa", True),
}


@dataclass(frozen=True)
class Job:
    """One training run: a task, a key of BACKBONES (or `floors`), a seed, the resolved config, and where it runs."""

    task: str
    backbone: str
    seed: int
    recipe: dict[str, Any]
    device: str

    @property
    def epochs(self) -> int:
        return self.recipe["trainer"]["max_epochs"]

    @property
    def batch(self) -> int:
        return self.recipe["data"]["init_args"]["batch_size"]

    @property
    def file(self) -> str:
        """Name of its result: other recipes have other names."""
        text = json.dumps([self.task, self.backbone, self.seed, self.recipe and digest(self.recipe)])
        return hashlib.sha256(text.encode()).hexdigest()[:16] + ".json"


def build(job: Job, classes: int) -> TitansModule:
    """The model of a job, from its seed."""
    torch.manual_seed(job.seed)
    model = job.recipe["model"]
    variant, writes = BACKBONES[job.backbone]
    sizes = model["backbone"] | {"variant": variant, "memory": MemoryConfig(**model["backbone"]["memory"])}
    head = SequenceHead(sizes["dim"], classes, **model["head"]["init_args"])
    module = TitansModule(head, BackboneConfig(**sizes), OptimConfig(**model["optim"]))
    if not writes:
        for layer in module.modules():
            if isinstance(layer, NeuralMemory):
                layer.forward = partial(read_start, layer)
    return module


def read_start(layer: NeuralMemory, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    """In place of the memory's pass: every token reads what training made its start, none writes."""
    return layer.retrieve(x, list(layer.init), None)[0], None


class Run:
    """A job under way: a step at a time, so that several share a GPU, each on its own stream.

    On a CUDA device the step of each width of batch is captured as one graph; the steps are too short for a host that
    launches every kernel. The best epoch on validation is kept, of equals the last; the first half is not asked.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.device = job, torch.device(job.device)
        self.stream = torch.cuda.Stream() if self.device.type == "cuda" else None
        with torch.cuda.stream(self.stream):
            self.source = source_of(job.task, job.epochs, job.device)
            if self.stream:
                torch.cuda.synchronize()  # another run may have made it on its stream
            self.module = build(job, len(self.source.classes)).to(self.device).train()
            self.optim = self.module.optim
            self.lr = torch.tensor(0.0, device=self.device)
            matrices, rest = split_parameters(self.module)
            groups = [{"params": matrices, "weight_decay": self.optim.weight_decay}, {"params": rest}]
            options = {"fused": self.stream is not None, "capturable": self.stream is not None}
            self.optimizer = torch.optim.AdamW(groups, self.lr, self.optim.betas, weight_decay=0.0, **options)
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Batch]] = {}
        self.pool = torch.cuda.graph_pool_handle() if self.stream else None
        self.steps = job.epochs * (self.source.rows // job.batch)
        self.done, self.epoch, self.left = 0, 0, deque()
        self.best, self.kept, self.begun = -float("inf"), {}, time.perf_counter()

    def advance(self) -> bool:
        """One step; False once all have been taken."""
        with torch.cuda.stream(self.stream):
            if not self.left:
                self.left.extend(self.source.batches(self.epoch, self.job.batch, self.job.seed))
            self.lr.fill_(self.optim.lr * self.optim.factor(self.done, self.steps))
            self._step(self.source.batch("train", self.left.popleft()))
            self.done += 1
            if not self.left:
                self.epoch += 1
                if 2 * self.epoch > self.job.epochs:
                    self._validate()
        return self.epoch < self.job.epochs

    def result(self) -> dict[str, Any]:
        """Score of the best epoch on validation and what it reaches on test, parameters, steps, seconds."""
        with torch.cuda.stream(self.stream):
            self.module.load_state_dict(self.kept, strict=False)
            test = evaluate(self.module, self.source, "test", self.job)
        return {
            "val": self.best,
            "test": test,
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "steps": self.steps,
            "seconds": time.perf_counter() - self.begun,
            "device": device_name(self.device),
            "commit": git_commit(),
        }

    def _validate(self) -> None:
        score = evaluate(self.module, self.source, "val", self.job)
        self.module.train()
        if score >= self.best:
            state = self.module.state_dict()
            # a head's class names are no tensor
            self.best, self.kept = score, {k: v.clone() for k, v in state.items() if isinstance(v, Tensor)}

    def _step(self, batch: Batch) -> None:
        width = batch.bases.shape[1]
        if self.stream is None:
            self._update(batch)
        elif width in self.graphs:
            graph, held = self.graphs[width]
            for place, new in zip(held, batch, strict=True):
                if place is not None:
                    place.copy_(new)
            graph.replay()
        else:
            for _ in range(2):  # what is compiled or allocated at first use must be there before
                self._update(batch)
            held = Batch(*(None if x is None else x.clone() for x in batch))
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                self._update(held)
            self.graphs[width] = graph, held

    def _update(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        with autocast(self.device):
            loss = self.module.head.loss(self.module(batch), batch)
        loss.backward()
        largest = self.job.recipe["trainer"]["gradient_clip_val"]
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), largest, foreach=True)
        self.optimizer.step()


@torch.no_grad()
def evaluate(module: TitansModule, source: Any, part: str, job: Job) -> float:
    """The task's metric on every row of a part; the host waits for the device once."""
    module.eval()
    found, truth = [], []
    for batch in source.evaluated(part):
        with autocast(batch.bases.device):
            found.append(module(batch).argmax(1))
        truth.append(batch.labels)
    return float(METRICS[TASKS[job.task].metric](torch.cat(truth).cpu().numpy(), torch.cat(found).cpu().numpy()))
