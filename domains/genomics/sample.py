"""Generated DNA: random background with a motif planted per class, for runs without data and tests."""

from collections.abc import Iterator

import numpy as np
import torch

from domains.genomics.bases import Sequences, encode
from domains.genomics.records import Records

MOTIFS = {"gata": b"AGATAAGGCT", "tata": b"TATAAAAGGC", "none": b""}


def sample_records(rows: int = 1500, shortest: int = 60, longest: int = 140, seed: int = 0) -> Records:
    """`rows` sequences of random lengths, a third with each motif of MOTIFS somewhere and a third without; split
    0.7 / 0.1 / 0.2. The same for the same seed.
    """
    random = np.random.default_rng(seed)
    lengths = random.integers(shortest, longest + 1, rows)
    offsets = np.concatenate([[0], lengths.cumsum()])
    codes = random.integers(0, 4, offsets[-1], dtype=np.uint8)
    labels = np.array(list(MOTIFS), dtype=object)[random.integers(0, len(MOTIFS), rows)]
    for name, motif in MOTIFS.items():
        chosen = np.flatnonzero(labels == name)
        start = offsets[chosen] + random.integers(0, lengths[chosen] - len(motif) + 1)
        codes[start[:, None] + np.arange(len(motif))] = encode(motif)
    return Records(
        Sequences(torch.from_numpy(codes), torch.from_numpy(offsets)),
        np.char.add("sample", np.arange(rows).astype(str)).astype(object),
        labels,
        splits=np.array(["train", "val", "test"], dtype=object)[
            np.searchsorted([0.7, 0.8], np.arange(rows) / rows, "right")
        ],
        source="sample",
    )


def planted_pairs(
    genome: torch.Tensor, rows: int, distance: int, seed: int, flank: int = 64
) -> tuple[Sequences, torch.Tensor]:
    """A needle test for range: windows of a real genome with two motifs `distance` bases apart.

    Each is one of two motifs; the class is 1 where they are the same. Each motif alone, and any window that holds only
    one of them, says nothing about the class.

    Args:
        genome: codes uint8 [bases], on any device.
        rows: sequences.
        distance: bases from the first motif's start to the second's.
        seed: of places and motifs.
        flank: bases before the first motif and behind the second, at most.

    Returns:
        sequences of distance + 2 flank bases, and the classes int64 [rows].
    """
    motifs = torch.from_numpy(np.stack([encode(b"GGATCCTAGCGCTA"), encode(b"TTGCAACGGTCAAT")]))
    length = distance + 2 * flank
    motifs = motifs.to(genome.device, non_blocking=True)
    drawn = {"generator": torch.Generator(genome.device).manual_seed(seed), "device": genome.device}
    start = torch.randint(len(genome) - length, (rows, 1), **drawn)
    first = torch.randint(0, flank - motifs.shape[1], (rows, 1), **drawn)
    kinds = torch.randint(2, (2, rows), **drawn)
    steps = torch.arange(length, device=genome.device)
    codes = genome[start + steps]
    for kind, place in zip(kinds, (first, first + distance), strict=True):
        codes.scatter_(1, place + steps[: motifs.shape[1]], motifs[kind])
    offsets = torch.arange(rows + 1, device=genome.device) * length
    return Sequences(codes.flatten(), offsets), (kinds[0] == kinds[1]).long()


def sample_genome(records: int = 60, length: int = 2000, seed: int = 0) -> Iterator[bytes]:
    """Records to predict the next base of: motifs that all share, and one that each repeats to itself, with random
    bases in between. The same for the same seed.
    """
    random = np.random.default_rng(seed)
    letters = np.frombuffer(b"ACGT", np.uint8)

    def noise(bases: int) -> bytes:
        return letters[random.integers(0, 4, bases)].tobytes()

    for _ in range(records):
        kinds = [motif for motif in MOTIFS.values() if motif] + [noise(16)]
        parts: list[bytes] = []
        while sum(map(len, parts)) < length:
            parts += [kinds[random.integers(len(kinds))], noise(random.integers(4, 13))]
        yield b"".join(parts)[:length]
