"""The DataModule of tasks that ask for something far back: RULER's needles and BABILong, made up while training."""

from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, Dataset

from app.data import DomainData, ShardedBatches, run_seed
from app.errors import user_errors
from app.tokens import IGNORE, loader
from app.windows import Step, StreamBatches
from data_prep.index import INDEX
from data_prep.text import default_folder
from data_prep.tokenizer import end_id, load, sha256, size
from domains.text.babilong import LABELS, SHORTEST, BabiTask, stories
from domains.text.batch import TextBatch
from domains.text.haystack import Haystack
from domains.text.needle import TASKS, NeedleTraining
from domains.text.tokens import read_tokenizer

WORKERS = 4  # processes that make samples for one GPU: a hundred take 15 to 40 ms
MOST_CUTS = 256  # most short samples that take a row's place during a length warm-up
HELD_OUT = 1 << 40  # the numbers of validation samples begin here, far beyond those of training samples


class Samples(Dataset):
    """Samples that are a function of the run's seed and their number; short ones are filled up behind.

    Args:
        makers: one for each task; samples take turns.
        length: tokens of a row.
        count: samples of an epoch.
        end: id that fills rows up.
        everything: score every token in place of the answers only.
        offset: added to the number of a sample.
    """

    slack = 0  # `StreamBatches` reads this and `counts`, which windows have

    def __init__(self, makers: list, length: int, count: int, end: int, everything: bool, offset: int = 0) -> None:
        self.makers = makers
        self.length = length
        self.count = count
        self.end = end
        self.everything = everything
        self.offset = offset
        self.counts = np.ones(count, np.int64)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Step | torch.Tensor) -> TextBatch:
        """The samples of a training step, `cuts` shorter ones for each row, or those of an evaluation batch."""
        step = index if isinstance(index, Step) else Step(index)
        length = self.length // step.cuts
        ids = np.full((len(step.rows) * step.cuts, length + 1), self.end, np.int64)
        targets = np.full((len(ids), length), IGNORE, np.int64)
        for row in range(len(ids)):
            whole = int(step.rows[row // step.cuts])
            cut = row % step.cuts
            generator = np.random.default_rng(run_seed(self.offset + whole * MOST_CUTS + cut, step.epoch))
            sample, scored = self.makers[(whole + cut) % len(self.makers)].sample(length, generator)
            ids[row, : len(sample)] = sample
            learned = scored[1:] | self.everything
            targets[row, : len(sample) - 1][learned] = sample[1:][learned]
        few = None if self.everything else torch.from_numpy((targets != IGNORE).ravel().nonzero()[0])
        return TextBatch(torch.from_numpy(ids[:, :-1]).contiguous(), torch.from_numpy(targets), exact=True, scored=few)


class TaskData(DomainData):
    """Needles in a haystack or questions about facts, made anew for every step; what is scored are the answers.

    Args:
        tasks: niah_single_1, niah_single_2, niah_single_3, qa1, qa2, qa4, qa5; several take turns.
        tokenizer: what `TextData` takes but for bpe-N; or the tokenizer.json of prepared tokens.
        corpus: what needles and facts are hidden in: `train` for training, `val` for validation.
        length: tokens of a sample.
        batch_size: samples per step, over all devices together.
        length_warmup: steps in which samples grow to `length` by doubling, at equal tokens per step; 0 for none.
        shortest: tokens that they grow from.
        needles: needles in a context (niah).
        everything: learn every token, not only the answers.
        samples: samples of an epoch.
        val_samples: held out for validation and test.
        haystack: millions of characters of the corpus that are used.
    """

    def __init__(
        self,
        tasks: list[str],
        tokenizer: str = "gpt2",
        corpus: str = "books",
        length: int = 4096,
        batch_size: int = 16,
        length_warmup: int = 0,
        shortest: int = 512,
        needles: int = 1,
        everything: bool = False,
        samples: int = 100_000,
        val_samples: int = 64,
        haystack: float = 16.0,
    ) -> None:
        super().__init__()
        unknown = [task for task in tasks if task not in TASKS and task not in LABELS]
        if unknown or not tasks:
            raise ValueError(f"data.tasks {unknown} unknown; choose from {', '.join([*TASKS, *LABELS])}")
        if min(length, batch_size, needles, samples, val_samples) < 1 or length_warmup < 0:
            raise ValueError("data.length, batch_size, needles, samples and val_samples must be at least 1")
        if length_warmup and (length not in [shortest << i for i in range(MOST_CUTS.bit_length())]):
            raise ValueError(
                f"data.length {length} must be data.shortest {shortest} doubled a few times, for a length_warmup"
            )
        self.tasks = tasks
        self.tokenizer_name = tokenizer
        self.corpus = corpus
        self.length = length
        self.batch_size = batch_size
        self.length_warmup = length_warmup
        self.shortest = shortest
        self.needles = needles
        self.everything = everything
        self.samples = samples
        self.val_samples = val_samples
        self.characters = int(haystack * 1e6)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of prepared tokens of the same corpus where there are some, else the one that is named."""
        with user_errors():
            folder = default_folder(self.corpus, self.tokenizer_name)
            if (folder / INDEX).is_file():
                return read_tokenizer(folder)
            return load(self.tokenizer_name)

    @property
    def output_size(self) -> int:
        """Tokens of the vocabulary."""
        return size(self.tokenizer)

    def prepare_data(self) -> None:
        """Tokenize the haystacks, for all processes to read (Lightning calls this in one process of a machine)."""
        for task, part in product(self.tasks, ("train", "val")):
            if haystack := self._haystack(task, part):
                haystack.ids  # noqa: B018

    def setup(self, stage: str | None = None) -> None:
        """Read the stories; haystacks are read when the first sample is made."""
        end = end_id(self.tokenizer)
        self.parts = {
            "train": Samples(self._makers("train"), self.length, self.samples, end, self.everything),
            "val": Samples(self._makers("val"), self.length, self.val_samples, end, False, HELD_OUT),
        }

    def _haystack(self, task: str, part: str) -> Haystack | None:
        """What a task hides its needles or facts in; None for the sentences that RULER repeats."""
        if task in LABELS:
            return Haystack(self.corpus, part, self.tokenizer, self.characters, SHORTEST, collapse=False)
        return Haystack(self.corpus, part, self.tokenizer, self.characters) if TASKS[task][0] == "essay" else None

    def _makers(self, part: str) -> list[NeedleTraining | BabiTask]:
        makers: list[NeedleTraining | BabiTask] = []
        for task in self.tasks:
            haystack = self._haystack(task, part)
            if task in TASKS:
                makers.append(NeedleTraining(task, self.tokenizer, haystack, self.needles))
            else:
                questions = stories(task, "train")
                held_out = len(questions) // 10  # bAbI's test questions are for the benchmark alone
                questions = questions[:-held_out] if part == "train" else questions[-held_out:]
                makers.append(BabiTask(task, self.tokenizer, haystack, questions))
        return makers

    def train_dataloader(self) -> DataLoader:
        """Samples that no other step sees, made beside a GPU's work."""
        samples = self.parts["train"]
        workers = WORKERS if torch.cuda.is_available() else 0
        doublings = (self.length // self.shortest).bit_length() - 1
        return loader(samples, StreamBatches(samples, self.batch_size, self.length_warmup, doublings), workers)

    def val_dataloader(self) -> DataLoader:
        """The held-out samples."""
        samples = self.parts["val"]
        return loader(samples, ShardedBatches(samples, self.batch_size, False))

    test_dataloader = val_dataloader

    def provenance(self) -> dict[str, object]:
        """Tasks, corpus and tokenizer."""
        return {
            "data": "+".join(self.tasks),
            "sha256": None,
            "haystack": Path(self.corpus).name,
            "tokenizer": self.tokenizer_name,
            "tokenizer_sha256": sha256(self.tokenizer),
            "length": self.length,
            "val_samples": self.val_samples,
        }
