"""Sequences in, answers out, one batch at a time: files of any length, and sequences of any length in pieces."""

import resource
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from app.devices import keep_freed_memory
from app.module import TitansModule
from domains.genomics.bases import N, Sequences, reverse_complement
from domains.genomics.bed import read_bed
from domains.genomics.columns import bare, column_if_any, letters_of
from domains.genomics.data import Batch
from domains.genomics.files import parse, tables
from domains.genomics.names import id_of, numbered
from domains.genomics.pooling import Pooled, Pooling
from domains.genomics.readers import Layout
from domains.genomics.records import Passed, Records, n_fraction, records_of
from domains.genomics.sniff import files_in, inspect

ROWS = 1000  # rows of a table that are read at a time
ROWS_AT_ONCE = 32  # readings of sequences that go side by side on a processor
TOKENS_AT_ONCE = 8192  # tokens of all of them that pass through its backbone together; more do not stay in its cache
PIECES = {"cpu": 8192, "cuda": 262144}  # bases at a time
Part = Callable[[int, int], tuple[Tensor, Tensor | None]]  # tokens from one to another of all readings, and their mask
PROBE = 2048  # bases that a processor's memory is measured with


def stream_records(path: Path, layout: Layout, bases: int, passed: Passed | None = None) -> Iterator[Records]:
    """The sequences of a file in its order, so many together that they fill a batch of about `bases` bases.

    Args:
        path: a file of any kind, or a folder.
        layout: where a table keeps what, and what a BED file refers to.
        bases: of a batch.
        passed: counts the bad sequences, which are left out, and a name that stood before gets a number; None refuses
            both. A record without a name is called by its place, `record 3`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, empty or no DNA.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check the path")
    seen: Counter[str] = Counter()
    ids: list[str] = []
    texts: list[bytes] = []
    longest = 0
    for number, (name, text) in enumerate(_pairs(path, layout, passed), 1):
        name = name or f"record {number}"
        if name in seen and passed is None:
            raise ValueError(f"{path}: two sequences are called {name!r}; every id must stand once: rename one")
        if ids and (len(ids) + 1) * max(longest, len(text)) > bases:
            yield records_of(path, texts, np.array(ids, dtype=object), None, passed)
            ids, texts, longest = [], [], 0
        ids.append(numbered(name, seen))
        texts.append(text)
        longest = max(longest, len(text))
    if not ids:
        raise ValueError(f"{path}: holds no sequence; check that it is the right file and not empty")
    yield records_of(path, texts, np.array(ids, dtype=object), None, passed)


def _pairs(path: Path, layout: Layout, passed: Passed | None = None) -> Iterator[tuple[str, bytes]]:
    """Id and letters of each sequence; `passed` counts intervals that do not fit their genome, None refuses them."""
    kind = "folder" if path.is_dir() else inspect(path).kind
    if kind == "folder":
        for file in files_in(path):
            yield from ((f"{file.relative_to(path)}:{name}", text) for name, text in _pairs(file, layout, passed))
    elif kind == "bed":
        found = read_bed(path, layout.reference, layout.width, layout.centre, passed)
        yield from zip(found.ids(), found.texts, strict=True)
    elif kind in ("table", "parquet"):
        number = 0
        named = False
        for table in tables(path, ROWS):
            texts = letters_of(path, table, layout.sequence_col)
            if not number:  # what warns is asked of the first rows alone
                named = column_if_any(path, table, layout.id_col, "id_col") is not None
            names = bare(table[layout.id_col]) if named else [f"row{number + i}" for i in range(len(table))]
            number += len(table)
            yield from zip(names, texts, strict=True)
    else:
        for header, letters in parse(path):
            yield id_of(header), letters.encode("ascii", "replace")


def bases_of(path: Path, layout: Layout, longest: int | None) -> int | None:
    """Bases that will be read of a file, each sequence up to `longest`; None where counting would take long (a genome
    that intervals are cut from) or finds a damaged file, which is told of when it is reached.
    """
    if path.is_dir() or inspect(path).kind == "bed":
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come again when the file is read
            return sum(min(len(text), longest or len(text)) for _, text in _pairs(path, layout))
    except ValueError:
        return None


class Reader:
    """A trained model that reads sequences of any length.

    A sequence of more than `piece` bases is read in pieces, its state carried from one to the next, which gives the
    same answer and takes memory for one piece (but the `attention` backbone keeps keys and values of all bases).

    Args:
        module: the model; put into evaluation mode.
        device: where it runs.
        piece: bases of a batch, and of a piece.
        tick: called with a number of bases whenever so many more have been read.
    """

    def __init__(
        self, module: TitansModule, device: torch.device, piece: int, tick: Callable[[int], None] = lambda bases: None
    ) -> None:
        self.module, self.device, self.tick = module.eval().to(device), device, tick
        self.head, self.backbone = module.head, module.backbone
        self.tokens = max(piece // self.head.stem.stride, 1)  # of a piece
        self.mean = Pooling(module.backbone.config.dim, "mean", 1).to(device)
        self.rows = None
        if device.type == "cpu":
            # the memory's weights of more rows do not stay in a processor's cache from one chunk to the next
            self.rows = max(ROWS_AT_ONCE // cast(int, self.head.passes), 1)
            keep_freed_memory()

    @torch.inference_mode()
    def read(self, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """Log-probabilities [B, classes], and embeddings [B, readings * dim]: means of the hidden states."""
        lengths = sequences.lengths
        if len(lengths) == 1 and self.head.stem.tokens(lengths).item() > self.tokens:
            return self._answer(*self._in_pieces(sequences[0][None]))
        order = lengths.argsort()  # rows of like length together: little is padding
        found = [self._at_once(sequences, rows) for rows in order.split(self.rows or len(order))]
        back = order.argsort().to(self.device)
        return tuple(torch.cat(part)[back] for part in zip(*found, strict=True))

    def _at_once(self, sequences: Sequences, rows: Tensor) -> tuple[Tensor, Tensor]:
        lengths = sequences.lengths[rows]
        width = int(lengths.max())
        bases = sequences.gather(rows, width).to(self.device)
        batch = Batch(bases, lengths.to(self.device) if int(lengths.min()) < width else None)
        tokens, mask = self.head.embed(batch)
        count = self.head.stem.tokens(lengths).to(self.device).repeat(len(tokens) // len(lengths))

        def part(start: int, end: int) -> tuple[Tensor, Tensor | None]:
            return tokens[:, start:end], None if mask is None else mask[:, start:end]

        pooled = self._pooled(part, count, tokens.shape[1])
        self.tick(int(lengths.sum()))
        return self._answer(*pooled)

    def _pooled(self, part: Part, count: Tensor, longest: int) -> tuple[Pooled, Pooled]:
        """Hidden states pooled as the head does and by their mean, of readings of `count` tokens each, int64 [P]."""
        size, first = self.tokens, self.tokens
        if self.device.type == "cpu":
            size = min(size, max(TOKENS_AT_ONCE // len(count), 1))
            first = max(size - self.backbone.config.persistent, 1)  # with those before, as many as in a later part
        state, sums = None, None
        for start, end in pairwise([0, *range(first, longest, size), longest]):
            tokens, mask = part(start, end)
            hidden, state = self.backbone(tokens, state, mask)
            piece = self.head.pooling(hidden, count, start), self.mean(hidden, count, start)
            sums = piece if sums is None else (sums[0] + piece[0], sums[1] + piece[1])
        return cast(tuple[Pooled, Pooled], sums)

    def _answer(self, pooled: Pooled, means: Pooled) -> tuple[Tensor, Tensor]:
        vectors = self.head.vectors(means).mean(0)  # of both strands, where they are averaged
        return self.head.classify(self.head.vectors(pooled)), vectors

    def _in_pieces(self, bases: Tensor) -> tuple[Pooled, Pooled]:
        """One sequence, codes [1, L] wherever they are; passes side by side, in the order of `SequenceHead.embed`."""
        strands = [bases] if self.head.strands == 1 else [bases, reverse_complement(bases, None)]
        backwards = self.head.read == "directions"
        count = -(-bases.shape[1] // self.head.stem.stride)
        every = torch.full((len(strands) * (2 if backwards else 1),), count, device=self.device)

        def part(start: int, end: int) -> tuple[Tensor, None]:
            tokens = [self._tokens(strand, start, end) for strand in strands]
            if backwards:
                tokens += [self._tokens(strand, count - end, count - start).flip(1) for strand in strands]
            self.tick(min(end * self.head.stem.stride, bases.shape[1]) - start * self.head.stem.stride)
            return torch.cat(tokens), None

        return self._pooled(part, every, count)

    def _tokens(self, bases: Tensor, start: int, end: int) -> Tensor:
        """Tokens start to end of a sequence; the stem sees as many bases around them as it depends on."""
        stem = self.head.stem
        before = min(-(-stem.halo // stem.stride), start)
        piece = bases[:, (start - before) * stem.stride : end * stem.stride + stem.halo].to(self.device)
        return stem(piece, None)[:, before : before + end - start]

    def memory(self, bases: int) -> str:
        """What a batch of `bases` bases takes, measured by reading N (on a processor: of a shorter one), in words."""
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        before, asked = _peak(), bases if cuda else min(bases, PROBE)
        tick, self.tick = self.tick, lambda bases: None
        self.read(Sequences(torch.full((asked,), N, dtype=torch.uint8), torch.tensor([0, asked])))
        self.tick = tick
        used = torch.cuda.max_memory_allocated(self.device) if cuda else (_peak() - before) * bases // asked
        where = torch.cuda.get_device_name(self.device) if cuda else "main memory"
        text = (
            f"memory: {used / 2**20:,.0f} MiB of {where} for batches and pieces of {bases:,} bases, however long the "
        )
        text += "sequences are, and some 8 bytes of main memory for each base of the longest one"
        if self.backbone.config.variant == "attention":
            size = 2 * self.backbone.config.dim * self.backbone.config.layers * 4 / self.head.stem.stride
            text += f"; attention keeps {size * 1e6 / 2**20:,.0f} MiB more for every million bases of a sequence"
        return text


def _peak() -> int:
    """Most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def described(records: Records) -> dict[str, Any]:
    """The columns id, length (of the whole sequence), n_fraction (of what is read of it) and truncated."""
    read = records.sequences.lengths.numpy()
    whole = read if records.whole is None else records.whole
    return {"id": records.ids, "length": whole, "n_fraction": n_fraction(records), "truncated": whole > read}
