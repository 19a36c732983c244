"""The DataModule of genomics: your own labelled DNA, a named public set, or generated sequences."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from app.data import DomainData, ShardedBatches, run_seed
from app.sample import Source, refuse_or_announce
from data_prep.files import data_root
from data_prep.genomics import SETS, fetch, local_files
from domains.genomics.bases import LETTERS, Sequences
from domains.genomics.bed import forget_genome
from domains.genomics.floors import target_floors
from domains.genomics.names import alike
from domains.genomics.parts import PARTS, by_split, class_and_file, paths_of, read_all, set_of
from domains.genomics.published import published_scores
from domains.genomics.readers import Layout
from domains.genomics.records import Records, prepared
from domains.genomics.report import describe, floors, print_report
from domains.genomics.sample import sample_records
from domains.genomics.splits import Group, fold_of, hold_out
from domains.genomics.targets import UNNAMED, check_targets, class_counts, stratum, targets_of
from domains.genomics.tasks import TaskName

POOL = 50  # batches whose rows are sorted by length together


class Batch(NamedTuple):
    """Some sequences.

    Args:
        bases: codes uint8 [B, T], N behind the ends (or weights of the five letters, float [B, T, 5]).
        lengths: bases of each, int64 [B]; None where none ends before T.
        labels: class numbers, int64 [B], or labels or values, float [B, names]; None where they are unknown.
        ids: names [B]; None in training, where nobody reads them.
        whole: bases of each before it was cut, int64 [B]; None where `ids` is.
    """

    bases: Tensor
    lengths: Tensor | None
    labels: Tensor | None = None
    ids: list[str] | None = None
    whole: Tensor | None = None


class Part(Dataset):
    """Sequences and classes of one part; a batch is gathered at once.

    Args:
        sequences: N of them.
        labels: class numbers, int64 [N], or labels or values, float [N, names].
        ids: names [N], where batches shall hold them.
        whole: bases of each before it was cut, int64 [N], with the ids.
    """

    def __init__(
        self, sequences: Sequences, labels: Tensor, ids: np.ndarray | None = None, whole: Tensor | None = None
    ) -> None:
        self.sequences, self.labels, self.ids, self.whole = sequences, labels, ids, whole
        self.lengths = sequences.lengths

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Batch:
        """The sequences `index` [B] as one batch, as wide as the longest of them."""
        lengths = self.lengths[index]
        width = int(lengths.max())
        bases, padded = self.sequences.gather(index, width), int(lengths.min()) < width
        batch = Batch(bases, lengths if padded else None, self.labels[index])
        if self.ids is None:
            return batch
        return batch._replace(ids=self.ids[index.numpy()].tolist(), whole=self.whole[index])


class LengthBatches(ShardedBatches):
    """Batches of sequences of similar length, so that little is padding.

    Training: the epoch's order is cut into pools of 50 batches, each is sorted by length, and the batches come in
    random order. Evaluation: all rows, by length. Rows are dealt to the devices one by one, as sorted ones in a row
    would give the first device the shortest and the last the longest, for which all others would wait.
    """

    def own_rows(self, batch: Tensor) -> Tensor:
        """Every so many rows of a global batch, as there are devices."""
        return batch[self.rank :: self.replicas]

    def _training(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(run_seed(self.epoch))
        size = min(self.batch_size, self.samples)
        order = torch.randperm(self.samples, generator=generator)[: len(self) * size]
        lengths = self.dataset.lengths
        order = torch.cat([pool[lengths[pool].argsort(stable=True)] for pool in order.split(POOL * size)])
        batches = torch.randperm(len(self), generator=generator)
        first, self.start = self.start, 0
        for step in batches[first:].tolist():
            yield self.own_rows(order[step * size : (step + 1) * size])

    def _evaluation(self) -> Iterator[Tensor]:
        yield from self.own_rows(self.dataset.lengths.argsort(stable=True)).tensor_split(len(self))


class GenomicsData(DomainData):
    """Labelled DNA of any length, from 1 to a million bases.

    A file is csv, tsv or parquet with `sequence,label`, FASTA, FASTQ or GenBank (plain or packed), BED with a
    reference, or a folder with one file or folder per class; `layout` says where the class stands. `NAME=FILE` names
    the class of a whole file, so that train and test may have a file per class with any names. Letters are
    upper-cased, U is read as T and ambiguous letters as N. Classes are sorted by name. Where `val` is not given, it is
    carved from train, whole groups of overlapping sequences at a time.

    Args:
        set: named set, `gue/TASK` or a GenomicBenchmarks name, found in the data folder (TITANS_DATA or `data`) below
            genomics/.
        train: file or folder, or several; in place of `set`. A table may hold all parts in its split column.
        val: likewise; None carves it from train.
        test: likewise; None tests on val.
        layout: where files keep classes, groups and splits.
        source: `auto` takes the local set, else downloads it, else generates one; `file` and `sample` insist.
        batch_size: sequences per step, over all devices.
        max_length: longer sequences are cut to their first bases; None takes them whole.
        max_n: sequences with a larger share of N, in what is read of them, are dropped.
        val_share: part of train that becomes validation where there is none.
        group: `auto` finds overlapping sequences by long k-mers, or takes the group column; `none` splits by row.
        floors: fit the floors of the data report (majority, length, k-mers).
        seed: of the generated set and of the carving.
        task: `classes` (one of several), `labels` (columns `layout.label_cols` of 1 and 0, empty where unknown) or
            `values` (columns of numbers, empty where unknown).
        folds: cross-validation: train is parted into so many folds, of which one is tested on; 0 does not.
        fold: which one, from 0. `python -m app folds` asks for all.
    """

    def __init__(
        self,
        set: str | None = None,
        train: str | list[str] | None = None,
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        layout: Layout = Layout(),
        source: Source = "auto",
        batch_size: int = 64,
        max_length: int | None = None,
        max_n: float = 1.0,
        val_share: float = 0.1,
        group: Group = "auto",
        floors: bool = True,
        seed: int = 0,
        task: TaskName = "classes",
        folds: int = 0,
        fold: int = 0,
    ) -> None:
        super().__init__()
        if task == "classes" and layout.label_cols:
            raise ValueError("data.layout.label_cols are of several labels or values; set data.task to one of them")
        if task != "classes" and layout.negatives:
            raise ValueError(f"data.layout.negatives are a class; data.task is {task}: leave one of them out")
        if task != "classes" and train is None:
            raise ValueError(f"data.task is {task}, which is asked of your own files; give them in data.train")
        if source != "sample" and (set is None) == (train is None):
            raise ValueError("data: give either data.set or data.train (or data.source: sample)")
        if source == "sample" and (set is not None or train is not None):
            raise ValueError("data.source is sample, which reads no files; set data.source to auto or file")
        if train is None and (val is not None or test is not None):
            raise ValueError("data.val and data.test go with data.train; a set brings its own")
        if set is not None and set not in SETS:
            raise ValueError(f"data.set {set!r} is unknown; choose {', '.join(SETS)}, or give your files in data.train")
        if batch_size < 1 or (max_length is not None and max_length < 1):
            raise ValueError("data.batch_size and data.max_length must be at least 1")
        if not 0 < val_share < 1 or not 0 <= max_n <= 1:
            raise ValueError("data.val_share must lie between 0 and 1, data.max_n too (1 keeps everything)")
        if folds < 0 or folds == 1 or not 0 <= fold < max(folds, 1):
            raise ValueError("data.folds must be 0, or 2 or more, and data.fold lie between 0 and data.folds - 1")
        if folds and (train is None or test is not None):
            raise ValueError("data.folds part data.train, which must be given, and without data.test")
        if task != "classes" and not layout.label_cols:
            layout = replace(layout, label_cols=[layout.label_col])  # whose empty cells are unknown, not a fault
        self.folds, self.fold = folds, fold
        self.set, self.layout, self.source, self.batch_size = set, layout, source, batch_size
        self.files = {"train": train, "val": val, "test": test}
        self.max_length, self.max_n, self.val_share = max_length, max_n, val_share
        self.group, self.with_floors, self.seed, self.task = group, floors, seed, task
        self.failure = ""  # why a download did not work

    @property
    def name(self) -> str:
        """Of the set, or of the train file."""
        if self.source == "sample":
            return "sample"
        return self.set or class_and_file(paths_of(self.files["train"])[0])[1].name

    @cached_property
    def records(self) -> dict[str, Records]:
        """All that was read, by part; validation may still be in train."""
        if self.source == "sample":
            return by_split(sample_records(seed=self.seed))
        files = {part: paths_of(given) for part, given in self.files.items() if given}
        layout = self.layout
        if self.set is not None:
            files = self._fetched()
            if not files:
                return self._without_files()
            layout = Layout()  # every named set is kept as such a table
        read = {part: read_all(paths, layout, self.seed) for part, paths in files.items()}
        forget_genome()
        if self.folds and read["train"].splits is not None:
            raise ValueError(f"{read['train'].source}: is parted already; leave data.folds out, or its parts")
        if len(read) == 1 and read["train"].splits is not None:
            return by_split(read["train"])
        for part, records in read.items():
            if records.splits is not None and (other := sorted(set_of(records.splits) - {part})):
                raise ValueError(
                    f"{records.source}: is data.{part}, but its split column names rows of {other[0]}; give one table "
                    "with all parts as data.train, or drop the column"
                )
        return read

    def _fetched(self) -> dict[str, list[Path]]:
        """The files of the set, downloaded where they are not there; none where that fails.

        Not in `prepare_data`, as the number of classes is asked before it. The first process of a machine comes here
        before it starts the others.
        """
        if not (files := local_files(self.set)) and self.source == "auto":
            try:
                fetch(self.set, retries=1)
                files = local_files(self.set)
            except OSError as error:  # no network, or a data folder that cannot be written
                self.failure = str(error)
        return files

    def _without_files(self) -> dict[str, Records]:
        folder = data_root() / "genomics"
        missing = FileNotFoundError(
            f"{folder}: does not hold {self.set}; run `python -m data_prep genomics --set {self.set}` or point "
            "TITANS_DATA to the folder that holds genomics/"
        )
        why = f"is not in {folder} and could not be downloaded ({self.failure})"
        refuse_or_announce(self.source, self.set, why, missing)
        self.source = "sample"
        return by_split(sample_records(seed=self.seed))

    @cached_property
    def classes(self) -> list[str]:
        """Names of the train classes, sorted; of labels or values, their columns.

        Raises:
            ValueError: there is but one class.
        """
        if self.task != "classes":
            return list(self.layout.label_cols or [])
        train = self.records["train"]
        names = sorted(set_of(train.labels))
        if len(names) < 2:
            raise ValueError(
                f"{train.source}: all sequences are of class {names[0]!r}; a classifier needs at least two: give a "
                "file per class, [positive.fa,negative.fa], or set data.layout.label_from to header or table"
            )
        for group in alike(names):
            told = "differ only in blanks, case, or how a letter or number is written"
            rank_zero_warn(f"{train.source}: classes {', '.join(map(repr, group))} {told}")
        for name, rows in class_counts(train).items():
            if name.lower() in UNNAMED:
                rank_zero_warn(f"{train.source}: {rows:,} rows are of a class {name!r}; drop them if it means unknown")
        return names

    @property
    def input_size(self) -> int:
        """Letters: A, C, G, T, N."""
        return len(LETTERS)

    @property
    def output_size(self) -> int:
        """Number of classes, labels or values."""
        return len(self.classes)

    def setup(self, stage: str | None = None) -> None:
        """Clean, check and split what was read, and report on it."""
        if hasattr(self, "parts"):
            return
        names = self.classes  # the first thing to be wrong with a file is that it holds one class
        self.truncated = dict.fromkeys(self.records, 0)
        parts = {part: self._cleaned(part, records) for part, records in self.records.items()}
        self._check(parts)
        if self.folds:
            classes = stratum(targets_of(parts["train"], self.task, names))
            chosen = self.fold, self.folds, self.group, self.seed
            parts["train"], parts["test"] = fold_of(parts["train"], classes, *chosen)
        if "val" not in parts:
            classes = stratum(targets_of(parts["train"], self.task, names))
            parts["train"], parts["val"] = hold_out(parts["train"], classes, self.val_share, self.group, self.seed)
        self.tested = "test" in parts
        parts.setdefault("test", parts["val"])
        targets = {part: targets_of(parts[part], self.task, names) for part in PARTS}
        check_targets(parts, targets, names, self.task)
        self.parts = {part: Part(parts[part].sequences, targets[part]) for part in PARTS}
        test = parts["test"]
        whole = test.sequences.lengths if test.whole is None else torch.from_numpy(test.whole)
        self.asked = Part(test.sequences, self.parts["test"].labels, test.ids, whole)
        self.report = self._reported()
        if stage == "fit":
            rank_zero_only(print_report)(self.report, self.name)

    def _cleaned(self, part: str, records: Records) -> Records:
        """Cut to `max_length`, and without rows of too many N in what is left."""
        if text := str(records.repairs):
            rank_zero_warn(f"{records.source}: {text}")
        read, dropped = prepared(records, self.max_length, self.max_n)
        if len(dropped):
            rank_zero_warn(f"{records.source}: dropped {len(dropped)} sequences with more N than data.max_n")
        if not len(read):
            raise ValueError(f"{records.source}: every sequence holds more N than data.max_n; raise it")
        if read.whole is not None:
            self.truncated[part] = int((read.whole > read.sequences.lengths.numpy()).sum())
        return read

    def _check(self, parts: dict[str, Records]) -> None:
        """Refuse classes that cannot be learnt or are unknown."""
        if self.task != "classes":
            return
        names = self.classes  # of all that was read: one may have lost all its sequences since
        counts = class_counts(parts["train"])
        source = parts["train"].source
        name = min(names, key=counts.__getitem__)
        if counts[name] < 2:
            cure = "add some or drop the class"
            if re.fullmatch(r"-?\d*[.,]?\d+([eE][-+]?\d+)?", name) and len(names) > 10:
                cure = "if these are numbers to be predicted, set data.task to values"
            told = "one sequence" if counts[name] else "no sequence with so few N as data.max_n asks for"
            raise ValueError(f"{source}: class {name!r} has {told} in train; {cure}")
        for part, records in parts.items():
            if unknown := sorted(set_of(records.labels) - {*names}):
                raise ValueError(
                    f"{records.source}: class {unknown[0]!r} of {part} is missing in train "
                    f"({', '.join(map(str, names[:8]))}); add it to train or drop it from {part}"
                )

    def _reported(self) -> dict[str, Any]:
        parts = {name: (part.sequences, part.labels.numpy()) for name, part in self.parts.items()}
        report = describe(parts, self.classes) | {"truncated": self.truncated}
        if self.with_floors:
            found = floors if self.task == "classes" else target_floors
            report["floors"] = found(parts["train"], parts["val"], parts["test"], self.seed)
            report["floors_on"] = "test" if self.tested else "val"
        return report

    def _loader(self, data: Part, training: bool = False) -> DataLoader:
        return DataLoader(
            data,
            sampler=LengthBatches(data, self.batch_size, training),
            batch_size=None,
            pin_memory=torch.cuda.is_available(),
        )

    def train_dataloader(self) -> DataLoader:
        """Train sequences in batches of similar length, shuffled anew each epoch."""
        return self._loader(self.parts["train"], training=True)

    def val_dataloader(self) -> DataLoader:
        """Every validation sequence, by length."""
        return self._loader(self.parts["val"])

    def test_dataloader(self) -> DataLoader:
        """Every test sequence, by length."""
        return self._loader(self.parts["test"])

    def predict_dataloader(self) -> DataLoader:
        """The test sequences; for a file without classes: `python -m app predict --input FILE`."""
        return self._loader(self.asked)

    def provenance(self) -> dict[str, object]:
        """Name (`sample` if generated), what was read, and the data report; to be asked after `setup`."""
        return {
            "data": self.name,
            "sha256": self._checksum(),
            "sources": {part: records.source for part, records in self.records.items()},
            "report": self.report,
        }

    def _checksum(self) -> str:
        """Of the sequences and classes of all parts, as they are used."""
        found = hashlib.sha256()
        for part in self.parts.values():
            for values in (part.sequences.codes, part.sequences.offsets, part.labels):
                found.update(values.numpy().tobytes())
        return found.hexdigest()

    def published(self) -> dict[str, dict[str, float]]:
        """Published scores on the same test part; none for files of your own."""
        return published_scores(self.name)
