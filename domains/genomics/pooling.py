"""Hidden states of a sequence to one vector, also where they come in pieces."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

LOWEST = -1e30  # below every score, and finite: a piece may hold no token of a sequence


@dataclass
class Pooled:
    """Weighted sums so far.

    Args:
        total: sum of weight times hidden state, float32 [B, bins, dim] (float64 where the hidden states are).
        weight: sum of the weights, [B, bins, 1].
        largest: score that the weights are relative to, [B, bins, 1].
    """

    total: Tensor
    weight: Tensor
    largest: Tensor

    def __add__(self, other: "Pooled") -> "Pooled":
        """What both pieces give together."""
        largest = torch.maximum(self.largest, other.largest)
        a, b = (self.largest - largest).exp(), (other.largest - largest).exp()
        return Pooled(self.total * a + other.total * b, self.weight * a + other.weight * b, largest)

    def mean(self) -> Tensor:
        """[B, bins, dim]; a bin without a token (a sequence shorter than the bins) is zero."""
        return self.total / self.weight.clamp(min=torch.finfo(self.weight.dtype).tiny)


class Pooling(nn.Module):
    """Mean of the hidden states, or their mean by learned weights, in each of `bins` equal parts of a sequence.

    Args:
        dim: width.
        kind: `mean` or `attention`.
        bins: parts; 1 forgets where something stood.
    """

    def __init__(self, dim: int, kind: Literal["mean", "attention"], bins: int) -> None:
        super().__init__()
        if bins < 1:
            raise ValueError(f"head.bins is {bins}; it must be at least 1")
        self.bins = bins
        self.score = nn.Linear(dim, 1) if kind == "attention" else None

    def forward(self, hidden: Tensor, tokens: Tensor, start: int = 0) -> Pooled:
        """Pool a piece.

        Args:
            hidden: [B, T, dim].
            tokens: of the whole sequences, int64 [B].
            start: tokens before the piece.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            return self._pooled(hidden.to(torch.promote_types(hidden.dtype, torch.float32)), tokens, start)

    def _pooled(self, hidden: Tensor, tokens: Tensor, start: int) -> Pooled:
        place = start + torch.arange(hidden.shape[1], device=hidden.device)
        inside = place < tokens[:, None]  # [B, T]
        part = place * self.bins // tokens[:, None]
        member = (part[..., None] == torch.arange(self.bins, device=hidden.device)) & inside[..., None]  # [B, T, bins]
        if self.score is None:
            weights = member.to(hidden.dtype)
            largest = weights.new_zeros(len(hidden), self.bins, 1)
        else:
            scores = self.score(hidden).expand(-1, -1, self.bins).masked_fill(~member, LOWEST)
            largest = scores.amax(1, keepdim=True)  # [B, 1, bins]
            weights = (scores - largest).exp() * member
            largest = largest.mT
        total = weights.mT @ hidden.masked_fill(~inside[..., None], 0)
        return Pooled(total, weights.sum(1)[..., None], largest)
