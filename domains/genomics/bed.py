"""Intervals of a genome: BED, narrowPeak and broadPeak."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from lightning.pytorch.utilities import rank_zero_warn

from app.reading import Reading, reading
from domains.genomics.bases import NUCLEOTIDES
from domains.genomics.files import parse
from domains.genomics.names import first_word, numbered
from domains.genomics.records import Passed
from domains.genomics.sniff import NOTE, inspect

ORDER = ("chrom", "start", "end", "name", "score", "strand")  # of the columns, where no header line names them
NARROW = 10  # columns of narrowPeak, the last of which is the summit
SAYS = {  # names of a header line
    "chrom": ("chrom", "chr", "chromosome", "seqname", "seqnames"),
    "start": ("start", "chromstart"),
    "end": ("end", "stop", "chromend"),
    "name": ("name", "id"),
    "score": ("score",),
    "strand": ("strand",),
    "peak": ("peak", "summit"),
    "width": ("width", "length"),
}
NO_NAME = ("", ".", "?")
PAIRS = bytes.maketrans(b"ACGTURYKMBDHVacgturykmbdhv", b"TGCAAYRMKVHDBtgcaayrmkvhdb")  # letters of the two strands
QUOTED = re.compile(r'^"(.*)"$')  # as R writes names; a quote without its other is part of a damaged line
BLOCKS = 10  # column of BED with the number of exons of a transcript, from 1
Centre = Literal["middle", "summit"]


@dataclass
class Intervals:
    """What a BED file holds, in its order.

    Args:
        places: `chrom:start-end(strand)` of each, as it was cut.
        texts: letters of each.
        names: the name column, None where it names nothing.
        spans: contig, first base and end of what was cut.
    """

    places: list[str]
    texts: list[bytes]
    names: list[str | None]
    spans: list[tuple[str, int, int]]

    def columns(self) -> tuple[list, list, list, list]:
        """The four lists."""
        return self.places, self.texts, self.names, self.spans

    def ids(self) -> list[str]:
        """A name for each, none twice: the name column where it tells them apart, else `name::place`, as bedtools has
        it, or the place.
        """
        if None not in self.names and len(set(self.names)) == len(self.names):
            return list(self.names)
        pairs = zip(self.names, self.places, strict=True)
        seen: Counter[str] = Counter()
        return [numbered(f"{name}::{place}" if name else place, seen) for name, place in pairs]


def read_bed(
    path: Path, reference: str | None, width: int | None = None, centre: Centre = "middle", passed: Passed | None = None
) -> Intervals:
    """The intervals of a BED, narrowPeak or broadPeak file (0-based, end excluded), cut from the reference.

    What reaches over the end of a contig is filled with N, so that every window keeps its width; the minus strand is
    read as the reverse complement, a strand that is not known as plus.

    Args:
        path: chrom, start, end and perhaps name, score and strand, between tabs, or in the order of a header line.
        reference: FASTA of the genome.
        width: bases around the centre of each interval; None takes the interval itself.
        centre: `middle`, or the `summit` of narrowPeak.
        passed: counts intervals that do not fit the reference, which are left out; None refuses them.

    Raises:
        ValueError: no reference, or a line, or with `passed` every line, that does not fit it.
    """
    if reference is None:
        raise ValueError(f"{path}: a BED file needs its genome; set data.layout.reference, or give --reference FASTA")
    genome = Path(reference)
    contigs = contigs_of(genome)
    found = Intervals([], [], [], [])
    spliced = 0
    unfit: ValueError | None = None
    for at, row in bed_rows(path):
        try:
            contig = contig_of(contigs, row["chrom"], genome, at)
            start, end = _window(row, len(contig), width, centre, at)
        except ValueError as error:
            if passed is None:
                raise
            passed.add("that do not fit the genome", str(error))
            unfit = unfit or error
            continue
        text = window(contig, start, end)
        strand = "-" if row["strand"] == "-" else "+"
        found.places.append(f"{row['chrom']}:{start}-{end}({strand})")
        found.texts.append(minus(text) if strand == "-" else text)
        found.names.append(None if row["name"] in NO_NAME else row["name"])
        found.spans.append((row["chrom"], start, end))
        spliced += row.get("blocks", "").isdecimal() and int(row["blocks"]) > 1
    if unfit is not None and not found.texts:
        raise unfit
    if spliced:
        rank_zero_warn(f"{path}: {spliced:,} intervals have blocks (column {BLOCKS}), and are read from end to end")
    return found


def contigs_of(genome: Path) -> dict[str, str]:
    """Letters of every contig of a genome's FASTA, by the first word of its header; of the last genome, kept."""
    return _contigs(genome, genome.stat().st_mtime_ns if genome.exists() else 0)


@lru_cache(1)  # several BED files are cut from one genome, which takes long to read
def _contigs(genome: Path, _: int) -> dict[str, str]:
    contigs: dict[str, str] = {}
    for header, letters in parse(genome):
        name = first_word(header)
        if name in contigs:
            raise ValueError(f"{genome}: two contigs are called {name[:40]!r}; rename or drop one")
        if other := letters.encode("ascii", "replace").translate(None, NUCLEOTIDES):
            told = f"{chr(other[0])!r} in contig {name[:40]!r} is no nucleotide ({len(other):,} such letters)"
            raise ValueError(f"{genome}: {told}; take the right genome, or write N in their place")
        contigs[name] = letters
    if not contigs:
        raise ValueError(f"{genome}: holds no contig; check that it is the right file and not empty")
    return contigs


def forget_genome() -> None:
    """Free the memory of the genome that was read last."""
    _contigs.cache_clear()


def contig_of(contigs: dict[str, str], name: str, genome: Path | str, at: Reading) -> str:
    """Letters of a contig that a file names.

    Raises:
        ValueError: the genome has none of that name.
    """
    if name not in contigs:
        some = ", ".join(list(contigs)[:3])
        told = f"contig {name[:40]!r} is not in {genome} ({some}, ...)"
        raise at.error(told, renaming([name], contigs) or "rename it or take the right genome")
    return contigs[name]


def renaming(names: Iterable[str], contigs: Iterable[str]) -> str:
    """The cure where a genome has one of the names in the other of the two usual spellings (chr1, 1); or ""."""
    spelt = {plain_contig(contig): contig for contig in contigs}
    for name in names:
        if found := spelt.get(plain_contig(name)):
            return f"{name!r} is {found!r} there: rename it, and the others likewise"
    return ""


def plain_contig(name: str) -> str:
    """Name of a contig as Ensembl writes it, in upper case: 1 of chr1, MT of chrM."""
    plain = re.sub(r"^CHR", "", name.upper())
    return "MT" if plain == "M" else plain


def bed_rows(path: Path) -> Iterator[tuple[Reading, dict]]:
    """The rows of a BED file by the names of their columns, checked, each with its place in the file."""
    columns = None
    with reading(path, "a whole BED file", "export it as BED") as at, inspect(path).text() as file:
        for number, line in enumerate(file, 1):
            at.place = f"line {number}"
            cells = [QUOTED.sub(r"\1", cell.strip(" \r\n")).strip(" ") for cell in line.split("\t")]
            named = columns_named(cells) if columns is None else None
            if named or not line.strip() or NOTE.match(line):
                columns = named or columns
                continue
            yield at, _row(cells, columns, at)


def columns_named(cells: list[str]) -> dict[str, int] | None:
    """Places of the columns that a header line names; None where it is no header."""
    words = [cell.lstrip("#").strip().lower() for cell in cells]
    columns = {name: words.index(word) for name, others in SAYS.items() for word in others if word in words}
    return columns if {"chrom", "start", "end"} <= columns.keys() else None


def _row(cells: list[str], columns: dict[str, int] | None, at: Reading) -> dict:
    """The columns of a line by name, checked."""
    if columns is None:
        columns = {name: place for place, name in enumerate(ORDER)}
        columns |= {"peak": NARROW - 1} if len(cells) == NARROW else {}
        columns |= {"blocks": BLOCKS - 1} if len(cells) > NARROW else {}
    row = {name: cells[place] if place < len(cells) else "" for name, place in columns.items()}
    if not row["end"]:
        raise at.error("no tab-separated chrom, start, end", "part its columns by tabs")
    for name in ("start", "end"):
        if not re.fullmatch(r"-?[0-9]+", row[name]):
            raise at.error(f"{name} {row[name][:40]!r} is no whole number", "write it in digits alone")
    row["start"], row["end"] = int(row["start"]), int(row["end"])
    row = {"name": "", "score": "", "strand": ""} | row
    if row["end"] <= row["start"]:
        raise at.error(f"end {row['end']} is not behind start {row['start']}", "BED counts from 0, end excluded")
    if row["name"] in ("+", "-") or row["score"] in ("+", "-"):
        place = cells.index(row["name"] if row["name"] in ("+", "-") else row["score"]) + 1
        raise at.error(
            f"column {place} is {cells[place - 1]!r}, but a strand stands in column 6", "put name and score before it"
        )
    if not re.fullmatch(r"|\.|NA|[-+0-9.eE]+|nan|inf", row["score"]):
        raise at.error(f"column 5 is {row['score'][:40]!r}, where BED has a number, the score", "write a number or .")
    if row["strand"] not in ("+", "-", ".", ""):
        raise at.error(f"strand {row['strand'][:40]!r} is unknown", "write +, -, or . where there is none")
    if row.get("width") and row["width"] != str(row["end"] - row["start"]):
        raise at.error(
            f"width {row['width']} is not end - start: tables of R and MACS count from 1",
            "export with rtracklayer::export.bed, or give MACS's .narrowPeak",
        )
    return row


def _window(row: dict, contig: int, width: int | None, centre: Centre, at: Reading) -> tuple[int, int]:
    """First base and end of what is cut for a row."""
    start, end = row["start"], row["end"]
    place = f"{row['chrom']}:{start}-{end}"
    inside = min(end, contig) - max(start, 0)
    if inside <= 0:
        raise at.error(f"{place} lies outside the contig of {contig} bases", "take the right genome")
    if 2 * inside < end - start:
        raise at.error(
            f"{place} lies for the most part outside the contig of {contig} bases", "check its digits and the genome"
        )
    middle = (start + end) // 2
    if centre == "summit":
        if not re.fullmatch(r"[0-9]+", row.get("peak", "")):
            cure = "set data.layout.centre to middle (where a model answers, --centre)"
            raise at.error("has no summit in column 10, as narrowPeak has", cure)
        middle = start + int(row["peak"])
        if middle >= end:
            raise at.error(f"summit {row['peak']} lies behind the end of {place}", "it counts from the start")
    if not width:
        return start, end
    return middle - width // 2, middle - width // 2 + width


def window(contig: str, start: int, end: int) -> bytes:
    """Letters start to end of a contig, N where it has none."""
    inside = contig[max(start, 0) : max(end, 0)]
    behind = end - max(start, 0) - len(inside)
    return b"N" * max(-start, 0) + inside.encode("ascii", "replace") + b"N" * behind


def minus(text: bytes) -> bytes:
    """Reverse complement of letters, each in its own case; what is no nucleotide stays what it is."""
    return text.translate(PAIRS)[::-1]
