"""Intervals of a genome."""

from pathlib import Path

import numpy as np
import torch

from domains.genomics.bases import LETTERS, N, complement, encode
from domains.genomics.files import id_of, opened, parse

TAKEN = ("", ".", "?")  # a BED name that is no class


def read_bed(path: Path, reference: str | None, width: int | None) -> tuple[list[str], list[bytes], list[str | None]]:
    """Headers, letters and names of the intervals of a BED file (0-based, end excluded) cut from the reference.

    What reaches over the end of a contig is filled with N, so that every window keeps its width; the minus strand is
    read as the reverse complement.

    Args:
        path: chrom, start, end and perhaps name, score and strand, between tabs.
        reference: FASTA of the genome.
        width: bases around the middle of each interval; None takes the interval itself.

    Raises:
        ValueError: no reference, or a line that does not fit it.
    """
    if reference is None:
        raise ValueError(f"{path}: a BED file needs its genome; set data.layout.reference to the FASTA")
    contigs = {id_of(header): letters for header, letters in parse(Path(reference))}
    headers, texts, names = [], [], []
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or line.startswith(("#", "track", "browser")):
                continue
            cells = line.rstrip("\r\n").split("\t")
            try:
                chrom, start, end = cells[0], int(cells[1]), int(cells[2])
            except (IndexError, ValueError):
                raise ValueError(
                    f"{path} line {number}: no tab-separated chrom, start, end; export it as BED"
                ) from None
            if chrom not in contigs:
                raise ValueError(
                    f"{path} line {number}: contig {chrom!r} is not in {reference} "
                    f"({', '.join(list(contigs)[:3])}, ...); rename it or take the right genome"
                )
            if end <= start:
                raise ValueError(f"{path} line {number}: end {end} is not behind start {start}; BED counts from 0")
            if width:
                start = (start + end) // 2 - width // 2
                end = start + width
            if start >= len(contigs[chrom]) or end <= 0:
                raise ValueError(
                    f"{path} line {number}: {chrom}:{start}-{end} lies outside the contig of "
                    f"{len(contigs[chrom])} bases; take the right genome"
                )
            text = window(contigs[chrom], start, end)
            strand = cells[5] if len(cells) > 5 else "+"
            headers.append(f"{chrom}:{start}-{end}({strand})")
            texts.append(minus(text) if strand == "-" else text)
            names.append(cells[3] if len(cells) > 3 and cells[3] not in TAKEN else None)
    return headers, texts, names


def window(contig: str, start: int, end: int) -> bytes:
    """Letters start to end of a contig, N where it has none."""
    inside = contig[max(start, 0) : max(end, 0)]
    return b"N" * max(-start, 0) + inside.encode() + b"N" * (end - max(start, 0) - len(inside))


def minus(text: bytes) -> bytes:
    """Reverse complement of letters, in upper case; what is no base becomes N."""
    codes = torch.from_numpy(np.minimum(encode(text), N))
    return np.frombuffer(LETTERS.encode(), np.uint8)[complement(codes).flip(0).numpy()].tobytes()
