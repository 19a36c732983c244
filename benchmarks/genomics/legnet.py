"""A convolutional network as a control: LegNet (Penzar et al. 2023, doi 10.1093/bioinformatics/btad457), made smaller.

It reads a whole sequence, but no further than its convolutions and a mean over everything see. Pooling, both strands,
bins and the last layer are those of the classifier that it stands beside.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.genomics.controls import OtherStem
from domains.genomics.stem import Stem, within

CHANNELS = (96, 64, 64, 48, 48)  # of the stem and of what each block hands on: at most a million parameters in all
WIDTH = 7  # bases that a convolution sees; those of the stem see 11
EXPANSION = 4
GROUP = 2  # channels that a convolution within a block mixes


class LegNetStem(Stem):
    """Bases to tokens by LegNet's blocks.

    Args:
        dim: width of a token.
        letters: of the alphabet.
        stride: bases per token.
        dropout: on the tokens.
    """

    def __init__(self, dim: int, letters: int, stride: int, dropout: float) -> None:
        super().__init__(dim, letters, 0, WIDTH, stride, dropout)
        self.first = Convolution(dim, CHANNELS[0], 11)
        self.blocks = nn.ModuleList(map(Block, CHANNELS, CHANNELS[1:]))
        self.last = nn.Conv1d(CHANNELS[-1], dim, 1)

    def look_around(self, x: Tensor, inside: Tensor | None) -> Tensor:
        """[B, L, dim] to the same; `inside` [B, L, 1] is False behind the ends."""
        inside = None if inside is None else inside.mT
        x = within(self.first(x.mT), inside)
        for block in self.blocks:
            x = block(x, inside)
        return self.dropout(self.last(x).mT)


class LegNetHead(OtherStem):
    """`SequenceHead` with LegNet's convolutions in the place of its own."""

    other = LegNetStem


class Convolution(nn.Sequential):
    """Convolution, batch norm, SiLU, [B, C, L] to [B, C', L].

    Args:
        channels: of the input.
        out: of the output.
        width: bases that it sees, odd.
        groups: of channels that are mixed apart.
    """

    def __init__(self, channels: int, out: int, width: int, groups: int = 1) -> None:
        convolution = nn.Conv1d(channels, out, width, padding=width // 2, groups=groups, bias=False)
        super().__init__(convolution, nn.BatchNorm1d(out), nn.SiLU())


class Block(nn.Module):
    """An inverted bottleneck with squeeze and excitation, joined to its input and mixed by a convolution.

    Args:
        channels: of the input.
        out: of the output.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        wide = EXPANSION * channels
        self.expand = Convolution(channels, wide, 1)
        self.depthwise = Convolution(wide, wide, WIDTH, wide // GROUP)
        self.squeeze = nn.Linear(wide, channels // EXPANSION)
        self.excite = nn.Linear(channels // EXPANSION, wide)
        self.project = Convolution(wide, channels, 1)
        self.mix = Convolution(2 * channels, out, WIDTH)

    def forward(self, x: Tensor, inside: Tensor | None) -> Tensor:
        """[B, C, L] to [B, C', L], zero behind the ends, where `inside` [B, 1, L] is False."""
        y = within(self.depthwise(within(self.expand(x), inside)), inside)
        bases = y.shape[2] if inside is None else inside.sum(2)
        weight = self.excite(F.silu(self.squeeze(y.sum(2) / bases))).sigmoid()
        y = within(self.project(y * weight[..., None]), inside)
        return within(self.mix(torch.cat([x, y], 1)), inside)
