"""Windows of the genome that are like the intervals of a BED file in length and GC, and overlap none of them."""

from collections import defaultdict

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from domains.genomics.bases import N, encode
from domains.genomics.bed import Intervals, minus

CANDIDATES, ROUNDS = 64, 8  # windows that are looked at together, and how often, before the nearest so far is taken
NEAR = 0.02  # of GC: a window that is as near is taken at once


def matched(found: Intervals, contigs: dict[str, str], count: int, seed: int) -> Intervals:
    """`count` windows for each interval, on its contig and strand, so that a split by contigs keeps the balance.

    Their length is the interval's, their GC is near its own, they hold no more N, and they overlap neither an interval
    nor each other.

    Args:
        found: the intervals, as they were cut.
        contigs: letters of the genome's contigs.
        count: windows for each.
        seed: of the places.
    """
    rows = defaultdict(list)
    for row, (contig, _, _) in enumerate(found.spans):
        rows[contig].append(row)
    drawn, gaps, missing = Intervals([], [], [], []), [], 0
    for contig, members in rows.items():
        rng = np.random.default_rng([seed, len(drawn.texts)])
        codes = np.minimum(encode(contigs[contig].encode("ascii", "replace")), N)
        taken = np.zeros(len(codes), bool)
        for row in members:
            _, start, end = found.spans[row]
            taken[max(start, 0) : max(end, 0)] = True
        for row in members * count:
            place, gap = _nearest(codes, taken, encode(found.texts[row]), rng)
            if place is None:
                missing += 1
                continue
            end = place + len(found.texts[row])
            taken[place:end] = True
            gaps.append(gap)
            strand = found.places[row][-2]
            text = contigs[contig][place:end].encode("ascii", "replace")
            drawn.spans.append((contig, place, end))
            drawn.places.append(f"{contig}:{place}-{end}({strand})")
            drawn.texts.append(minus(text) if strand == "-" else text)
            drawn.names.append(None)
    if missing:
        rank_zero_warn(f"no place was left for {missing:,} of {missing + len(gaps):,} negatives on their contigs")
    if far := sum(gap > 2 * NEAR for gap in gaps):
        rank_zero_warn(f"{far:,} of {len(gaps):,} negatives differ in GC by more than {2 * NEAR:.0%} from theirs")
    return drawn


def _nearest(
    codes: np.ndarray, taken: np.ndarray, wanted: np.ndarray, rng: np.random.Generator
) -> tuple[int | None, float]:
    """Start of a free window whose GC is near that of the codes `wanted`, and by how much it differs."""
    width = len(wanted)
    if width > len(codes):
        return None, 0.0
    best, gap = None, np.inf
    gc, unknown = _composition(wanted[None])
    for _ in range(ROUNDS):
        starts = rng.integers(0, len(codes) - width + 1, CANDIDATES)
        places = starts[:, None] + np.arange(width)
        ours, n = _composition(codes[places])
        differs = np.where(taken[places].any(1) | (n > unknown), np.inf, np.abs(ours - gc))
        if differs.min() < gap:
            best, gap = int(starts[differs.argmin()]), float(differs.min())
        if gap <= NEAR:
            break
    return best, gap


def _composition(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of G and C, and of N, in each row."""
    return ((codes == 1) | (codes == 2)).mean(1), (codes >= N).mean(1)
