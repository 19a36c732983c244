"""On which strand a place of the genome is read, by the annotation: BED, GFF or GTF."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from app.reading import reading
from domains.genomics.bed import NO_NAME, bed_rows
from domains.genomics.sniff import inspect

NAMES = [re.compile(rf'\b{key}[ =]"?([^";]+)') for key in ("gene_name", "Name", "gene_id", "ID")]  # the best first
Feature = tuple[str, int, int, str, str]  # contig, start, end, strand, name


class Strands:
    """Intervals of a genome with a strand and a name.

    Args:
        path: BED with six columns; or GFF or GTF, of which genes are taken: `gene`, `ncRNA_gene`, `pseudogene` and the
            like.

    Raises:
        ValueError: the file is damaged, or holds nothing of this.
    """

    def __init__(self, path: Path) -> None:
        by_contig = defaultdict(list)
        for contig, *feature in _genes(path) if inspect(path).kind == "gff" else _intervals(path):
            by_contig[contig].append(feature)
        if not by_contig:
            raise ValueError(f"{path}: holds no interval with a strand; give BED with six columns, or GFF with genes")
        self.features = {
            contig: (np.array([f[0] for f in found]), np.array([f[1] for f in found]), [f[2:] for f in found])
            for contig, found in by_contig.items()
        }

    def at(self, contig: str, place: int) -> list[tuple[str, str]]:
        """Strand and name of every feature over a place, from 0, in the order of the file."""
        if contig not in self.features:
            return []
        starts, ends, named = self.features[contig]
        return [tuple(named[row]) for row in np.flatnonzero((starts <= place) & (place < ends))]


def _intervals(path: Path) -> Iterator[Feature]:
    for _, row in bed_rows(path):
        if row["strand"] in ("+", "-"):
            yield row["chrom"], row["start"], row["end"], row["strand"], "" if row["name"] in NO_NAME else row["name"]


def _genes(path: Path) -> Iterator[Feature]:
    with reading(path, "a whole GFF file", "export it as BED") as at, inspect(path).text() as file:
        for number, line in enumerate(file, 1):
            at.place = f"line {number}"
            if line.startswith("##FASTA"):
                return
            if not line.strip() or line.startswith("#"):
                continue
            cells = line.rstrip("\r\n").split("\t")
            if len(cells) < 9 or not (cells[3].isdecimal() and cells[4].isdecimal()):
                raise at.error("no nine tab-separated columns with start and end in 4 and 5")
            if int(cells[4]) < int(cells[3]):
                raise at.error(f"end {cells[4]} stands before start {cells[3]}")
            if cells[2].endswith("gene") and cells[6] in ("+", "-"):
                names = [match[1] for name in NAMES if (match := name.search(cells[8]))]
                yield cells[0], int(cells[3]) - 1, int(cells[4]), cells[6], (names or [""])[0]
