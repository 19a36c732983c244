"""Generated DNA: random background with a motif planted per class, for runs without data and tests."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from domains.genomics.bases import Sequences, encode
from domains.genomics.records import Records

PLANTED = (b"GGATCCTAGCGCTA", b"TTGCAACGGTCAAT", b"CCTGATAGTTCAGC")  # pairs are of the first two
ORDERS = ("abc", "acb", "bac", "bca", "cab", "cba")  # of all three
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
    drawn = _drawn(genome, seed)
    codes, first = _windows(genome, rows, distance, flank, drawn)
    kinds = torch.randint(2, (2, rows), **drawn)
    offsets = torch.arange(rows + 1, device=genome.device) * codes.shape[1]
    _plant(codes, kinds, [first, first + distance])
    return Sequences(codes.flatten(), offsets), (kinds[0] == kinds[1]).long()


def planted_orders(
    genome: torch.Tensor, rows: int, distance: int, seed: int, flank: int = 64
) -> tuple[Sequences, torch.Tensor]:
    """Windows of a real genome with three motifs a, b and c, each `distance` bases behind the last, in any order.

    The class is which of the ORDERS they follow in. All three stand in every window, so that which motifs there are
    says nothing: they must be told apart and set in order.

    Args:
        genome: codes uint8 [bases], on any device.
        rows: sequences.
        distance: bases from the start of a motif to that of the next.
        seed: of places and orders.
        flank: bases before the first motif and behind the last, at most.

    Returns:
        sequences of 2 distance + 2 flank bases, and the classes int64 [rows].
    """
    drawn = _drawn(genome, seed)
    codes, first = _windows(genome, rows, 2 * distance, flank, drawn)
    kinds = torch.rand((3, rows), **drawn).argsort(0)
    offsets = torch.arange(rows + 1, device=genome.device) * codes.shape[1]
    _plant(codes, kinds, [first, first + distance, first + 2 * distance])
    return Sequences(codes.flatten(), offsets), 2 * kinds[0] + (kinds[1] > kinds[2]).long()


def _drawn(genome: torch.Tensor, seed: int) -> dict[str, Any]:
    """How numbers are drawn: where the genome is, from a seed."""
    return {"generator": torch.Generator(genome.device).manual_seed(seed), "device": genome.device}


def _windows(
    genome: torch.Tensor, rows: int, span: int, flank: int, drawn: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows [rows, span + 2 flank] of a genome, and where the first motif of each starts, [rows, 1]."""
    length = span + 2 * flank
    start = torch.randint(len(genome) - length, (rows, 1), **drawn)
    first = torch.randint(0, flank - len(PLANTED[0]), (rows, 1), **drawn)
    return genome[start + torch.arange(length, device=genome.device)], first


def _plant(codes: torch.Tensor, kinds: torch.Tensor, places: list[torch.Tensor]) -> None:
    """Write a motif of PLANTED into every row of codes at each of some places [rows, 1]; kinds [places, rows]."""
    motifs = torch.from_numpy(np.stack([encode(motif) for motif in PLANTED]))
    motifs = motifs.to(codes.device, non_blocking=True)
    steps = torch.arange(motifs.shape[1], device=codes.device)
    for kind, place in zip(kinds, places, strict=True):
        codes.scatter_(1, place + steps, motifs[kind])


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
