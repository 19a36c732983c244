"""Sequences with what is known of each, what is wrong with some, and what becomes of all before a model reads them."""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from domains.genomics.bases import N, Repairs, Sequences

PROTEIN = set("EFILPQZJO*")  # letters that stand for amino acids only
GAPS = set("-.~")  # of an alignment


@dataclass
class Records:
    """Sequences and what is known of each.

    Args:
        sequences: N of them.
        ids: N names, each once.
        labels: N class names; None where the file names none.
        groups: N group names, or None.
        splits: N of `train`, `val` or `test`, or None.
        whole: bases of each before it was cut, int64 [N]; None where none was.
        repairs: letters that were read as something else.
        source: the file or files, for messages.
    """

    sequences: Sequences
    ids: np.ndarray
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    splits: np.ndarray | None = None
    whole: np.ndarray | None = None
    repairs: Repairs = field(default_factory=Repairs)
    source: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, keep: np.ndarray) -> "Records":
        """The records at indices `keep`, in that order."""
        columns = {name: getattr(self, name) for name in ("ids", "labels", "groups", "splits", "whole")}
        chosen = {name: None if column is None else column[keep] for name, column in columns.items()}
        return replace(self, sequences=self.sequences.select(torch.from_numpy(keep)), **chosen)


@dataclass
class Passed:
    """What was passed over: how many of each defect, and the first one's words."""

    what: str = "sequences"
    counts: Counter = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, defect: str, words: str) -> None:
        """Count one."""
        self.counts[defect] += 1
        self.first.setdefault(defect, words)

    def __str__(self) -> str:
        parts = [f"{count:,} {defect} (the first: {self.first[defect]})" for defect, count in self.counts.items()]
        return f"passed over {self.counts.total():,} {self.what}: {', '.join(parts)}" if parts else ""


def records_of(
    source: Path | str, texts: list[bytes], ids: np.ndarray, labels: np.ndarray | None, passed: Passed | None = None
) -> Records:
    """Encode letters; what is no DNA or holds none is refused, or passed over and counted.

    Args:
        source: the file, for messages.
        texts: N times letters, in either case; blanks between them are nothing.
        ids: N names.
        labels: N class names, or None.
        passed: counts what was passed over; None refuses it.

    Raises:
        ValueError: a defect, where none may be passed over.
    """
    repairs = Repairs()
    texts = [text.translate(None, b" \t\r\n") for text in texts]
    sequences = Sequences.of(texts, repairs)
    defects = _defects(sequences, texts, ids)
    if defects and passed is None:
        _, words, cure = next(iter(defects.values()))
        raise ValueError(f"{source}: sequence {words}; {cure}")
    for row in sorted(defects):
        defect, words, cure = defects[row]
        passed.add(defect, f"{words}; {cure}")
    keep = np.setdiff1d(np.arange(len(ids)), list(defects))
    if defects:  # letters of what is passed over count nowhere, whatever else is in the batch
        repairs = Repairs()
        sequences = Sequences.of([texts[row] for row in keep], repairs)
    labels = None if labels is None else labels[keep]
    return Records(sequences, ids[keep], labels, repairs=repairs, source=str(source))


def _defects(sequences: Sequences, texts: list[bytes], ids: np.ndarray) -> dict[int, tuple[str, str, str]]:
    """Of each bad row: what is wrong, which one it is and where, and the cure; empty ones first."""
    found = {}
    for row in (sequences.lengths == 0).nonzero().flatten().tolist():
        found[row] = ("without a base", f"{ids[row]!r} is empty", "fill it or drop it")
    wrong = (sequences.codes > N).nonzero().flatten()
    rows, first = np.unique(torch.searchsorted(sequences.offsets, wrong, right=True) - 1, return_index=True)
    for row, start in zip(rows.tolist(), wrong[first].tolist(), strict=True):
        place = start - int(sequences.offsets[row])
        letter = chr(texts[row][place])
        seen = set(texts[row].decode("ascii", "replace").upper())
        if letter in GAPS:
            cure = "this is a gap of an alignment: take the gaps out (seqkit seq -g)"
        elif seen & PROTEIN:
            cure = "this looks like protein; give the nucleotide sequences"
        else:
            cure = "allowed are ACGTUN and IUPAC"
            cure += ", and ? is what letters beyond ASCII are shown as" if letter == "?" else ""
        where = f"{ids[row]!r}, place {place + 1}: {letter!r} is no nucleotide ({len(wrong):,} such letters in all)"
        found[row] = ("with letters that are no nucleotides", where, cure)
    return found


def prepared(records: Records, max_length: int | None, max_n: float) -> tuple[Records, np.ndarray]:
    """What a model reads of sequences: each cut, then those of too many N left out.

    Args:
        records: N of them.
        max_length: bases that are read of each; None reads all.
        max_n: largest share of N in what is read.

    Returns:
        those that are read, and the ids of those left out.
    """
    whole = records.sequences.lengths.numpy()
    if max_length is not None:
        sequences = records.sequences.select(torch.arange(len(records)), max_length)
        records = replace(records, sequences=sequences, whole=whole)
    keep = n_fraction(records) <= max_n
    if keep.all():
        return records, records.ids[:0]
    return records.select(np.flatnonzero(keep)), records.ids[~keep]


def n_fraction(records: Records) -> np.ndarray:
    """Share of N in each sequence, float32 [N]."""
    return (records.sequences.unknown() / records.sequences.lengths).numpy()


def check_ids(records: Records) -> None:
    """Refuse records of one name, or of none.

    Raises:
        ValueError: names the first.
    """
    seen: set[str] = set()
    double = [name for name in records.ids if name in seen or seen.add(name)]
    if double:
        raise ValueError(
            f"{records.source}: {len(double)} sequences carry the name of another one, the first is {double[0]!r}; "
            "every id must stand once: rename or drop the copies"
        )
    if "" in seen:
        place = records.ids.tolist().index("") + 1
        raise ValueError(f"{records.source}: record {place} has no name; give every one an id")
