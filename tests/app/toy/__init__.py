"""A whole domain in one folder: the mean of a short series. With toy.yaml, all that a new domain needs."""

import os
import time
from pathlib import Path

import torch
from lightning import Callback, Trainer
from matplotlib import pyplot
from pandas import DataFrame
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError, MetricCollection

from app.capture import CaptureSteps
from app.data import DomainData, ShardedBatches
from app.head import Head
from app.module import load_module


class ToyHead(Head):
    """Predict the mean of a series.

    Args:
        dim: width of the backbone.
        input_size: numbers per token.
    """

    monitor = "mse"

    def __init__(self, dim: int, input_size: int = 1) -> None:
        super().__init__()
        self.inp = nn.Linear(input_size, dim)
        self.out = nn.Linear(dim, 1)
        self.register_buffer("scale", torch.ones(()))

    def fit_to(self, data):
        self.scale.fill_(data.scale)

    def get_extra_state(self):
        return {"columns": ["a", "b", "c"]}

    def set_extra_state(self, state):
        self.columns = state["columns"]

    def embed(self, batch):
        return self.inp(batch[0] / self.scale), None

    def readout(self, hidden, batch):
        return self.out(hidden[:, -1]).squeeze(-1)

    def loss(self, output, batch):
        return (output - batch[1]).square().mean()

    def scored(self, batch):
        return len(batch[1])

    def metrics(self, stage="val"):
        return MetricCollection({"mse": MeanSquaredError()})

    def update(self, metrics, output, batch):
        metrics.update(output, batch[1])

    def pictures(self, output, batch):
        figure = pyplot.figure(figsize=(1, 1))
        figure.text(0, 0, f"{output[0]:.2f}")  # axes would take a third of a training's time
        return {"toy/answer": figure}

    def predict(self, model, batch):
        return DataFrame({"truth": batch[1].cpu(), "answer": model(batch).float().cpu()})


class NormedHead(ToyHead):
    """A toy with statistics that every forward changes."""

    def __init__(self, dim: int, input_size: int) -> None:
        super().__init__(dim, input_size)
        self.norm = nn.BatchNorm1d(dim)

    def readout(self, hidden, batch):
        return self.out(self.norm(hidden[:, -1])).squeeze(-1)


class OtherHead(ToyHead):
    """Another domain's head."""


class ToyData(DomainData):
    """Random series, the same for every split.

    Args:
        samples: series.
        batch_size: series per step.
        sample: pretend that they were generated.
        broken: pretend that the file is.
        share: something that other keys may refer to.
        spoil: batches of an epoch in which one number is not finite.
        spoilt: that number.
    """

    def __init__(
        self,
        samples: int = 50,
        batch_size: int = 16,
        sample: bool = False,
        broken: bool = False,
        share: float = 0.1,
        spoil: list[int] | None = None,
        spoilt: str = "nan",
    ) -> None:
        super().__init__()
        self.samples, self.batch_size, self.sample, self.broken = samples, batch_size, sample, broken
        self.input_size, self.spoil, self.spoilt = 3, spoil or [], float(spoilt)

    def setup(self, stage: str) -> None:
        if self.broken:
            raise ValueError("toy.csv, line 3: not a number; mend it")
        x = torch.randn(self.samples, 8, 3, generator=torch.Generator().manual_seed(7))
        self.scale = float(os.environ.get("TOY_SCALE", 2.0))  # as if the file had changed
        self.set = TensorDataset(x, x.mean((1, 2)))

    def _loader(self, training):
        sampler = ShardedBatches(self.set, self.batch_size, training)
        return DataLoader(self.set, sampler=sampler, batch_size=None)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.trainer.training and self.trainer.fit_loop.epoch_loop.batch_idx + 1 in self.spoil:
            batch[0][0, 3, 1] = self.spoilt
        return batch

    def train_dataloader(self):
        return self._loader(True)

    def val_dataloader(self):
        return self._loader(False)

    test_dataloader = predict_dataloader = val_dataloader

    def provenance(self):
        return {"data": "sample" if self.sample else "toy", "sha256": str(self.scale), "samples": self.samples}

    def published(self):
        return {"zero": {"mse": 0.04}, "oracle": {"mse": 0.0}}


class OnePartBroken(ToyData):
    """The last device alone cannot read its file, as on a machine that has another."""

    def setup(self, stage: str) -> None:
        self.broken = self.trainer.global_rank == self.trainer.world_size - 1
        super().setup(stage)


def weigh(given):
    """The verb `weigh`: what a checkpoint holds."""
    module = load_module(given.ckpt, ToyHead)
    print(sum(p.numel() for p in module.parameters()), given.unit)


def answer(given):
    """The verb `predict --input`: the length of a file, whatever the model."""
    given.output.write_text(f"answer\n{len(given.input.read_text())}\n")


class StopInside(Callback):
    """Stop in the middle of the first epoch, behind its first validation."""

    def on_validation_end(self, trainer, module):
        trainer.should_stop = trainer.global_step == 2


class Stop(Callback):
    """Stop after the first epoch, as if the machine had gone away."""

    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = True


class TakeWhole(CaptureSteps):
    """Take each step as a whole on a CPU, too, where nothing is recorded; on a GPU as a graph."""

    def __init__(self) -> None:
        super().__init__(None if torch.cuda.is_available() else lambda work, pool: work)


class Hang(Callback):
    """Let the first device wait for what does not come, as a host waits for its GPU.

    Args:
        step: optimiser steps that are behind the training then.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.is_global_zero and trainer.global_step == self.step:
            time.sleep(100)


class End(Callback):
    """Send this process a signal in a training step or in a validation, or break off as if the machine had gone.

    Args:
        step: optimiser steps that are behind the training then.
        number: of the signal; 0 breaks off.
        validating: in the second batch of the validation at that step.
    """

    def __init__(self, step: int, number: int = 0, validating: bool = False) -> None:
        self.step, self.number, self.validating = step, number, validating

    def _end(self, trainer: Trainer) -> None:
        last = trainer.global_rank == trainer.world_size - 1  # one device is enough, and it need not be the first
        if trainer.global_step != self.step or trainer.sanity_checking or not last:
            return
        Path("ended").touch()
        if not self.number:
            raise SystemExit(9)
        os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if not self.validating:
            self._end(trainer)

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        if self.validating and batch_idx == 1:
            self._end(trainer)
