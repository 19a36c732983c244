"""The DataModule of pretraining: DNA without classes, as windows to predict the next base of."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from app.results import print_scores
from app.tokens import IGNORE, TokenBatch, Tokens, loader
from app.windows import Step, StreamBatches, WindowedData, Windows
from domains.genomics.bases import LETTERS, N, Repairs, Sequences, joined, reverse_complement
from domains.genomics.markov import markov_floors
from domains.genomics.readers import Layout, read_records
from domains.genomics.records import Records, records_of
from domains.genomics.sample import sample_genome
from domains.genomics.sniff import inspect
from domains.genomics.stream import stream_records

PIECE = 1 << 24  # bases that are read at a time
PARTS = ("train", "val", "test")
Files = str | list[str] | None


class BaseWindows(Windows):
    """Windows of bases, each within one stretch; N is read but never asked for.

    Args:
        tokens: the bases, as `tokens_of` lays them out.
        length: bases of a window.
        strands: 2 reads windows from the other strand too: half of them in one epoch, the other half in the next.
        training: whether it is trained on.
    """

    def __init__(self, tokens: Tokens, length: int, strands: int, training: bool) -> None:
        super().__init__(tokens, length, 1, True, training)
        self.strands = strands

    def __getitem__(self, index: Step | Tensor) -> TokenBatch:
        """The windows of a training step, or windows [B] in evaluation, which reads the files' own strand."""
        batch = super().__getitem__(index)
        if self.strands == 2 and isinstance(index, Step):
            other = (index.rows + index.epoch) % 2 == 1
            batch.inputs, batch.targets = other_strand(batch.inputs, batch.targets, other)
        batch.targets = batch.targets.masked_fill(batch.targets == N, IGNORE)
        return batch


def other_strand(inputs: Tensor, targets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets [B, T] with those `rows` [B] that are True read from the other strand."""
    asked = targets != IGNORE
    bases = torch.cat([inputs[:, :1], targets.masked_fill(~asked, N)], 1)
    other = reverse_complement(bases, 1 + asked.sum(1))  # within a row's own bases
    inputs = torch.where(rows[:, None], other[:, :-1], inputs)
    return inputs, torch.where(rows[:, None], other[:, 1:].masked_fill(~asked, IGNORE), targets)


def tokens_of(stretches: Sequences, name: str) -> Tokens:
    """Stretches one after another, an N before each and behind the last: a first base is asked for too, on either
    strand.
    """
    offsets, codes = stretches.offsets.numpy(), stretches.codes.numpy()
    starts = offsets[:-1] + np.arange(len(stretches))
    return Tokens(np.insert(codes, offsets, N), starts, len(LETTERS), name)


def bases_in(tokens: Tokens) -> int:
    """Bases of a part, without the N around its stretches."""
    return len(tokens.ids) - len(tokens.starts) - 1


def split_at_n(sequences: Sequences, longest: int) -> Sequences:
    """The stretches of sequences between runs of more than `longest` N, without those runs and without stretches that
    hold nothing but N.
    """
    codes, offsets = sequences.codes.numpy(), sequences.offsets.numpy()
    unknown = codes == N
    edges = np.union1d(np.flatnonzero(np.diff(unknown)) + 1, offsets)  # of runs of N and of known bases
    long = np.flatnonzero(unknown[edges[:-1]] & (np.diff(edges) > longest))
    cuts = np.union1d(offsets, edges[np.concatenate([long, long + 1])])
    found = Sequences(sequences.codes, torch.from_numpy(cuts))
    return found.select((found.unknown() < found.lengths).nonzero().flatten())


def held_out(stretches: Sequences, share: float, seed: int) -> tuple[Sequences, Sequences]:
    """Stretches in random order without their last bases, and these, `share` of all; one stretch may be cut in two."""
    order = torch.randperm(len(stretches), generator=torch.Generator().manual_seed(seed))
    codes, offsets = (mixed := stretches.select(order)).codes, mixed.offsets
    cut = len(codes) - round(share * len(codes))
    edge = torch.tensor([cut])
    train = Sequences(codes[:cut], torch.cat([offsets[offsets < cut], edge]))
    return train, Sequences(codes[cut:], torch.cat([edge, offsets[offsets > cut]]) - cut)


class GenomeData(WindowedData):
    """DNA to pretrain on: genomes, or the sequences of a task without their classes.

    Files are FASTA, FASTQ, GenBank or tables with a `sequence` column, plain or packed; of a table with a split column
    the rows of the part. Letters are read as the classifier reads them: upper-cased, U as T, ambiguous letters as N. A
    record is a document: no window reaches into another. Long runs of N end a document too, and are dropped; other N
    are read, and never asked for.

    Args:
        train: file or folder, or several; not with `source: sample`.
        val: likewise; None holds out `val_share` of train.
        test: likewise; None tests on val.
        source: `file`, or `sample` for generated records.
        length: bases of a window.
        batch_size: windows per step, over all devices.
        eval_length: bases of an evaluation window; by default `length`.
        reverse_complement: `augment` trains on both strands of every window, one an epoch; `none` on the files' own.
        max_n_run: runs of more N than this are dropped.
        val_share: bases of train that become validation where there is none.
        seed: of the generated records and of what is held out.
    """

    def __init__(
        self,
        train: Files = None,
        val: Files = None,
        test: Files = None,
        source: Literal["file", "sample"] = "file",
        length: int = 1024,
        batch_size: int = 32,
        eval_length: int | None = None,
        reverse_complement: Literal["none", "augment"] = "augment",
        max_n_run: int = 16,
        val_share: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if source == "sample" and (train or val or test):
            raise ValueError("data.source is sample, which reads no files; set data.source to file")
        if source == "file" and not train:
            raise ValueError("data: give files in data.train (or data.source: sample)")
        if min(length, batch_size, 1 if eval_length is None else eval_length) < 1 or max_n_run < 0:
            raise ValueError("data.length, batch_size and eval_length must be at least 1, max_n_run 0")
        if not 0 < val_share < 1:
            raise ValueError("data.val_share must lie between 0 and 1")
        self.files = {part: [files] if isinstance(files, str) else files
                      for part, files in zip(PARTS, (train, val, test), strict=True)}  # fmt: skip
        self.source, self.length, self.batch_size, self.seed = source, length, batch_size, seed
        self.eval_length = length if eval_length is None else eval_length
        self.strands = 2 if reverse_complement == "augment" else 1
        self.max_n_run, self.val_share = max_n_run, val_share

    @property
    def input_size(self) -> int:
        """Letters: A, C, G, T, N."""
        return len(LETTERS)

    @property
    def name(self) -> str:
        """Of the first train file, or `sample`."""
        return "sample" if self.source == "sample" else Path(self.files["train"][0]).name

    def setup(self, stage: str | None = None) -> None:
        """Read the files, cut them into windows, and say what they hold."""
        if hasattr(self, "windows"):
            return
        self.holds: dict[str, dict[str, int | str]] = {}
        given = [part for part in PARTS if self.files[part] or (part == "train" and self.source == "sample")]
        stretches = {part: self._read(part) for part in given}
        if "val" not in stretches:
            stretches["train"], stretches["val"] = held_out(stretches["train"], self.val_share, self.seed)
            if not all(len(stretches[part].codes) for part in ("train", "val")):
                raise ValueError(f"{self.name}: too few bases to hold some out; give data.val")
        self.test_part = "test" if "test" in stretches else "val"
        self.tokens = {part: tokens_of(found, f"{part} of {self.name}") for part, found in stretches.items()}
        self.windows = {
            part: BaseWindows(tokens, self.length, self.strands, True)
            if part == "train"
            else BaseWindows(tokens, self.eval_length, 1, False)
            for part, tokens in self.tokens.items()
        }
        if stage == "fit":
            rank_zero_only(self._report)()

    def _read(self, part: str) -> Sequences:
        """The stretches of a part's files, and a note of what was read."""
        found, repairs, records, bases = [], Repairs(), 0, 0
        for some in self._records(part):
            found.append(split_at_n(some.sequences, self.max_n_run))
            repairs.add(some.repairs)
            records, bases = records + len(some), bases + len(some.sequences.codes)
        stretches = joined(found)
        if not len(stretches):
            names = ", ".join(Path(file).name for file in self.files[part])
            raise ValueError(f"data.{part} {names}: holds no base but N; give other sequences")
        kept = int(stretches.unknown().sum())
        self.holds[part] = {
            "records": records,
            "bases": bases,
            "stretches": len(stretches),
            "n_dropped": bases - len(stretches.codes),
            "n_not_predicted": kept,
            "repairs": str(repairs),
        }
        return stretches

    def _records(self, part: str) -> Iterator[Records]:
        if self.source == "sample":
            texts = list(sample_genome(seed=self.seed))
            yield records_of(Path("sample"), texts, np.arange(len(texts)).astype(str).astype(object), None)
            return
        for path in map(Path, self.files[part]):
            kind = inspect(path).kind if path.is_file() else "folder"
            if kind == "bed":
                cure = "give the genome, or sequences cut from it, for example with bedtools getfasta"
                raise ValueError(f"{path}: looks like a bed file, where sequences are wanted; {cure}")
            if kind in ("table", "parquet"):
                yield _rows_of(part, read_records(path, labelled=False))
            else:
                yield from stream_records(path, Layout(), PIECE)

    def _report(self) -> None:
        for part, holds in self.holds.items():
            print(
                f"{part}: {holds['records']:,} records of {holds['bases']:,} bases, read as {holds['stretches']:,} "
                f"stretches; {holds['n_dropped']:,} N dropped, {holds['n_not_predicted']:,} N read but not predicted"
                + (f"; {holds['repairs']}" if holds["repairs"] else "")
            )
        print_scores("floors on val", self.floors("val"))

    def floors(self, part: str) -> dict[str, dict[str, float]]:
        """What Markov chains counted on train score on a part."""
        return markov_floors(self.tokens["train"].ids, self.tokens[part].ids)

    def train_dataloader(self) -> DataLoader:
        """Windows in an order that differs from epoch to epoch."""
        windows = self.windows["train"]
        return loader(windows, StreamBatches(windows, self.batch_size))

    def provenance(self) -> dict[str, object]:
        """Name (`sample` if generated), what was read, how it is evaluated, and the floors there; after `setup`."""
        return {
            "data": self.name,
            "sha256": self.tokens[self.test_part].checksum,  # of the bases that are scored
            "sources": {part: files for part, files in self.files.items() if files},
            "holds": self.holds,
            **{f"{part}_bases": bases_in(tokens) for part, tokens in self.tokens.items()},
            "test_part": self.test_part,
            "evaluation": f"windows of {self.eval_length} within a stretch, no overlap, fresh state",
            "floors": self.test_floors,
        }

    @cached_property
    def test_floors(self) -> dict[str, dict[str, float]]:
        """The floors of the part that `test` reads."""
        return self.floors(self.test_part)


def _rows_of(part: str, records: Records) -> Records:
    """The rows of a table that are of a part: all, unless its split column tells."""
    if records.splits is None:
        return records
    rows = np.flatnonzero(records.splits == part)
    if not len(rows):
        raise ValueError(f"{records.source}: is data.{part}, but its split column names no {part} row; drop the column")
    return records.select(rows)
