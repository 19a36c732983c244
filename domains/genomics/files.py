"""Files of sequences: what a name says, packed or plain, and their records one by one."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pandas as pd
from Bio import SeqIO
from Bio.SeqIO.FastaIO import SimpleFastaParser
from Bio.SeqIO.QualityIO import FastqGeneralIterator
from pyarrow import ArrowInvalid
from pyarrow.parquet import ParquetFile

from app.tables import TABLES

OPENERS: dict[str, Callable] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
FASTA = {".fa", ".fasta", ".fna", ".ffn", ".fas", ".txt"}  # .txt: one FASTA or bare sequence a file, in class folders
FASTQ = {".fq", ".fastq"}
GENBANK = {".gb", ".gbk", ".genbank", ".gbff"}


def file_type(path: Path) -> str:
    """The suffix that says what a file holds, in lower case: `.fa` of `x.fa.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in OPENERS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def stem(path: Path) -> str:
    """Name of a file without folders, packing and type: `x` of `a/x.fa.gz`."""
    name = path.name
    for suffix in (path.suffix if path.suffix.lower() in OPENERS else "", file_type(path)):
        name = name[: len(name) - len(suffix)] if suffix and name.lower().endswith(suffix.lower()) else name
    return name


@contextmanager
def opened(path: Path) -> Iterator[IO]:
    """A text file, unpacked while it is read; a cut or damaged one ends with one line."""
    opener = OPENERS.get(path.suffix.lower(), open)
    try:
        with opener(path, "rt", encoding="utf-8-sig", errors="replace") as file:  # Excel writes a byte order mark
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path}: cut short or damaged ({error}); copy or download it again") from error


def tables(path: Path, rows: int | None = None) -> Iterator[pd.DataFrame]:
    """A csv, tsv or parquet file `rows` at a time, or at once; cells are text, empty where there is nothing."""
    kind = file_type(path)
    try:
        if kind == ".parquet":
            file = ParquetFile(path)
            for batch in file.iter_batches(rows or max(file.metadata.num_rows, 1)):
                table = batch.to_pandas()
                yield table.astype(str).mask(table.isna(), "")
        else:
            with opened(path) as text:
                read = pd.read_csv(text, sep=TABLES.get(kind, ","), dtype=str, keep_default_na=False, chunksize=rows)
                yield from [read] if rows is None else read
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not a whole table ({reason}); export or download it again") from error


def id_of(header: str) -> str:
    """The first word of a header, empty where there is none."""
    return next(iter(header.split(maxsplit=1)), "")


def parse(path: Path) -> Iterator[tuple[str, str]]:
    """(header, letters) of each record of a FASTA, FASTQ or GenBank file, one by one.

    A GenBank record's header is its id and, as `key=value`, its organism.
    """
    kind = file_type(path)
    with opened(path) as file:
        if kind in FASTQ:
            try:
                yield from ((header, letters) for header, letters, _ in FastqGeneralIterator(file))
            except ValueError as error:
                raise ValueError(f"{path}: not a whole FASTQ file ({error}); export or copy it again") from error
        elif kind in GENBANK:
            try:
                for record in SeqIO.parse(file, "genbank"):
                    organism = record.annotations.get("organism", "").replace(" ", "_")
                    yield f"{record.id} organism={organism}", str(record.seq)
            except ValueError as error:
                raise ValueError(f"{path}: not a whole GenBank file ({error}); export it with its sequence") from error
        elif kind in FASTA or kind == "":
            yield from _parse_fasta(path, file)
        else:
            known = ", ".join(sorted({*TABLES, *FASTA, *FASTQ, *GENBANK, ".bed"}))
            raise ValueError(f"{path}: files that end in {kind} are unknown; known are {known}, also packed")


def _parse_fasta(path: Path, file: IO) -> Iterator[tuple[str, str]]:
    first = file.readline()
    if not first.strip():
        first = next((line for line in file if line.strip()), "")
    if first.startswith(">"):

        def lines() -> Iterator[str]:
            yield first
            yield from file

        yield from SimpleFastaParser(lines())
    elif first and path.suffix == ".txt":  # GenomicBenchmarks: one bare sequence a file
        yield stem(path), (first + file.read()).replace("\n", "").replace("\r", "")
    elif first:
        raise ValueError(f"{path} line 1: {first[:30].strip()!r} is no FASTA header; a record starts with >NAME")
