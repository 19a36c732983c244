"""The contract of a domain's DataModule, and the batches every domain shares."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sized
from typing import Any, cast

import numpy as np
import torch
from lightning import LightningDataModule
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from app.devices import device_count, device_rank
from app.errors import UserError, user_errors


class DomainData(LightningDataModule, ABC):
    """A DataModule that can say where its data comes from and what others reached on it.

    A ValueError or OSError of a subclass's `prepare_data` or `setup` ends a command as one line: its message names the
    file, the place and the fix.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for name in {"prepare_data", "setup"} & set(vars(cls)):
            setattr(cls, name, user_errors()(vars(cls)[name]))

    @abstractmethod
    def provenance(self) -> dict[str, object]:
        """Plain values stamped on every result: `data` (a name, or `sample` if generated), `sha256`, split sizes.

        There is no default, as a result that does not say what it was measured on is worth nothing.
        """

    def identity(self) -> dict[str, object]:
        """Plain values by which a training that goes on knows its data again, to be asked after `setup`."""
        known = self.provenance()
        return {name: known.get(name) for name in ("data", "sha256")}

    def published(self) -> dict[str, dict[str, float]]:
        """Published scores of the same task, {model: {metric: value}}; empty where none is known."""
        return {}

    def simple(self) -> dict[str, dict[str, float]]:
        """Test scores of models that need no training, to stand beside ours, {model: {metric: value}}."""
        return {}

    def picture(self, predictions: DataFrame) -> Figure | None:
        """A figure of the first predictions, to be asked after `setup`; None where nothing is to be drawn."""
        return None


def run_seed(*parts: int) -> int:
    """A seed that is a function of the run's own seed (`seed_everything`) and `parts`, on every machine the same."""
    seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
    return int(np.random.SeedSequence((seed, *parts)).generate_state(1, np.uint64)[0])


class ShardedBatches(DistributedSampler):
    """Batches of indices, LongTensors [B], dealt out to every device of a run.

    It goes into `DataLoader(dataset, sampler=..., batch_size=None)`, whose dataset gathers a whole batch at once. As it
    is a DistributedSampler, Lightning leaves it alone.

    Training: the order is a function of the run's seed and the epoch. Each device takes its share of a whole global
    batch, so that any number of devices sees the same batches; shares differ by one sample where the devices do not
    divide the batch, and `TitansModule` weighs each device's loss by what it is the mean of. What does not fill a batch
    waits for another epoch's order; a set smaller than one batch is one batch.
    Evaluation: every sample exactly once, in contiguous shards, and every device gets the same number of batches.

    Args:
        dataset: anything with a length.
        batch_size: samples per step of the whole run, over all devices.
        training: shuffle and drop the incomplete batch.
        replicas: number of devices; by default, those of this run.
        rank: this device's place among them; by default, that of this process.

    Raises:
        UserError: a batch of nothing; fewer samples than devices, in the set or in a training batch.
    """

    def __init__(
        self, dataset: Sized, batch_size: int, training: bool, replicas: int | None = None, rank: int | None = None
    ) -> None:
        self.replicas = replicas or device_count()
        rank = device_rank() if rank is None else rank
        unread = cast(Dataset, dataset)  # PyTorch's sampler declares more than it uses, which is the length
        super().__init__(unread, num_replicas=self.replicas, rank=rank, shuffle=training)
        self.samples = len(dataset)
        if batch_size < 1:
            raise UserError(f"data.batch_size is {batch_size}; it must be at least 1")
        if self.samples < self.replicas:
            raise UserError(f"{self.samples} samples cannot be shared by {self.replicas} devices; use fewer devices")
        if training and batch_size < self.replicas:
            raise UserError(
                f"batch_size {batch_size} cannot be shared by {self.replicas} devices; raise it or use fewer devices"
            )
        self.batch_size = batch_size
        # Batches of the coming epoch that a resumed run has behind it.
        self.start = 0

    def __len__(self) -> int:
        if self.shuffle:
            return max(self.samples // self.batch_size, 1)
        share = max(self.batch_size // self.replicas, 1)
        largest = -(-self.samples // self.replicas)
        smallest = self.samples // self.replicas
        # No device may run out of batches before another.
        return min(-(-largest // share), smallest)

    def __iter__(self) -> Iterator[Any]:
        return self._training() if self.shuffle else self._evaluation()

    def own_rows(self, batch: Tensor) -> Tensor:
        """This device's rows of a global batch."""
        return batch.tensor_split(self.replicas)[self.rank]

    def _training(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(run_seed(self.epoch))
        order = torch.randperm(self.samples, generator=generator)
        first = self.start
        self.start = 0
        for batch in order.split(self.batch_size)[first : len(self)]:
            yield self.own_rows(batch)

    def _evaluation(self) -> Iterator[Any]:
        yield from self.own_rows(torch.arange(self.samples)).tensor_split(len(self))
