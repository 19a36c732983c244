"""Bases to tokens: letters, convolutions, strides."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.genomics.bases import LETTERS, N, valid
from memory.bounds import check_bounds
from memory.layers import RMSNorm


class Stem(nn.Module):
    """Embed bases, let convolutions look around, and make one token of every `stride` bases.

    What lies behind the end of a sequence is zero in every layer, so that it changes nothing.

    Args:
        dim: width of a token.
        letters: of the alphabet, N included as the last.
        layers: residual convolutions over bases.
        width: bases that a convolution sees, odd.
        stride: bases per token.
        dropout: behind each convolution.
    """

    def __init__(self, dim: int, letters: int, layers: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        if stride < 1 or layers < 0 or width < 1 or width % 2 == 0:
            raise ValueError("head.stride must be at least 1, head.conv_layers at least 0, head.conv_width odd")
        check_bounds("model.head", {"dropout": dropout}, {"dropout": (0, 1)})
        self.stride = stride
        self.embedding = nn.Embedding(letters, dim, padding_idx=N)
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, dim, width, padding=width // 2) for _ in range(layers))
        self.norms = nn.ModuleList(RMSNorm(dim) for _ in range(layers))
        self.merge = nn.Conv1d(dim, dim, stride, stride) if stride > 1 else None
        self.dropout = nn.Dropout(dropout)
        self.halo = layers * (width // 2)  # bases beyond a piece that its tokens depend on

    def forward(self, bases: Tensor, lengths: Tensor | None) -> Tensor:
        """Codes uint8 [B, L] or weights of letters float [B, L, 5] to tokens [B, ceil(L / stride), dim].

        Args:
            bases: N behind the ends.
            lengths: bases of each sequence, [B]; None where none ends before L.
        """
        inside = None if lengths is None else valid(lengths, bases.shape[1])[..., None]  # [B, L, 1]
        x = within(self.look_around(self.embed(bases), inside), inside)
        if self.merge is None:
            return x
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.stride))
        return self.merge(x.mT).mT

    def embed(self, bases: Tensor) -> Tensor:
        """What stands at each base, [B, L, dim]."""
        return bases @ self.embedding.weight if bases.is_floating_point() else self.embedding(bases.int())

    def look_around(self, x: Tensor, inside: Tensor | None) -> Tensor:
        """Let each base [B, L, dim] see its neighbours; `inside` [B, L, 1] is False behind the ends."""
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            x = x + self.dropout(F.gelu(convolve(within(norm(x), inside), convolution)))
        return x

    def tokens(self, lengths: Tensor) -> Tensor:
        """Tokens of sequences of so many bases."""
        return (lengths + self.stride - 1) // self.stride


def convolve(x: Tensor, convolution: nn.Conv1d) -> Tensor:
    """[B, L, dim] to [B, L, dim], as a convolution with padding at both ends does.

    Without a gradient a processor does it sooner base by base of the window, over rows as they lie.
    """
    if x.is_cuda or torch.is_grad_enabled() or torch.finfo(x.dtype).bits < 32:
        return convolution(x.mT).mT
    rows = F.pad(x, (0, 0, convolution.padding[0], convolution.padding[0]))
    first, *others = convolution.weight.permute(2, 1, 0).contiguous()[:, None].expand(-1, len(x), -1, -1)
    y = torch.baddbmm(convolution.bias, rows[:, : x.shape[1]], first)
    for i, tap in enumerate(others, 1):
        y = y.baddbmm_(rows[:, i : i + x.shape[1]], tap)
    return y


def within(x: Tensor, inside: Tensor | None) -> Tensor:
    """Zero behind the ends of sequences."""
    return x if inside is None else x * inside


def one_hot(bases: Tensor) -> Tensor:
    """Codes [B, L] as weights of the five letters, float [B, L, 5]."""
    return F.one_hot(bases.long(), len(LETTERS)).float()
