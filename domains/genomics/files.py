"""Files of sequences: what a name says, packed or plain, and their records one by one."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from Bio import SeqIO
from Bio.SeqIO.FastaIO import SimpleFastaParser
from Bio.SeqIO.QualityIO import FastqGeneralIterator

TABLES = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".parquet": ""}
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
def opened(path: Path, mode: str = "rt") -> Iterator[IO]:
    """A file, unpacked while it is read; a cut or damaged one ends with one line."""
    opener = OPENERS.get(path.suffix.lower(), open)
    options = {"encoding": "utf-8", "errors": "replace"} if "t" in mode else {}
    try:
        with opener(path, mode, **options) as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path}: cut short or damaged ({error}); copy or download it again") from error


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
