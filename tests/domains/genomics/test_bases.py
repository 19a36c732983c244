"""Letters as numbers, many sequences as one tensor, and the other strand."""

import numpy as np
import pytest
import torch

from domains.genomics.bases import Repairs, Sequences, decode, encode, flip, joined, reverse_complement


def test_letters_of_either_case_u_and_iupac_are_read_and_counted() -> None:
    repairs = Repairs()
    assert encode(b"ACGTNacgtnUuRYkv", repairs).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 3, 3, 4, 4, 4, 4]
    assert repairs == Repairs(lower=8, uracil=2, ambiguous=4)
    assert str(repairs).startswith("8 lower-case letters") and "4 ambiguous letters" in str(repairs)
    assert not str(Repairs())


def test_what_is_no_nucleotide_is_marked() -> None:
    assert encode(b"AE*-A").tolist() == [0, 255, 255, 255, 0]


def test_a_batch_is_cut_and_padded_with_n() -> None:
    sequences = Sequences.of([b"ACGT", b"T", b"GGGGGG"])
    assert len(sequences) == 3 and sequences.lengths.tolist() == [4, 1, 6]
    rows = sequences.gather(torch.tensor([1, 2, 0]), 5)
    assert [decode(row) for row in rows] == ["TNNNN", "GGGGG", "ACGTN"]
    assert sequences.gather(torch.tensor([2]), 8)[0, -2:].tolist() == [4, 4]
    assert Sequences.of([b"ANNT", b"T", b"N"]).unknown().tolist() == [2, 0, 1]


def test_select_orders_and_cuts() -> None:
    sequences = Sequences.of([b"ACGT", b"T", b"GGGGGG"]).select(torch.tensor([2, 0]), 3)
    assert [decode(sequences[i]) for i in range(2)] == ["GGG", "ACG"]
    assert [decode(joined([sequences, sequences])[i]) for i in range(4)] == ["GGG", "ACG", "GGG", "ACG"]


@pytest.mark.parametrize("shape", [(), (5,)])
def test_rows_turn_within_their_lengths(shape: tuple[int, ...]) -> None:
    x = torch.randn(3, 6, *shape)
    turned = flip(x, torch.tensor([6, 1, 4]))
    assert torch.equal(turned[0], x[0].flip(0)) and torch.equal(turned[1], x[1])
    assert torch.equal(turned[2, :4], x[2, :4].flip(0)) and torch.equal(turned[2, 4:], x[2, 4:])
    assert torch.equal(flip(x, None), x.flip(1))


def test_the_other_strand_is_biopythons() -> None:
    from Bio.Seq import reverse_complement as expected

    texts = ["".join(np.random.default_rng(i).choice(list("ACGTN"), 30 - i)) for i in range(4)]
    sequences = Sequences.of([text.encode() for text in texts])
    bases, lengths = sequences.gather(torch.arange(4), 30), sequences.lengths
    other = reverse_complement(bases, lengths)
    assert [decode(row[:n]) for row, n in zip(other, lengths.tolist(), strict=True)] == [expected(t) for t in texts]
    assert torch.equal(reverse_complement(other, lengths), bases)
    weights = torch.nn.functional.one_hot(bases.long(), 5).float()
    assert torch.equal(reverse_complement(weights, lengths).argmax(-1).byte(), other)
