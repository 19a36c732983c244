"""EinFFT, the channel mixing of SiMBA (arXiv 2403.15360, section 3.2)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EinFFT(nn.Module):
    """Mixes the features of every frequency of a sequence by a block-diagonal complex MLP.

    Fourier transform over the tokens (orthonormal, as the paper writes it; its published code also transforms over the
    feature blocks), two complex layers with a ReLU on real and imaginary parts between them, soft shrinkage, inverse
    transform, real part. A frequency belongs to all tokens, so every output depends on every token: not causal within
    the look-back window, which leaks nothing, since the horizon lies outside it.

    Args:
        dim: width D of a token, divisible by `blocks`.
        blocks: groups of features that are mixed among themselves.
        shrink: threshold under which the real or imaginary part of a frequency becomes zero.
    """

    def __init__(self, dim: int, blocks: int = 4, shrink: float = 0.01) -> None:
        super().__init__()
        if dim % blocks:
            raise ValueError(f"EinFFT needs a width divisible by {blocks}; dim is {dim}")
        self.blocks = blocks
        self.shrink = shrink
        width = dim // blocks
        # SiMBA draws from 0.02 * randn at blocks of 96 features. In a narrow block that would put every output under
        # the shrinkage threshold, where no gradient flows; so keep the size of the output, not that of the weight.
        scale = 0.02 * (96 / width) ** 0.5
        # real and imaginary parts lie in the last axis, as real numbers that every optimiser and collective can handle
        self.weights = nn.Parameter(scale * torch.randn(2, blocks, width, width, 2))
        self.biases = nn.Parameter(torch.zeros(2, blocks, width, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, T, D] to an update of the same shape."""
        spectrum = torch.fft.fft(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1, norm="ortho")
        spectrum = spectrum.unflatten(-1, (self.blocks, -1))  # [B, T, blocks, D / blocks]
        hidden = torch.view_as_complex(F.relu(torch.view_as_real(self._layer(0, spectrum))))
        mixed = torch.view_as_complex(F.softshrink(torch.view_as_real(self._layer(1, hidden)), self.shrink))
        return torch.fft.ifft(mixed.flatten(2), dim=1, norm="ortho").real.to(x.dtype)

    def _layer(self, index: int, z: Tensor) -> Tensor:
        weight, bias = torch.view_as_complex(self.weights[index]), torch.view_as_complex(self.biases[index])
        return torch.einsum("btgi,gij->btgj", z, weight) + bias


class NoMixing(nn.Module):
    """In place of channel mixing: adds nothing to the residual stream."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Zeros of the shape of `x`."""
        return torch.zeros_like(x)
