"""DNA as numbers: A, C, G, T, N are 0 to 4; many sequences of any length are one tensor and its offsets."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LETTERS = "ACGTN"
N = 4  # any base; also what stands behind the end of a sequence in a batch
COMPLEMENT = [3, 2, 1, 0, 4]
AMBIGUOUS = "RYSWKMBDHV"  # the IUPAC letters of more than one base, beside N
NUCLEOTIDES = (LETTERS + "U" + AMBIGUOUS + (LETTERS + "U" + AMBIGUOUS).lower()).encode()

_OTHER = 255
_CODES = np.full(256, _OTHER, np.uint8)
for _letter, _code in (
    *((letter, code) for code, letter in enumerate(LETTERS)),
    ("U", 3),
    *((c, N) for c in AMBIGUOUS),
):
    _CODES[ord(_letter)] = _CODES[ord(_letter.lower())] = _code


@dataclass
class Repairs:
    """How many letters were read as something else.

    Args:
        lower: lower-case letters, read as upper-case.
        uracil: U, read as T.
        ambiguous: IUPAC letters of more than one base, read as N.
    """

    lower: int = 0
    uracil: int = 0
    ambiguous: int = 0

    def add(self, other: "Repairs") -> None:
        """Count what `other` counted too."""
        self.lower, self.uracil = self.lower + other.lower, self.uracil + other.uracil
        self.ambiguous += other.ambiguous

    def __str__(self) -> str:
        parts = {
            "lower-case letters read as upper-case": self.lower,
            "U read as T": self.uracil,
            f"ambiguous letters ({AMBIGUOUS}) read as N": self.ambiguous,
        }
        return ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)


def encode(text: bytes, repairs: Repairs | None = None) -> np.ndarray:
    """Codes uint8 [L] of letters, in either case; what is no nucleotide becomes 255.

    Args:
        text: letters.
        repairs: counts what was read as something else.
    """
    letters = np.frombuffer(text, np.uint8)
    if repairs is not None:
        counts = np.bincount(letters, minlength=256)
        lower = counts[ord("a") : ord("z") + 1]
        upper = counts[ord("A") : ord("Z") + 1] + lower
        repairs.add(
            Repairs(int(lower.sum()), int(upper[ord("U") - 65]), int(sum(upper[ord(c) - 65] for c in AMBIGUOUS)))
        )
    return _CODES[letters]


def decode(codes: Tensor) -> str:
    """Letters of codes [L]."""
    return np.frombuffer(LETTERS.encode(), np.uint8)[codes.cpu().numpy()].tobytes().decode()


@dataclass
class Sequences:
    """Sequences end to end, so that a batch is one indexing operation.

    Args:
        codes: every base, uint8 [sum of lengths].
        offsets: where each sequence begins, and the end of the last, int64 [sequences + 1].
    """

    codes: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, texts: list[bytes], repairs: Repairs | None = None) -> "Sequences":
        """Sequences of letters; what is no nucleotide becomes 255."""
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        offsets = np.concatenate([[0], lengths.cumsum()])
        return cls(torch.from_numpy(encode(b"".join(texts), repairs)), torch.from_numpy(offsets))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Tensor:
        """Codes [L] of one sequence."""
        return self.codes[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> Tensor:
        """Bases of each sequence, int64 [sequences]."""
        return self.offsets.diff()

    def unknown(self) -> Tensor:
        """N in each sequence, int64 [sequences]; none of them may be empty."""
        found = (self.codes == N).numpy().view(np.int8)
        return torch.from_numpy(np.add.reduceat(found, self.offsets[:-1].numpy(), dtype=np.int64))

    def gather(self, index: Tensor, width: int) -> Tensor:
        """Codes uint8 [B, width] of sequences `index` [B], cut to `width` or filled with N behind their ends."""
        start, end = self.offsets[index, None], self.offsets[index + 1, None]
        place = start + torch.arange(width, device=index.device)
        behind = place >= end
        return self.codes[place.masked_fill(behind, 0)].masked_fill(behind, N)

    def select(self, index: Tensor, longest: int | None = None) -> "Sequences":
        """The sequences `index` [n], in that order, each cut to its first `longest` bases."""
        starts, lengths = self.offsets[index], self.lengths[index]
        if longest is not None:
            lengths = lengths.clamp(max=longest)
        codes, pairs = self.codes.numpy(), zip(starts.tolist(), lengths.tolist(), strict=True)
        # slices, not one index: that would take eight bytes for each base
        chosen = np.concatenate([codes[:0], *(codes[start : start + length] for start, length in pairs)])
        return Sequences(torch.from_numpy(chosen), torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))

    def to(self, device: torch.device | str) -> "Sequences":
        """The same on another device."""
        return Sequences(self.codes.to(device), self.offsets.to(device))


def joined(parts: list[Sequences]) -> Sequences:
    """All sequences of several, in order."""
    lengths = torch.cat([part.lengths for part in parts])
    return Sequences(torch.cat([part.codes for part in parts]), torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))


def valid(lengths: Tensor, width: int) -> Tensor:
    """False behind the ends, [B, width], of sequences of `lengths` [B]."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def flip(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Rows [B, T, ...] read backwards; what lies behind the ends (`lengths` [B]; None: no row ends early) stays."""
    if lengths is None:
        return x.flip(1)
    steps = torch.arange(x.shape[1], device=x.device)
    place = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)  # [B, T]
    return x.gather(1, place.reshape(*place.shape, *[1] * (x.dim() - 2)).expand_as(x))


def reverse_complement(bases: Tensor, lengths: Tensor | None) -> Tensor:
    """The other strand, 5' to 3', of codes uint8 [B, T] or of weights of the five letters, float [B, T, 5]."""
    if bases.is_floating_point():
        return flip(bases[..., COMPLEMENT], lengths)
    return flip(complement(bases), lengths)


def complement(codes: Tensor) -> Tensor:
    """A for T and C for G, and the reverse; N stays."""
    return torch.where(codes == N, codes, 3 - codes)
