"""Labelled DNA from the files that biologists have; every error names the file, the place and the cure."""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from domains.genomics.bases import Repairs, joined
from domains.genomics.bed import Centre, read_bed
from domains.genomics.columns import bare, classes_of, column_if_any, column_of, letters_of, parts_of
from domains.genomics.files import parse, whole_table
from domains.genomics.names import cut_short, first_word, header_label, id_of, numbered
from domains.genomics.records import Records, check_ids, records_of
from domains.genomics.sniff import Source, files_in, inspect, stem

LabelFrom = Literal["file", "header", "table"]


@dataclass(frozen=True)
class Layout:
    """Where a file keeps what.

    Args:
        label_from: class of a FASTA, FASTQ, GenBank or BED record: its `file` name, a field of its `header` (BED: the
            name column), or a `table` with id and class.
        header_field: which field of a header: a number (0 is the id), `1-` (all from field 1 on), `1;2` (rank 2 of the
            lineage in field 1), the key of `key=value`, or `key;2`.
        label_table: csv or tsv for `label_from: table`; its group and split columns are read too.
        sequence_col: column of a table.
        label_col: column of a table.
        label_cols: columns of a table with several labels or values, in place of `label_col`.
        id_col: column of a table; where there is none, rows are called `row0`, `row1`, ...
        group_col: column of a table: rows of one group are never split between train and validation; a row whose cell
            is empty is a group of its own.
        split_col: column of a table: `train`, `val` (or `valid`, `dev`) or `test`.
        reference: FASTA that the intervals of a BED file refer to.
        width: bases around the centre of each BED interval; None takes the interval itself.
        centre: of a BED interval: its `middle`, or the `summit` of narrowPeak.
        negatives: windows that are drawn from the genome for each BED interval, of its length and about its GC, as
            class `negative`; they overlap no interval of any file of their part.
        val_contigs: contigs whose BED intervals are validated on.
        test_contigs: contigs whose BED intervals are tested on.
    """

    label_from: LabelFrom = "file"
    header_field: str = "1"
    label_table: str | None = None
    sequence_col: str = "sequence"
    label_col: str = "label"
    label_cols: list[str] | None = None
    id_col: str = "id"
    group_col: str = "group"
    split_col: str = "split"
    reference: str | None = None
    width: int | None = None
    centre: Centre = "middle"
    negatives: int = 0
    val_contigs: list[str | int] | None = None
    test_contigs: list[str | int] | None = None

    def __post_init__(self) -> None:
        if (self.width is not None and self.width < 1) or self.negatives < 0:
            raise ValueError("data.layout.width must be at least 1, and data.layout.negatives at least 0")
        if both := {*map(str, self.val_contigs or [])} & {*map(str, self.test_contigs or [])}:
            raise ValueError(
                f"data.layout.val_contigs and test_contigs both name {min(both)!r}; leave it out of one of them"
            )
        if twice := [name for name, times in Counter(self.label_cols or []).items() if times > 1]:
            raise ValueError(f"data.layout.label_cols names {twice[0]!r} twice; name every column once")

    def part_of(self, contig: str) -> str:
        """Which part the intervals of a contig belong to."""
        if contig in map(str, self.test_contigs or []):
            return "test"
        return "val" if contig in map(str, self.val_contigs or []) else "train"


def read_records(path: Path, layout: Layout = Layout(), labelled: bool = True) -> Records:
    """Read a file or a folder.

    Args:
        path: csv, tsv or parquet with a sequence column; FASTA, FASTQ or GenBank; BED with `layout.reference`; or a
            folder, whose sub-folders are the classes where it has any, and whose files otherwise. All may be packed
            (gz, bgz, bz2, xz). What a file holds is told by its content first and by its name where that says nothing.
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
    source = inspect(path)
    if said := source.differs():
        rank_zero_warn(f"{path}: {said}")
    if source.kind in ("table", "parquet"):
        records = _read_table(path, layout, labelled)
    else:
        records = _read_sequences(source, layout, labelled)
    check_ids(records)
    return records


def _read_table(path: Path, layout: Layout, labelled: bool) -> Records:
    table = whole_table(path)
    texts = letters_of(path, table, layout.sequence_col)
    labels = None
    if layout.label_cols and (labelled or set(layout.label_cols) <= set(table)):
        labels = np.stack([column_of(path, table, name, "label_cols") for name in layout.label_cols], 1)
    elif not layout.label_cols and (labelled or layout.label_col in table):
        labels = classes_of(path, column_of(path, table, layout.label_col, "label_col"))
    if not len(table):
        raise ValueError(f"{path}: holds no row below its header; export it again")
    if labelled and not layout.label_cols and (empty := np.flatnonzero(labels == "")).size:
        place = f"row {empty[0] + 1} below its header"  # comments and quoted cells take lines as well
        raise ValueError(f"{path} {place}: column {layout.label_col!r} is empty; fill it or drop the row")
    optional = {"id_col": layout.id_col, "group_col": layout.group_col, "split_col": layout.split_col}
    ids, group, split = (column_if_any(path, table, name, key) for key, name in optional.items())
    if ids is None:
        ids = np.char.add("row", np.arange(len(table)).astype(str)).astype(object)
    records = records_of(path, texts, ids, labels)
    records.groups = group
    records.splits = None if split is None else parts_of(path, split, ids)
    return records


def _read_sequences(source: Source, layout: Layout, labelled: bool) -> Records:
    """Everything that is no table."""
    path = source.path
    if source.kind == "bed":
        found = read_bed(path, layout.reference, layout.width, layout.centre)
        headers, texts = found.places, found.texts
        ids = found.ids()
        labels, field = found.names, "4, the name"
    else:
        pairs = list(parse(path))
        headers, texts = [header for header, _ in pairs], [letters.encode("ascii", "replace") for _, letters in pairs]
        ids = [id_of(header) for header in headers]
        if layout.label_from == "header" and re.match(r"0\b", layout.header_field):  # which names a class, not a record
            seen: Counter[str] = Counter()
            ids = [numbered(name, seen) for name in ids]
        labels, field = None, layout.header_field
    if not headers:
        raise ValueError(f"{path}: holds no sequence; check that it is the right file and not empty")
    records = records_of(path, texts, np.array(ids, dtype=object), None)
    if source.kind == "bed" and (layout.val_contigs or layout.test_contigs):
        records.splits = np.array([layout.part_of(contig) for contig, _, _ in found.spans], dtype=object)
    if not labelled and layout.label_from != "table":
        return records
    match layout.label_from:
        case "file":
            records.labels = np.full(len(ids), stem(path).strip(), dtype=object)
        case "header":
            if labels is None:
                labels = [header_label(header, layout.header_field) for header in headers]
                if said := cut_short(headers, layout.header_field):
                    rank_zero_warn(f"{path}: {said}")
            if None in labels:
                bad = labels.index(None)
                cure = "set data.layout.header_field or label_from"
                cure = "write the class there" if source.kind == "bed" else cure
                raise ValueError(
                    f"{path}: record {ids[bad]!r} has no field {field!r} in its header {headers[bad][:60]!r}; {cure}"
                )
            records.labels = classes_of(path, np.array(labels, dtype=object))
        case "table":
            _label_from_table(records, [first_word(header) for header in headers], path, layout, labelled)
    return records


def _label_from_table(records: Records, words: list[str], path: Path, layout: Layout, labelled: bool) -> None:
    """Take classes, groups and splits from a table that knows the records by their ids, or by the first words of their
    headers (`words`; of a BED file: their places).
    """
    if layout.label_table is None:
        raise ValueError("data.layout.label_from is table: name the csv or tsv in data.layout.label_table")
    file = Path(layout.label_table)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; check data.layout.label_table")
    table = whole_table(file)
    wanted = layout.label_cols or [layout.label_col]
    key = "label_cols" if layout.label_cols else "label_col"
    if known := {*table.columns} & {*records.ids, *words}:
        raise ValueError(
            f"{file} line 1: holds {sorted(known)[0]!r}, a sequence of {path}, where the names of the columns should "
            "stand; put them above it, for example `id,label`"
        )
    labels = {name: classes_of(file, column_of(file, table, name, key)) for name in wanted}
    ids = bare(column_of(file, table, layout.id_col, "id_col"))
    optional = {"group_col": layout.group_col, "split_col": layout.split_col}
    columns = {name: column_if_any(file, table, name, key) for key, name in optional.items()}
    beside = {name: cells for name, cells in columns.items() if cells is not None}
    table = table.assign(**{layout.id_col: ids}, **beside, **labels)
    table = table[list(dict.fromkeys([layout.id_col, *wanted, *beside]))].drop_duplicates()
    if (double := table[layout.id_col].duplicated()).any():
        name = table[layout.id_col][double].iloc[0]
        raise ValueError(f"{file}: says two things of {name!r}; keep one row of each id")
    table = table.set_index(layout.id_col)
    found = table.index.get_indexer(records.ids)
    found = np.where(found < 0, table.index.get_indexer(words), found)
    if labelled and (found < 0).any():
        raise ValueError(
            f"{file}: has no class for {int((found < 0).sum())} records of {path}, the first of them "
            f"{records.ids[found < 0][0]!r}; add them or drop them from the sequences"
        )
    rows = table.iloc[found]
    if labelled and not layout.label_cols and (empty := rows.index[rows[layout.label_col] == ""]).size:
        raise ValueError(f"{file}: column {layout.label_col!r} is empty for {empty[0]!r}; fill it or drop the record")
    records.labels = rows[layout.label_cols or layout.label_col].to_numpy(object)
    if layout.group_col in rows:
        records.groups = rows[layout.group_col].to_numpy(object)
    if layout.split_col in rows:
        records.splits = parts_of(file, rows[layout.split_col].to_numpy(object), records.ids)


def _read_folder(path: Path, layout: Layout, labelled: bool) -> Records:
    """Sub-folders are the classes, else files are; names in sorted order, so that no file system decides anything."""
    files = [file for file in files_in(path) if file.parent == path]
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    entries = folders or files
    if not entries:
        raise ValueError(f"{path}: an empty folder; put one file or folder per class into it")
    if folders and files:
        rank_zero_warn(f"{path}: {files[0].name} lies beside the folders of the classes, and is not read")
    parts, ids = [], []
    for entry in entries:
        for file in files_in(entry) if folders else [entry]:
            part = read_records(file, layout, labelled and not folders)
            if folders:
                part.labels = np.full(len(part), entry.name.strip(), dtype=object)
                ids += [f"{entry.name}/{name}" for name in part.ids]
            parts.append(part)
    if not parts:
        raise ValueError(f"{path}: its folders hold no file; put the sequences of each class into its folder")
    return concatenated(parts, str(path), ids)


def concatenated(parts: list[Records], source: str, ids: list[str] | None = None) -> Records:
    """All records of several files as one; where ids of two files collide, the file's name stands before each.

    Args:
        parts: what each file holds.
        source: their names, for messages.
        ids: to be used if no two are alike.

    Raises:
        ValueError: one file is given twice, or only some of them have classes, groups or splits.
    """
    twice = [name for name, count in Counter(part.source for part in parts).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]}: is given twice; name every file once")

    def column(name: str) -> np.ndarray | None:
        values = [getattr(part, name) for part in parts]
        without = [part.source for part, value in zip(parts, values, strict=True) if value is None]
        if without and len(without) < len(parts):  # test rows of one file would be trained on for want of the other's
            raise ValueError(f"{without[0]}: has no {name[:-1]}, which others have; give all files one or none")
        return None if without else np.concatenate(values)

    repairs = Repairs()
    for part in parts:
        repairs.add(part.repairs)
    records = Records(
        joined([part.sequences for part in parts]),
        np.array(ids or [name for part in parts for name in part.ids], dtype=object),
        column("labels"),
        column("groups"),
        column("splits"),
        repairs=repairs,
        source=source,
    )
    if len(parts) > 1 and len(set(records.ids)) < len(records):
        files = [os.path.abspath(part.source) for part in parts]
        shared = os.path.commonpath([os.path.dirname(file) for file in files])
        pairs = zip(files, parts, strict=True)
        named = [f"{os.path.relpath(file, shared)}:{name}" for file, part in pairs for name in part.ids]
        records.ids = np.array(named, dtype=object)
    check_ids(records)
    return records
