"""The parts of a data set: which files make up train, validation and test."""

from pathlib import Path

import numpy as np

from domains.genomics.bed import Intervals, bed_rows, contigs_of, read_bed, renaming
from domains.genomics.negatives import matched
from domains.genomics.readers import Layout, concatenated, read_records
from domains.genomics.records import Records, records_of
from domains.genomics.sniff import inspect

PARTS = ("train", "val", "test")
NEGATIVE = "negative"  # class of what is drawn from the genome


def set_of(names: np.ndarray) -> set:
    """Distinct names (the word `set` names a data set in GenomicsData)."""
    return set(names.tolist())


def paths_of(given: str | list[str]) -> list[str]:
    """One file or several, as a list."""
    return [given] if isinstance(given, str) else given


def class_and_file(given: str) -> tuple[str, Path]:
    """Class and file of `NAME=FILE`; no class where it is a file's name alone."""
    name, equals, file = str(given).partition("=")
    return (name.strip(), Path(file)) if equals and not Path(given).exists() else ("", Path(given))


def read_all(paths: list, layout: Layout, seed: int = 0) -> Records:
    """What several files hold together; each may name the class of its records, `NAME=FILE`.

    Args:
        paths: the files, or folders.
        layout: where they keep what, and how many negatives are drawn.
        seed: of the negatives.

    Raises:
        ValueError: one of the files is not what it should be, or negatives or contigs are asked for and none is BED.
    """
    parts = []
    for name, path in map(class_and_file, paths):
        parts.append(read_records(path, layout, labelled=not name))
        if name:
            parts[-1].labels = np.full(len(parts[-1]), name, dtype=object)
    source = ", ".join(map(str, paths))
    beds = [path for _, path in map(class_and_file, paths) if path.is_file() and inspect(path).kind == "bed"]
    wanted = {"negatives": layout.negatives, "val_contigs": layout.val_contigs, "test_contigs": layout.test_contigs}
    if used := [name for name, value in wanted.items() if value]:
        if len(beds) < len(paths):
            raise ValueError(f"{source}: data.layout.{used[0]} goes with BED files; give these, or leave it out")
        if layout.negatives:
            parts.append(_negatives(beds, layout, seed))
    records = concatenated(parts, source)
    if used:
        found = {row["chrom"] for path in beds for _, row in bed_rows(path)}
        for part, contigs in (("val", layout.val_contigs), ("test", layout.test_contigs)):
            if missing := [contig for contig in map(str, contigs or []) if contig not in found]:
                told = f"no interval lies on {missing[0]!r} of data.layout.{part}_contigs"
                cure = renaming(missing, found) or "name contigs as the file does, or leave it out"
                raise ValueError(f"{source}: {told}; {cure}")
    if used and records.splits is not None and not (records.splits == "train").any():
        raise ValueError(f"{source}: all intervals lie on the contigs of val and test; leave some of them to train")
    return records


def _negatives(paths: list[Path], layout: Layout, seed: int) -> Records:
    """Windows of the genome that are like the intervals of all the files and overlap none of them."""
    found = Intervals([], [], [], [])
    for path in paths:
        read = read_bed(path, layout.reference, layout.width, layout.centre)
        for ours, theirs in zip(found.columns(), read.columns(), strict=True):
            ours += theirs
    drawn = matched(found, contigs_of(Path(layout.reference)), layout.negatives, seed)
    labels = np.full(len(drawn.places), NEGATIVE, dtype=object)
    records = records_of(f"negatives of {layout.reference}", drawn.texts, np.array(drawn.ids(), dtype=object), labels)
    if layout.val_contigs or layout.test_contigs:
        records.splits = np.array([layout.part_of(contig) for contig, _, _ in drawn.spans], dtype=object)
    return records


def by_split(records: Records) -> dict[str, Records]:
    """The parts that the split column of a table names.

    Raises:
        ValueError: no row is of train.
    """
    parts = {part: np.flatnonzero(records.splits == part) for part in PARTS}
    if not len(parts["train"]):
        raise ValueError(f"{records.source}: its split column names no train row; name some")
    return {part: records.select(rows) for part, rows in parts.items() if len(rows)}
