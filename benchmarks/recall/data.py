"""The DataModule of recall: every part is drawn from a seed, the same one on every device."""

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from app.data import DomainData, ShardedBatches, run_seed
from app.errors import UserError
from benchmarks.recall.tasks import TASKS, Examples

SEEDS = {"train": 1, "test": 10_000, "val": 30_000}  # of a part, to which the data's own is added
ROWS = 250  # sequences of an evaluated batch
Step = tuple[str, Tensor]  # a set, and rows of it


@lru_cache(4)  # runs of one seed in one process share them
def examples(task: str, part: str, seed: int) -> dict[str, Examples]:
    """The sets of one part of a task, by name; validation is drawn as test is, and from other seeds."""
    made = TASKS[task].train if part == "train" else TASKS[task].test
    return {name: make(rows, Generator().manual_seed(SEEDS[part] + seed)) for name, (make, rows) in made.items()}


class Sets(Dataset):
    """Sets of sequences, each of one length; a batch is gathered at once, and is of one set.

    Args:
        sets: by name.
    """

    def __init__(self, sets: dict[str, Examples]) -> None:
        self.sets = sets

    def __len__(self) -> int:
        return sum(len(one.inputs) for one in self.sets.values())

    def __getitem__(self, step: Step) -> Examples:
        name, rows = step
        return Examples(*(values[rows] for values in self.sets[name]))


class SetBatches(ShardedBatches):
    """Batches of one set each: all sets mixed and shuffled in training, one after another in evaluation."""

    def __init__(self, data: Sets, batch_size: int, training: bool) -> None:
        super().__init__(data, batch_size, training)
        self.sets = data.sets

    def __len__(self) -> int:
        sizes = [len(one.inputs) for one in self.sets.values()]
        return sum(size // self.batch_size if self.shuffle else -(-size // ROWS) for size in sizes)

    def _training(self) -> Iterator[Step]:
        generator = Generator().manual_seed(run_seed(self.epoch))
        steps: list[Step] = []
        for name, one in self.sets.items():
            order = torch.randperm(len(one.inputs), generator=generator)
            steps += [(name, rows) for rows in order.split(self.batch_size) if len(rows) == self.batch_size]
        first = self.start
        self.start = 0
        for number in torch.randperm(len(steps), generator=generator)[first:].tolist():
            name, rows = steps[number]
            yield name, self.own_rows(rows)

    def _evaluation(self) -> Iterator[Step]:
        for name, one in self.sets.items():
            for rows in torch.arange(len(one.inputs)).split(ROWS):
                yield name, self.own_rows(rows)


class RecallData(DomainData):
    """Sequences that show pairs of symbols and then ask for some, drawn anew for every seed.

    Args:
        task: `mqar`, `rewritten` or `aftermath`, see benchmarks/recall/tasks.py.
        batch_size: sequences per step, over all devices.
        seed: of all sequences.
    """

    def __init__(self, task: str = "mqar", batch_size: int = 256, seed: int = 0) -> None:
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"data.task is {task}; choose {', '.join(TASKS)}")
        self.task = task
        self.batch_size = batch_size
        self.seed = seed

    @property
    def input_size(self) -> int:
        """Symbols."""
        return TASKS[self.task].symbols

    @property
    def output_size(self) -> int:
        """Classes of an answer."""
        return TASKS[self.task].classes

    def setup(self, stage: str | None = None) -> None:
        """Refuse a batch that no set fills."""
        smallest = min(rows for _, rows in TASKS[self.task].train.values())
        if self.batch_size > smallest:
            raise UserError(f"data.batch_size is {self.batch_size}; a set of {self.task} has {smallest} sequences")

    def _loader(self, part: str) -> DataLoader:
        data = Sets(examples(self.task, part, self.seed))
        sampler = SetBatches(data, self.batch_size, part == "train")
        return DataLoader(data, sampler=sampler, batch_size=None, pin_memory=torch.cuda.is_available())

    def train_dataloader(self) -> DataLoader:
        """All training sets."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        """Sequences like those of test."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """The test sets."""
        return self._loader("test")

    predict_dataloader = test_dataloader

    def provenance(self) -> dict[str, object]:
        """Task, seed, a checksum of the test sets, and how many sequences each set has."""
        tested = examples(self.task, "test", self.seed)
        found = hashlib.sha256()
        for one in tested.values():
            for values in one:
                found.update(values.numpy().tobytes())
        sizes = {
            part: {name: rows for name, (_, rows) in sets.items()}
            for part, sets in (("train", TASKS[self.task].train), ("test", TASKS[self.task].test))
        }
        return {"data": self.task, "seed": self.seed, "sha256": found.hexdigest(), **sizes}
