"""Training of small sequence models on one device, a CUDA graph a step: what a recall study runs hundreds of."""

import math
import time
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.recall.tasks import TASKS, Examples
from benchmarks.shared.at_once import autocast
from memory import BackboneConfig, TitansBackbone

WARM_UP = 0.05  # share of the steps
ROWS = 250  # sequences of a test batch
LOSSES = 20  # that are kept of a run


@dataclass
class Job:
    """One run: a name, what is trained on which task, the largest learning rate, the seed, and rounds of the set."""

    name: str
    task: str
    backbone: BackboneConfig
    lr: float
    seed: int
    epochs: float


class NoFeedForward(nn.Module):
    """Mixers alone, as in the published recall models: adds nothing to the residual stream."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Recaller(nn.Module):
    """The backbone between an embedding and classes; only what is asked about gets logits."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        task, dim = TASKS[job.task], job.backbone.dim
        self.embed = nn.Embedding(task.symbols, dim)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.backbone = TitansBackbone(job.backbone, NoFeedForward)
        self.out = nn.Linear(dim, task.classes, bias=False)
        if task.symbols == task.classes:
            self.out.weight = self.embed.weight

    def forward(self, x: Examples) -> Tensor:
        """Logits [B, P, classes]."""
        hidden = self.backbone(self.embed(x.inputs))[0]
        return self.out(hidden.gather(1, x.at[..., None].expand(-1, -1, hidden.shape[-1])))


def pick(data: Examples, rows: Tensor | slice) -> Examples:
    return Examples(data.inputs[rows], data.at[rows], data.answers[rows])


class Run:
    """A job under way: a step at a time, so that several share a GPU, each on its own stream.

    On a CUDA device the step of each kind of sequence is captured as one graph.
    """

    def __init__(self, job: Job, device: str) -> None:
        self.job, self.task, self.device = job, TASKS[job.task], torch.device(device)
        self.cuda = self.device.type == "cuda"
        self.stream = torch.cuda.Stream() if self.cuda else None
        with torch.cuda.stream(self.stream):
            self.data, self.tests = examples(job.task, job.seed, device)
            if self.cuda:
                torch.cuda.synchronize()  # another run may have made them on its stream
            torch.manual_seed(job.seed)
            self.model = Recaller(job).to(self.device)
            self.lr = torch.tensor(0.0, device=self.device)
            decays = [p for p in self.model.parameters() if p.dim() > 1]
            rest = [p for p in self.model.parameters() if p.dim() <= 1]
            groups = [{"params": decays, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
            self.optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=self.cuda, capturable=self.cuda)
            self.rows = torch.zeros(self.task.batch, dtype=torch.long, device=self.device)
            self.loss = torch.zeros((), device=self.device)
        self.graphs: dict[str, torch.cuda.CUDAGraph] = {}
        self.pool = torch.cuda.graph_pool_handle() if self.cuda else None
        self.generator = torch.Generator(device).manual_seed(20_000 + job.seed)
        self.steps = int(job.epochs * sum(len(x.inputs) // self.task.batch for x in self.data.values()))
        self.done, self.batches, self.losses, self.begun = 0, [], [], time.time()

    def advance(self) -> bool:
        """One step; False once all have been taken."""
        with torch.cuda.stream(self.stream):
            if not self.batches:
                self.batches = self._epoch()
            kind, rows = self.batches.pop()
            share = self.done / self.steps
            self.lr.fill_(self.job.lr * min(1.0, share / WARM_UP) * 0.5 * (1 + math.cos(math.pi * share)))
            self.rows.copy_(rows)
            if not self.cuda:
                self._step(kind)
            elif kind in self.graphs:
                self.graphs[kind].replay()
            else:
                self._capture(kind)
            self.done += 1
            if self.done % max(1, self.steps // LOSSES) == 0:
                self.losses.append(self.loss.clone())
        return self.done < self.steps

    def result(self) -> dict[str, object]:
        """Accuracy of each test set, losses on the way, steps, seconds, parameters."""
        with torch.cuda.stream(self.stream):
            scores = {name: accuracy(self.model, x) for name, x in self.tests.items()}
        return {
            "scores": scores,
            "losses": [x.item() for x in self.losses],
            "steps": self.steps,
            "seconds": time.time() - self.begun,
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }

    def _epoch(self) -> list[tuple[str, Tensor]]:
        """Batches of one kind each, all kinds mixed."""
        batches = []
        for kind, x in self.data.items():
            order = torch.randperm(len(x.inputs), generator=self.generator, device=self.device)
            batches += [(kind, rows) for rows in order.split(self.task.batch) if len(rows) == self.task.batch]
        mixed = torch.randperm(len(batches), generator=torch.Generator().manual_seed(self.done))
        return [batches[i] for i in mixed.tolist()]

    def _capture(self, kind: str) -> None:
        for _ in range(2):  # what is compiled or allocated at first use must be there before
            self._step(kind)
        self.graphs[kind] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graphs[kind], pool=self.pool, stream=self.stream):
            self._step(kind)
        self.graphs[kind].replay()

    def _step(self, kind: str) -> None:
        x = pick(self.data[kind], self.rows)
        self.optimizer.zero_grad()
        with autocast(self.device):
            logits = self.model(x)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), x.answers.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        self.loss.copy_(loss.detach())


@torch.no_grad()
def accuracy(model: nn.Module, data: Examples) -> float:
    """Share of the places asked about where the largest logit is right."""
    right = torch.zeros((), device=data.inputs.device)
    for at in range(0, len(data.inputs), ROWS):
        x = pick(data, slice(at, at + ROWS))
        with autocast(data.inputs.device):
            right += (model(x).argmax(-1) == x.answers).sum()
    return (right / data.answers.numel()).item()


@lru_cache(4)
def examples(task: str, seed: int, device: str) -> tuple[dict[str, Examples], dict[str, Examples]]:
    """Training and test sets of a task, drawn from a seed."""
    return tuple(
        {name: make(rows, torch.Generator(device).manual_seed(start + seed)) for name, (make, rows) in sets.items()}
        for start, sets in ((1, TASKS[task].train), (10_000, TASKS[task].test))
    )
