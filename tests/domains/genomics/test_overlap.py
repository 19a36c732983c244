"""Overlapping sequences are found, and stay on one side of a split."""

import numpy as np
import pytest
import torch

from domains.genomics import overlap
from domains.genomics.bases import Sequences, reverse_complement
from domains.genomics.overlap import carve, groups, kmers, leakage


def random_bases(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, count, dtype=np.uint8)


def of(rows: list[np.ndarray]) -> Sequences:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return Sequences(torch.from_numpy(np.concatenate(rows)), torch.from_numpy(offsets))


def test_kmers_stay_inside_a_sequence_and_skip_n() -> None:
    values, rows = kmers(Sequences.of([b"ACGT", b"AC", b"ACNGT"]), 2, strands=False)
    assert values.tolist() == [1, 6, 11, 1, 1, 11] and rows.tolist() == [0, 0, 0, 1, 2, 2]


def test_both_strands_have_the_same_kmers() -> None:
    forward = of([random_bases(50)])
    backward = Sequences(reverse_complement(forward.codes[None], None)[0], forward.offsets)
    one, two = (np.sort(kmers(part, 7)[0]) for part in (forward, backward))
    assert (one == two).all() and not (np.sort(kmers(forward, 7, strands=False)[0]) == one).all()


@pytest.mark.parametrize("sketch", [10**9, 20_000])
def test_windows_of_one_piece_are_one_group(sketch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "SKETCH", sketch)
    pieces = [random_bases(1000, seed) for seed in range(20)]
    rows = [piece[start : start + 500] for piece in pieces for start in (0, 200, 400)] + [random_bases(500, 99)]
    found = groups(of(rows))
    assert len(np.unique(found)) == 21 and (found[:60].reshape(20, 3) == found[:60:3, None]).all()


def test_short_copies_are_one_group_and_others_are_not() -> None:
    assert len(np.unique(groups(Sequences.of([b"ACG", b"ACG", b"ACT", b"A"])))) == 3


def test_leakage_counts_what_is_shared() -> None:
    train = of([random_bases(200, seed) for seed in range(5)])
    piece = train[0].numpy()
    test = of(
        [piece, np.concatenate([piece[:60], random_bases(140, 50)]), random_bases(200, 51), random_bases(200, 52)]
    )
    assert leakage(train, test) == {"any": 0.5, "half": 0.25, "identical": 0.25}


def test_a_group_is_never_split_and_every_class_keeps_rows() -> None:
    random = np.random.default_rng(0)
    group = random.integers(0, 300, 2000)
    labels = (group % 3 == 0).astype(int) + (group == 5) * 2  # the third class is one group
    held = carve(group, labels, 0.1, seed=0)
    assert 0.07 < held.mean() < 0.13
    assert not set(group[held]) & set(group[~held])
    assert set(labels[~held]) == set(labels)
    assert (carve(group, labels, 0.1, seed=0) == held).all()


def test_one_group_of_everything_cannot_be_held_out() -> None:
    assert not carve(np.zeros(100, int), np.arange(100) % 2, 0.1, 0).any()
