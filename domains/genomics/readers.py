"""Labelled DNA from the files that biologists have; every error names the file, the place and the cure."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from app.tables import TABLES
from domains.genomics.bases import N, Repairs, Sequences, joined
from domains.genomics.bed import read_bed
from domains.genomics.files import file_type, id_of, parse, stem, tables

LabelFrom = Literal["file", "header", "table"]
PROTEIN = set("EFILPQZJO*")  # letters that stand for amino acids only


@dataclass(frozen=True)
class Layout:
    """Where a file keeps what.

    Args:
        label_from: class of a FASTA, FASTQ, GenBank or BED record: its `file` name, a field of its `header` (BED: the
            name column), or a `table` with id and class.
        header_field: which field of a header: a number (0 is the id) or the key of `key=value`.
        label_table: csv or tsv for `label_from: table`; its group and split columns are read too.
        sequence_col: column of a table.
        label_col: column of a table.
        id_col: column of a table; where there is none, rows are called `row0`, `row1`, ...
        group_col: column of a table: rows of one group are never split between train and validation.
        split_col: column of a table: `train`, `val` (or `valid`, `dev`) or `test`.
        reference: FASTA that the intervals of a BED file refer to.
        width: bases around the middle of each BED interval; None takes the interval itself.
    """

    label_from: LabelFrom = "file"
    header_field: str = "1"
    label_table: str | None = None
    sequence_col: str = "sequence"
    label_col: str = "label"
    id_col: str = "id"
    group_col: str = "group"
    split_col: str = "split"
    reference: str | None = None
    width: int | None = None


@dataclass
class Records:
    """Sequences and what is known of each.

    Args:
        sequences: N of them.
        ids: N names, each once.
        labels: N class names; None where the file names none.
        groups: N group names, or None.
        splits: N of `train`, `val` or `test`, or None.
        repairs: letters that were read as something else.
        source: the file or files, for messages.
    """

    sequences: Sequences
    ids: np.ndarray
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    splits: np.ndarray | None = None
    repairs: Repairs = field(default_factory=Repairs)
    source: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, keep: np.ndarray) -> "Records":
        """The records at indices `keep`, in that order."""
        columns = {name: getattr(self, name) for name in ("ids", "labels", "groups", "splits")}
        chosen = {name: None if column is None else column[keep] for name, column in columns.items()}
        return replace(self, sequences=self.sequences.select(torch.from_numpy(keep)), **chosen)


def read_records(path: Path, layout: Layout = Layout(), labelled: bool = True) -> Records:
    """Read a file or a folder.

    Args:
        path: csv, tsv or parquet with a sequence column; FASTA, FASTQ or GenBank; BED with `layout.reference`; or a
            folder, whose sub-folders are the classes where it has any, and whose files otherwise. All but parquet may
            be packed (.gz, .bz2, .xz).
        layout: where the classes stand.
        labelled: False needs no class.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, empty, no DNA, names a sequence twice or lacks a class.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, layout, labelled)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder; check the path")
    if file_type(path) in TABLES:
        records = _read_table(path, layout, labelled)
    else:
        records = _read_sequences(path, layout, labelled)
    _check_ids(records)
    return records


def _read_table(path: Path, layout: Layout, labelled: bool) -> Records:
    table = next(tables(path), pd.DataFrame())
    if layout.sequence_col not in table:
        raise ValueError(f"{path}: no column {layout.sequence_col!r} among {list(table)}; set data.layout.sequence_col")
    if labelled and layout.label_col not in table:
        raise ValueError(f"{path}: no column {layout.label_col!r} among {list(table)}; set data.layout.label_col")
    if not len(table):
        raise ValueError(f"{path}: holds no row below its header; export it again")

    def column(name: str) -> np.ndarray | None:
        return table[name].to_numpy(object) if name in table else None

    ids = column(layout.id_col)
    if ids is None:
        ids = np.char.add("row", np.arange(len(table)).astype(str)).astype(object)
    texts = [text.encode("ascii", "replace") for text in column(layout.sequence_col)]
    labels = column(layout.label_col)
    if labelled and (empty := np.flatnonzero(labels == "")).size:
        raise ValueError(f"{path} line {empty[0] + 2}: column {layout.label_col!r} is empty; fill it or drop the row")
    records = records_of(path, texts, ids, labels)
    records.groups, records.splits = column(layout.group_col), _split_names(path, column(layout.split_col))
    return records


def _split_names(path: Path, names: np.ndarray | None) -> np.ndarray | None:
    if names is None:
        return None
    known = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
    table = {name: known.get(name.lower()) for name in np.unique(names)}
    if wrong := [name for name, meaning in table.items() if meaning is None]:
        raise ValueError(f"{path}: split {wrong[0]!r} is unknown; write train, val or test")
    return np.array([table[name] for name in names], dtype=object)


def _read_sequences(path: Path, layout: Layout, labelled: bool) -> Records:
    """Everything that is no table."""
    if file_type(path) == ".bed":
        headers, texts, names = read_bed(path, layout.reference, layout.width)
    else:
        pairs = list(parse(path))
        headers, texts = [header for header, _ in pairs], [letters.encode("ascii", "replace") for _, letters in pairs]
        names = None
    if not headers:
        raise ValueError(f"{path}: holds no sequence; check that it is the right file and not empty")
    ids = np.array([id_of(header) for header in headers], dtype=object)
    records = records_of(path, texts, ids, None)
    if not labelled and layout.label_from != "table":
        return records
    match layout.label_from:
        case "file":
            records.labels = np.full(len(ids), stem(path), dtype=object)
        case "header":
            labels = names or [header_label(header, layout.header_field) for header in headers]
            if labelled and None in labels:
                bad = labels.index(None)
                raise ValueError(
                    f"{path}: record {ids[bad]!r} has no field {layout.header_field!r} in its header "
                    f"{headers[bad][:60]!r}; set data.layout.header_field or label_from"
                )
            records.labels = np.array(labels, dtype=object)
        case "table":
            _label_from_table(records, path, layout, labelled)
    return records


def header_label(header: str, wanted: str) -> str | None:
    """Field of a header, by number (0 is the id; blanks or | part fields) or as the value of `key=value`."""
    fields = header.replace("|", " ").split()
    if wanted.isdigit():
        return fields[int(wanted)] if int(wanted) < len(fields) else None
    return next((entry.split("=", 1)[1] for entry in fields if entry.startswith(f"{wanted}=")), None)


def _label_from_table(records: Records, path: Path, layout: Layout, labelled: bool) -> None:
    if layout.label_table is None:
        raise ValueError("data.layout.label_from is table: name the csv or tsv in data.layout.label_table")
    file = Path(layout.label_table)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; check data.layout.label_table")
    table = next(tables(file))
    for name in (layout.id_col, layout.label_col):
        if name not in table:
            raise ValueError(f"{file}: no column {name!r} among {list(table)}; set data.layout.id_col or label_col")
    table = table.drop_duplicates(layout.id_col).set_index(layout.id_col)
    found = table.index.get_indexer(records.ids)
    if labelled and (found < 0).any():
        raise ValueError(
            f"{file}: has no class for {int((found < 0).sum())} records of {path}, the first of them "
            f"{records.ids[found < 0][0]!r}; add them or drop them from the sequences"
        )
    rows = table.iloc[found]
    records.labels = rows[layout.label_col].to_numpy(object)
    if layout.group_col in rows:
        records.groups = rows[layout.group_col].to_numpy(object)
    if layout.split_col in rows:
        records.splits = _split_names(file, rows[layout.split_col].to_numpy(object))


def _read_folder(path: Path, layout: Layout, labelled: bool) -> Records:
    """Sub-folders are the classes, else files are; names in sorted order, so that no file system decides anything."""
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir()]
    if not entries:
        raise ValueError(f"{path}: an empty folder; put one file or folder per class into it")
    parts = []
    for entry in folders or entries:
        files = [entry] if not folders else sorted(file for file in entry.rglob("*") if file.is_file())
        for file in files:
            part = read_records(file, layout, labelled and not folders)
            if folders:
                part.labels = np.full(len(part), entry.name, dtype=object)
                part.ids = np.array([f"{entry.name}/{name}" for name in part.ids], dtype=object)
            parts.append(part)
    if not parts:
        raise ValueError(f"{path}: its folders hold no file; put the sequences of each class into its folder")
    return concatenated(parts, str(path))


def concatenated(parts: list[Records], source: str) -> Records:
    """All records of several files as one.

    Raises:
        ValueError: two of them carry one name.
    """
    if len(parts) == 1:
        return parts[0]

    def column(name: str) -> np.ndarray | None:
        values = [getattr(part, name) for part in parts]
        without = [part.source for part, value in zip(parts, values, strict=True) if value is None]
        if without and len(without) < len(parts):  # test rows of one file would be trained on for want of the other's
            raise ValueError(f"{without[0]}: has no {name[:-1]}, which others have; give all files one or none")
        return None if without else np.concatenate(values)

    repairs = Repairs()
    for part in parts:
        repairs.add(part.repairs)
    ids = np.concatenate([part.ids for part in parts])
    if all(str(part.ids[0]).startswith("row") for part in parts):  # tables without names, one behind the other
        ids = np.array([f"{Path(part.source).name}:{name}" for part in parts for name in part.ids], dtype=object)
    records = Records(
        joined([part.sequences for part in parts]),
        ids,
        column("labels"),
        column("groups"),
        column("splits"),
        repairs,
        source,
    )
    _check_ids(records)
    return records


def records_of(path: Path, texts: list[bytes], ids: np.ndarray, labels: np.ndarray | None) -> Records:
    """Encode letters, and refuse what is no DNA or holds none."""
    repairs = Repairs()
    texts = [text.translate(None, b" \t\r\n") for text in texts]
    sequences = Sequences.of(texts, repairs)
    if (empty := (sequences.lengths == 0).nonzero()).numel():
        raise ValueError(f"{path}: sequence {ids[int(empty[0])]!r} is empty; fill it or drop it")
    wrong = (sequences.codes > N).nonzero().flatten()
    if wrong.numel():
        row = int(torch.searchsorted(sequences.offsets, wrong[0], right=True)) - 1
        place = int(wrong[0] - sequences.offsets[row])
        letter = chr(texts[row][place])
        protein = PROTEIN & set(texts[row].decode().upper())
        cure = "this looks like protein; give the nucleotide sequences" if protein else "allowed are ACGTUN and IUPAC"
        raise ValueError(
            f"{path}: sequence {ids[row]!r}, place {place + 1}: {letter!r} is no nucleotide "
            f"({wrong.numel():,} such letters in all); {cure}"
        )
    return Records(sequences, ids, labels, repairs=repairs, source=str(path))


def _check_ids(records: Records) -> None:
    names = pd.Series(records.ids)
    if names.duplicated().any():
        name = names[names.duplicated()].iloc[0]
        raise ValueError(
            f"{records.source}: {int(names.duplicated().sum())} sequences carry the name of another one, the first is "
            f"{name!r}; every id must stand once: rename or drop the copies"
        )
    if (names == "").any():
        raise ValueError(f"{records.source}: a record has no name; give every one an id")
