"""The records of sequence files and the rows of tables, one by one; a damaged file ends as one line."""

import csv
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from itertools import count, dropwhile, islice
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow
from Bio import BiopythonParserWarning, SeqIO
from Bio.SeqIO.QualityIO import FastqGeneralIterator
from lightning.pytorch.utilities import rank_zero_warn
from pyarrow.parquet import ParquetFile

from app.reading import Reading, reading
from domains.genomics.sniff import COMMENT, Source, file_type, inspect, stem

AGAIN = "export or copy it again"
BLANKS = str.maketrans("", "", " \t\r\n")  # what is no letter of a sequence, and no fault
NO_TEXT = (pyarrow.types.is_nested, pyarrow.types.is_temporal, pyarrow.types.is_decimal)  # kinds of columns


def tables(path: Path, rows: int | None = None) -> Iterator[pd.DataFrame]:
    """A csv, tsv or parquet file `rows` at a time, or at once; cells are text, empty where there is nothing.

    Blanks around the names of columns are not part of them. Columns of lists, times and the like are no text: they are
    left out, and named with their kinds in `attrs["other"]`.
    """
    source = inspect(path)
    with reading(path, "a whole table", AGAIN) as at:
        yield from _parquet(path, rows, at) if source.kind == "parquet" else _separated(source, rows, at)


def whole_table(path: Path) -> pd.DataFrame:
    """All rows of a table; of a file without any, perhaps no columns either."""
    return next(iter([*tables(path)]), pd.DataFrame())


def _heading(names: list[str], at: Reading) -> list[str]:
    """Names of columns without blanks around them, each once."""
    names = [str(name).strip() for name in names]
    if double := [name for name, times in Counter(names).items() if name and times > 1]:
        raise at.error(f"two columns are called {double[0][:40]!r}", "rename or drop one")
    return names


def _parquet(path: Path, rows: int | None, at: Reading) -> Iterator[pd.DataFrame]:
    file = ParquetFile(path)
    names = _heading(file.schema_arrow.names, at)
    for batch in file.iter_batches(rows or max(file.metadata.num_rows, 1)):
        columns, other = {}, {}
        for name, column in zip(names, batch.columns, strict=True):
            if pyarrow.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            kind = column.type
            if any(is_kind(kind) for is_kind in NO_TEXT):
                other[name] = str(kind)
            elif pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind):
                values = column.to_pandas()
                columns[name] = values.astype(str).mask(values.isna(), "")
            else:
                columns[name] = column.cast(pyarrow.string()).to_pandas().fillna("")
        table = pd.DataFrame(columns)
        table.attrs["other"] = other
        yield table


def _separated(source: Source, rows: int | None, at: Reading) -> Iterator[pd.DataFrame]:
    """Every row has a cell for each column: pandas would shift or fill the others without a word."""
    csv.field_size_limit(2**31 - 1)  # characters of a cell: a chromosome may stand in one
    with source.text() as text:
        reader = csv.reader(text, delimiter=source.separator, strict=True)
        filled = dropwhile(lambda row: COMMENT.match(row[0]), (row for row in reader if row))
        at.place = "line 1"
        names = _heading(next(filled, []), at)
        if not names:
            raise at.error("an empty file, without names of columns")
        for piece in count():
            cells = []
            for row in islice(_told(filled, reader, at), rows):
                if len(row) != len(names):
                    at.place = f"line {reader.line_num}"
                    why = f"has {len(row)} cells, and line 1 names {len(names)} columns"
                    raise at.error(why, "name every column, fill every row, and quote cells that hold what parts them")
                if [cell.strip() for cell in row] == names:  # as where two tables were put together by cat
                    at.place = f"line {reader.line_num}"
                    raise at.error("repeats the names of the columns", "drop the line")
                cells.append(row)
            if cells or not piece:
                yield pd.DataFrame(cells, columns=names, dtype=object)
            if rows is None or len(cells) < rows:
                return


def _told(rows: Iterator[list[str]], reader: Any, at: Reading) -> Iterator[list[str]]:
    """The rows; the line at which a csv reader finds its quotes wrong is told."""
    try:
        yield from rows
    except csv.Error as error:
        at.place = f"line {reader.line_num}"
        cure = 'a cell that begins with a quote, here or above, must end with one, and hold others twice ("")'
        raise at.error(f"its quotes do not match ({error})", cure) from error


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
                yield from _genbank(file, at)


def _genbank(file: IO, at: Reading) -> Iterator[tuple[str, str]]:
    """Records between LOCUS and //; what Biopython would leave out in silence, or read in part, is refused."""
    lines: list[str] = []
    for line in file:
        if line.strip() or lines:
            lines.append(line)
        if lines and not lines[0].startswith("LOCUS"):
            raise at.error(f"{line[:30].strip()!r} is no LOCUS line, with which a record begins")
        if line.rstrip() != "//":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BiopythonParserWarning)  # that the length is wrong: an error, below
            record = SeqIO.read(StringIO("".join(lines)), "genbank")
        if not record.seq.defined:
            cure = "download it with its sequence, as NCBI's GenBank (full)"
            raise at.error(f"record {record.id[:40]!r} holds no sequence of its own", cure)
        letters, length = str(record.seq), re.search(r"\s(\d+) bp\b", lines[0])
        if length is None or int(length[1]) != len(letters):
            told = f"{length[1]} bases" if length else "no bases"
            raise at.error(f"record {record.id[:40]!r} holds {len(letters)} bases, its LOCUS line says {told}")
        organism = re.sub(r"[\s|]", "_", record.annotations.get("organism", ""))  # one word, which parts no fields
        yield f"{record.id} organism={organism}", letters
        at.place = f"behind record {record.id}"
        lines = []
    if lines:
        raise at.error("the last record has no end, //")


def _fasta(path: Path, file: IO, at: Reading) -> Iterator[tuple[str, str]]:
    """Records, without the comments that some write behind ; or #."""
    lines = (line for line in file if not line.startswith((";", "#")))
    first = next((line for line in lines if line.strip()), "")
    if first.startswith(">"):
        header, parts = first, []
        for line in lines:
            if line.startswith(">"):
                yield header[1:].rstrip(), "".join(parts).translate(BLANKS)
                header, parts = line, []
            else:
                parts.append(line)
        yield header[1:].rstrip(), "".join(parts).translate(BLANKS)
    elif first.strip().isalpha() and file_type(path) == ".txt":  # GenomicBenchmarks: one bare sequence a file
        bare = [line for line in (first, *lines) if line.strip()]
        if len(bare) > 1:
            rank_zero_warn(f"{path}: its {len(bare):,} lines, which have no headers, are read as one sequence")
        yield stem(path), "".join(bare).translate(BLANKS)
    elif first:
        at.place = "line 1"
        cure = "a record starts with >NAME, and commas, tabs or semicolons part the columns of a table"
        raise at.error(f"{first[:30].strip()!r} is no FASTA header", cure)
