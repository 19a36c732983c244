"""A long row of tokens, whatever they stand for, and batches of them with what follows each."""

import hashlib
import os
import weakref
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from app.errors import UserError

IGNORE = -100  # a target that no loss counts


@dataclass
class TokenBatch:
    """Tokens and what follows each of them.

    What fills up a short row stands behind it, where no causal model lets it change anything, so there is no mask.

    Args:
        inputs: ids, [B, T] int64.
        targets: the id after each, [B, T] int64; IGNORE where none is scored.
        fresh: True where a row begins with a fresh state, [B] bool, while the others go on from where the rows at their
            places stopped `lag` batches before; None where every row begins and no batch goes on from this one.
        lag: how many batches before.
        starts: place of each row's first token in its bin, [B] int64; None where the rows come from no bin.
    """

    inputs: Tensor
    targets: Tensor
    fresh: Tensor | None = None
    lag: int = 1
    starts: Tensor | None = None

    @property
    def carry(self) -> tuple[Tensor, int] | None:
        """`fresh` and `lag`; None where no state is carried."""
        return None if self.fresh is None else (self.fresh, self.lag)

    def pin_memory(self) -> Self:
        """The batch in page-locked memory, from which a copy to the GPU does not hold the host up."""
        tensors = {name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


def loader(dataset: Dataset, sampler: Sampler, workers: int = 0) -> DataLoader:
    """A loader of whole batches: one indexing operation gathers each, in this process unless there are workers."""
    apart: dict[str, Any] = {}
    if workers:
        apart = {"multiprocessing_context": "spawn", "persistent_workers": True, "worker_init_fn": _alone}
    pin = torch.cuda.is_available()
    return DataLoader(dataset, sampler=sampler, batch_size=None, pin_memory=pin, num_workers=workers, **apart)


def _alone(_: int) -> None:
    """In a worker: a tokenizer that starts a thread on every core waits for the other workers'."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


class Bin:
    """Token ids in a file, of which only what is asked for is read.

    The file is never mapped into memory: one that is cut while a run reads it would end the process with SIGBUS and
    without a word. The open file stays the same when another takes its name.

    Args:
        path: ids one after another.
        dtype: type of an id in the file.
    """

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self.file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.file)
        self.size = os.fstat(self.file).st_size // self.dtype.itemsize

    def __reduce__(self) -> tuple[type, tuple[Path, np.dtype]]:
        """An open file cannot go to another process."""
        return Bin, (self.path, self.dtype)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """Ids at `places` [..., T]; the stretch that each row spans is read at once.

        Raises:
            UserError: the file has become shorter.
        """
        rows = places.reshape(-1, places.shape[-1])
        first = rows.min(1)
        counts = rows.max(1) + 1 - first
        within = rows - first[:, None]
        stretches = map(self._stretch, first.tolist(), counts.tolist())
        ids = [stretch[wanted] for stretch, wanted in zip(stretches, within, strict=True)]
        return np.stack(ids).reshape(places.shape)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.fromfile(self.path, self.dtype, self.size).astype(dtype or self.dtype, copy=False)

    def _stretch(self, first: int, count: int) -> np.ndarray:
        size = self.dtype.itemsize
        content = os.pread(self.file, count * size, first * size)
        if len(content) < count * size:
            raise UserError(f"{self.path}: it was cut while it was read; prepare the corpus again")
        return np.frombuffer(content, self.dtype)


@dataclass
class Tokens:
    """One part of what is read as one long row of tokens.

    Args:
        ids: token ids, [N], in a file or in memory.
        starts: where documents start, [documents]; the end-of-text token stands there.
        vocabulary: ids are below it.
        name: the file, for messages.
        sha256: checksum of the ids as the file holds them; empty where they come from no file.
    """

    ids: np.ndarray | Bin
    starts: np.ndarray
    vocabulary: int
    name: str
    sha256: str = ""

    def read(self, places: np.ndarray) -> np.ndarray:
        """Ids at `places`, as int64.

        Raises:
            UserError: one of them is outside the vocabulary.
        """
        ids = self.ids[places].astype(np.int64)
        if ids.max(initial=0) >= self.vocabulary:
            at = places[ids >= self.vocabulary][0]
            token = ids[ids >= self.vocabulary][0]
            raise UserError(
                f"{self.name}: token {token} at place {at} is outside the vocabulary of {self.vocabulary}; "
                "the file is damaged or of another tokenizer: prepare it again"
            )
        return ids

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of all ids: that of their file, or of what is in memory."""
        return self.sha256 or hashlib.sha256(np.asarray(self.ids).data).hexdigest()
