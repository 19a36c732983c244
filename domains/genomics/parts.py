"""The parts of a data set: which files make up train, validation and test."""

from pathlib import Path

import numpy as np

from domains.genomics.readers import Layout, concatenated, read_records
from domains.genomics.records import Records

PARTS = ("train", "val", "test")


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


def read_all(paths: list, layout: Layout) -> Records:
    """What several files hold together; each may name the class of its records, `NAME=FILE`."""
    parts = []
    for name, path in map(class_and_file, paths):
        parts.append(read_records(path, layout, labelled=not name))
        if name:
            parts[-1].labels = np.full(len(parts[-1]), name, dtype=object)
    return concatenated(parts, ", ".join(map(str, paths)))


def by_split(records: Records) -> dict[str, Records]:
    """The parts that the split column of a table names.

    Raises:
        ValueError: no row is of train.
    """
    parts = {part: np.flatnonzero(records.splits == part) for part in PARTS}
    if not len(parts["train"]):
        raise ValueError(f"{records.source}: its split column names no train row; name some")
    return {part: records.select(rows) for part, rows in parts.items() if len(rows)}
