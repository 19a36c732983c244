"""A memory of k-mers as a control: what stands at each base is looked up, nothing is written while reading.

Every k-mer of a few lengths has learned entries in tables, long ones by hashing, several of which may share an entry
(hash embeddings, Svenstrup et al. 2017; for n-grams of text, Engram, Cheng et al. 2026). Behind them are the same
pooling, bins, strands and last layer as behind the Titans memory.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.genomics.controls import OtherStem
from domains.genomics.bases import N
from domains.genomics.stem import Stem

LENGTHS = (3, 4, 5, 6, 8, 8, 11, 11)  # of the k-mers of each table; those of one length are hashed differently
ENTRIES = 4096  # of a table at most: every 6-mer has its own
_PRIMES = (2654435761, 2246822519)  # factors of the hashes, as multiplicative hashing has them


class KmerStem(Stem):
    """Bases to tokens by tables of k-mers.

    Args:
        dim: width of a token.
        letters: of the alphabet.
        stride: bases per token.
        dropout: on what is looked up.
    """

    def __init__(self, dim: int, letters: int, stride: int, dropout: float) -> None:
        super().__init__(dim, letters, 0, 1, stride, dropout)
        self.counts = [min(4**k, ENTRIES) for k in LENGTHS]  # entries of each table, beside one for no k-mer
        width = dim // len(LENGTHS)
        self.tables = nn.ModuleList(nn.Embedding(1 + count, width, padding_idx=0) for count in self.counts)

    def embed(self, bases: Tensor) -> Tensor:
        """What the tables hold of the k-mers that end at each base, [B, L, dim]; of one with N, or cut off, nothing."""
        found = []
        for i, table in enumerate(self.tables):
            found.append(table(entries(bases, LENGTHS[i], self.counts[i], _PRIMES[i % 2])))
        return self.dropout(torch.cat(found, -1))


class KmerHead(OtherStem):
    """`SequenceHead` with looked-up k-mers in the place of its letters; each table gives an eighth of the width."""

    other = KmerStem


def entries(bases: Tensor, k: int, count: int, prime: int) -> Tensor:
    """Which entry of a table each k-mer has, int64 [B, L].

    Args:
        bases: codes uint8 [B, L].
        k: bases of a k-mer.
        count: entries, a power of two.
        prime: factor of the hash, where there are more k-mers than entries.

    Returns:
        1 to `count`, and 0 where the k-mer that ends at a base holds an N or begins before the sequence.
    """
    padded = F.pad(bases.long(), (k - 1, 0), value=N).unfold(1, k, 1)  # [B, L, k]
    number = (padded * 4 ** torch.arange(k, device=bases.device)).sum(-1)
    if 4**k > count:
        number = (number * prime % 2**32) >> (32 - (count.bit_length() - 1))
    return torch.where((padded == N).any(-1), 0, 1 + number)
