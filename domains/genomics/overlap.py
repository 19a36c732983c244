"""Which sequences overlap: long k-mers in common, for splits that do not leak and for the report."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from domains.genomics.bases import N, Sequences, joined

K = 21  # bases; random sequences do not share so long a piece
PART = 4_000_000  # bases whose k-mers are made at a time
SKETCH = 8_000_000  # k-mers that are looked at: of larger sets, a fixed random part of all possible k-mers
NEAR = 8  # rows with one k-mer that are compared with each other, in sorted order
SHARED = 0.2  # of the shorter one's k-mers: from there on two sequences belong to one group


def kmers(sequences: Sequences, k: int, strands: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Every k-mer without N as a number, int64 [M], and the row it stands in, int64 [M].

    Args:
        sequences: any.
        k: at most 31, two bits a base.
        strands: give a k-mer and its reverse complement one number.
    """
    codes = sequences.codes.numpy().astype(np.int64)
    offsets = sequences.offsets.numpy()
    places = max(len(codes) - k + 1, 0)
    forward, backward = np.zeros(places, np.int64), np.zeros(places, np.int64)
    known = codes < N
    for i in range(k):
        piece = codes[i : i + places]
        forward = forward << 2 | (piece & 3)
        if strands:
            backward |= (3 - (piece & 3)) << 2 * i
    missing = np.concatenate([[0], (~known).cumsum()])
    rows = np.repeat(np.arange(len(sequences)), np.diff(offsets))[:places]
    whole = (missing[k : k + places] == missing[:places]) & (np.arange(places) + k <= offsets[rows + 1])
    values = np.minimum(forward, backward) if strands else forward
    return values[whole], rows[whole]


def in_parts(sequences: Sequences) -> Iterator[tuple[int, Sequences]]:
    """The sequences some millions of bases at a time, and the row that each part begins with."""
    ends = sequences.offsets[1:]
    first = 0
    while first < len(sequences):
        end = max(int(torch.searchsorted(ends, sequences.offsets[first] + PART, right=True)), first + 1)
        yield first, sequences.select(torch.arange(first, end))
        first = end


def sketch(sequences: Sequences, k: int = K) -> tuple[np.ndarray, np.ndarray]:
    """As `kmers`, but of large sets only those whose hash is small, the same ones in every set; each once a row.

    They come sorted by number and then by row.
    """
    keep = min(1.0, SKETCH / max(len(sequences.codes), 1))
    values, rows = [], []
    for first, part in in_parts(sequences):
        found, place = kmers(part, k)
        chosen = _hash(found) <= keep * (2**64 - 1) if keep < 1 else slice(None)
        values.append(found[chosen])
        rows.append(place[chosen] + first)
    value, row = np.concatenate(values), np.concatenate(rows)
    order = np.argsort(value, kind="stable")  # rows ascend already
    value, row = value[order], row[order]
    fresh = np.ones(len(value), bool)
    fresh[1:] = (value[1:] != value[:-1]) | (row[1:] != row[:-1])
    return value[fresh], row[fresh]


def _hash(values: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser: as good as random, and the same everywhere."""
    x = values.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def groups(sequences: Sequences) -> np.ndarray:
    """A group number for each sequence, int64 [rows]: single linkage of those that share a fifth of their k-mers.

    Sequences shorter than a k-mer are linked only where they are equal.
    """
    rows = len(sequences)
    values, place = sketch(sequences)
    size = np.maximum(np.bincount(place, minlength=rows), 1)
    links = [np.zeros((2, 0), np.int64)]
    for step in range(1, min(NEAR, len(values) - 1) + 1):
        same = values[step:] == values[:-step]
        links.append(np.stack([place[:-step][same], place[step:][same]]))
    first, second = np.concatenate(links, 1)
    counted = coo_matrix((np.ones(len(first), np.int64), (first, second)), shape=(rows, rows)).tocsr().tocoo()
    near = counted.data >= SHARED * np.minimum(size[counted.row], size[counted.col])
    equal = copies(sequences)
    edges = (
        np.concatenate([counted.row[near], np.arange(rows)]),
        np.concatenate([counted.col[near], equal]),
    )
    graph = coo_matrix((np.ones(len(edges[0]), bool), edges), shape=(rows, rows))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def copies(sequences: Sequences) -> np.ndarray:
    """The first row that holds the same sequence, int64 [rows]."""
    seen: dict[bytes, int] = {}
    text, offsets = sequences.codes.numpy().tobytes(), sequences.offsets.tolist()
    found = (seen.setdefault(text[a:b], row) for row, (a, b) in enumerate(zip(offsets, offsets[1:], strict=False)))
    return np.fromiter(found, np.int64, len(sequences))


def leakage(train: Sequences, test: Sequences) -> dict[str, float]:
    """Share of test rows with any and with half of their k-mers (K bases) in train, and of copies of a train row."""
    known = sketch(train)[0]  # sorted
    values, place = sketch(test)
    near = np.searchsorted(known, values)
    inside = np.append(known, -1)[near] == values
    total = np.bincount(place, minlength=len(test))
    shared = np.bincount(place[inside], minlength=len(test))
    both = joined([train, test])
    return {
        "any": float((shared > 0).mean()),
        "half": float(((shared >= 0.5 * total) & (total > 0)).mean()),
        "identical": float((copies(both)[len(train) :] < len(train)).mean()),
    }


def carve(groups: np.ndarray, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """True for the rows of a validation part of about `share` of each class, whole groups only, bool [rows].

    Groups are drawn in random order; one is taken while its most frequent class still lacks rows. A class of which the
    rest would hold no row is left in train.
    """
    random = np.random.default_rng(seed)
    names, group = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), labels.max() + 1), np.int64)
    np.add.at(counts, (group, labels), 1)
    wanted = share * counts.sum(0)
    taken, chosen = np.zeros_like(wanted), np.zeros(len(names), bool)
    main = counts.argmax(1)
    left = counts.sum(0)
    for index in random.permutation(len(names)):
        after = taken + counts[index]
        kind = main[index]
        too_much = after[kind] > max(1.5 * wanted[kind], wanted[kind] + 1)
        empties = ((left == counts[index]) & (left > 0)).any()
        if taken[kind] < wanted[kind] and not too_much and not empties:
            chosen[index], taken = True, after
            left = left - counts[index]
    return chosen[group]
