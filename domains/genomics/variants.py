"""Variants of a VCF file, checked against the genome that they were called on."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.reading import Reading, reading
from domains.genomics.bed import contig_of, window
from domains.genomics.records import Passed
from domains.genomics.sniff import inspect

NAMES = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO")  # of the columns
COLUMNS = 5  # CHROM, POS, ID, REF, ALT: what every line must have
INFO = NAMES.index("INFO")
FIRST = str.maketrans("MRWVHDSYBK", "AAAAAACCCG")  # VCF writes the first letter of what a genome leaves open, but N
NUCLEOTIDES = re.compile(r"[ACGTUNRYSWKMBDHV]+", re.IGNORECASE)


@dataclass(frozen=True)
class Variant:
    """One alternative allele of a line.

    Args:
        contig: name of the contig.
        position: of the first letter of `ref`, from 1, as VCF counts.
        name: the ID column.
        ref: letters of the reference, upper case.
        alt: letters in their place, upper case.
        allele: which of the line's alternative alleles, from 0.
    """

    contig: str
    position: int
    name: str
    ref: str
    alt: str
    allele: int

    def where(self) -> dict[str, str | int]:
        """What tells it from all others, by the columns of a table."""
        place = {"chrom": self.contig, "pos": self.position, "id": self.name}
        return place | {"ref": self.ref, "alt": self.alt, "allele": self.allele}

    def windows(self, contig: str, width: int) -> tuple[bytes, bytes] | None:
        """Letters [width] around the reference and around the alternative allele; None where these do not fit in.

        Letters that both alleles begin or end with are context. The variant stands in the middle; both windows begin
        at the same base, and where the alleles differ in length they end at different ones. N stands behind the ends
        of a contig.
        """
        start, ref, alt = trimmed(self.position - 1, self.ref, self.alt)
        longest = max(len(ref), len(alt))
        if longest > width:
            return None
        before = (width - longest) // 2
        left = window(contig, start - before, start)
        found = []
        for allele in (ref, alt):
            behind = start + len(ref)
            found.append(left + allele.encode() + window(contig, behind, behind + width - before - len(allele)))
        return found[0], found[1]


@dataclass
class Line:
    """A line of a VCF file.

    Args:
        cells: its columns; of a header line the whole text.
        alleles: alternative alleles of it.
        variants: those that can be read.
    """

    cells: list[str]
    alleles: int
    variants: list[Variant]


def trimmed(start: int, ref: str, alt: str) -> tuple[int, str, str]:
    """Place and alleles without the letters that both end with, then without those that both begin with."""
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    while ref and alt and ref[0] == alt[0]:
        start, ref, alt = start + 1, ref[1:], alt[1:]
    return start, ref, alt


def read_vcf(path: Path, contigs: dict[str, str], reference: Path, passed: Passed) -> Iterator[Line]:
    """The lines of a VCF file, plain or packed.

    Alleles that are no letters (`<DEL>`, `*`, breakends, `.`) are passed over and counted.

    Args:
        path: the file.
        contigs: letters of the genome's contigs.
        reference: the genome's file, for messages.
        passed: counts what was passed over.

    Raises:
        ValueError: names the line that is none of VCF, lies outside the genome, or whose REF is not what stands there.
    """
    with reading(path, "a whole VCF file", "export it again, for example with bcftools view") as at:
        source = inspect(path)
        if source.kind != "vcf":
            raise at.error(f"looks like a {source.kind} file, where variants are wanted", "give a VCF file")
        with source.text() as file:
            for number, text in enumerate(file, 1):
                at.place = f"line {number}"
                text = text.rstrip("\r\n")
                if text.startswith("#") or not text:
                    yield Line([text], 0, [])
                else:
                    yield _line(text.split("\t"), contigs, reference, passed, at)


def _line(cells: list[str], contigs: dict[str, str], reference: Path, passed: Passed, at: Reading) -> Line:
    if len(cells) < COLUMNS:
        raise at.error("no tab-separated CHROM, POS, ID, REF, ALT", "part its columns by tabs")
    if not cells[1].isdecimal():
        raise at.error(f"POS {cells[1][:40]!r} is no whole number")
    chrom, position, name, ref, alts = cells[0], int(cells[1]), *cells[2:COLUMNS]
    alleles, ref = alts.upper().split(","), ref.upper()
    if not NUCLEOTIDES.fullmatch(ref):
        raise at.error(f"REF {ref[:40]!r} is no DNA")
    read = [number for number, alt in enumerate(alleles) if NUCLEOTIDES.fullmatch(alt)]
    for number, alt in enumerate(alleles):
        if number not in read:
            passed.add("that are no letters", f"{alt[:40]!r} of {at.place}")
    if not read:  # of a symbolic allele REF is often N
        return Line(cells, len(alleles), [])
    contig = contig_of(contigs, chrom, reference, at)
    there = contig[max(position - 1, 0) : max(position - 1, 0) + len(ref)].upper()
    if position < 1 or len(there) < len(ref):
        raise at.error(
            f"{chrom}:{position} lies outside the contig of {len(contig):,} bases",
            "take the genome that the variants were called on",
        )
    there = there.replace("U", "T")
    if ref.replace("U", "T") not in (there, there.translate(FIRST)):
        raise at.error(
            f"REF is {ref[:40]!r}, but {reference} has {there[:40]!r} at {chrom}:{position}",
            "take the genome that the variants were called on",
        )
    variants = []
    for number in read:
        if alleles[number] == ref:
            passed.add("that are the reference", at.place)
        else:
            variants.append(Variant(chrom, position, name, ref, alleles[number], number))
    return Line(cells, len(alleles), variants)
