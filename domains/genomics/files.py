"""The records of sequence files and the rows of tables, one by one; a damaged file ends as one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pandas as pd
from Bio import SeqIO
from Bio.SeqIO.FastaIO import SimpleFastaParser
from Bio.SeqIO.QualityIO import FastqGeneralIterator
from pyarrow.parquet import ParquetFile

from app.reading import Reading, reading
from domains.genomics.sniff import Source, file_type, inspect, stem

AGAIN = "export or copy it again"


def tables(path: Path, rows: int | None = None) -> Iterator[pd.DataFrame]:
    """A csv, tsv or parquet file `rows` at a time, or at once; cells are text, empty where there is nothing.

    Blanks around the names of columns are not part of them.
    """
    source = inspect(path)
    with reading(path, "a whole table", AGAIN) as at:
        for table in _parquet(path, rows) if source.kind == "parquet" else _separated(source, rows):
            if not isinstance(table.index, pd.RangeIndex):  # pandas took the columns without a name for row names
                raise at.error("the rows have more columns than line 1 has names", "name every column in line 1")
            table.columns = [str(name).strip() for name in table.columns]
            yield table
            del table  # of a large file one piece is held at a time


def _parquet(path: Path, rows: int | None) -> Iterator[pd.DataFrame]:
    file = ParquetFile(path)
    for batch in file.iter_batches(rows or max(file.metadata.num_rows, 1)):
        table = batch.to_pandas()
        named = [name for name in table.index.names if name is not None]
        table = table.reset_index(named) if named else table
        yield table.astype(str).mask(table.isna(), "").reset_index(drop=True)


def _separated(source: Source, rows: int | None) -> Iterator[pd.DataFrame]:
    with source.text() as text:
        read = pd.read_csv(text, sep=source.separator, dtype=str, keep_default_na=False, chunksize=rows)
        for table in [read] if rows is None else read:
            yield table.fillna("")  # cells of rows that end early


def parse(path: Path) -> Iterator[tuple[str, str]]:
    """(header, letters) of each record of a FASTA, FASTQ or GenBank file, one by one.

    A GenBank record's header is its id and, as `key=value`, its organism.
    """
    source = inspect(path)
    if source.kind not in ("fasta", "fastq", "genbank"):
        raise ValueError(f"{path}: looks like a {source.kind} file, where sequences are wanted; check the path")
    name = {"fasta": "FASTA", "fastq": "FASTQ", "genbank": "GenBank"}[source.kind]
    with reading(path, f"a whole {name} file", AGAIN) as at, source.text() as file:
        match source.kind:
            case "fasta":
                yield from _fasta(path, file, at)
            case "fastq":
                for number, (header, letters, _) in enumerate(FastqGeneralIterator(file), 1):
                    yield header, letters
                    at.place = f"behind record {number}"
            case "genbank":
                for record in SeqIO.parse(file, "genbank"):
                    organism = record.annotations.get("organism", "").replace(" ", "_")
                    yield f"{record.id} organism={organism}", str(record.seq)
                    at.place = f"behind record {record.id}"


def _fasta(path: Path, file: IO, at: Reading) -> Iterator[tuple[str, str]]:
    first = next((line for line in file if line.strip()), "")
    if first.startswith(">"):

        def lines() -> Iterator[str]:
            yield first
            yield from file

        yield from SimpleFastaParser(lines())
    elif first and file_type(path) == ".txt":  # GenomicBenchmarks: one bare sequence a file
        yield stem(path), (first + file.read()).replace("\n", "").replace("\r", "")
    elif first:
        at.place = "line 1"
        raise at.error(f"{first[:30].strip()!r} is no FASTA header", "a record starts with >NAME")
