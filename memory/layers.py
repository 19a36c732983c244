"""Small parts of every block: normalised projections with a causal convolution, rotary positions, SwiGLU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvProjection(nn.Module):
    """Linear map, causal depthwise convolution over time, SiLU: how queries, keys and values are made.

    Args:
        dim: input width.
        out: output width.
        conv: width of the convolution; 0 leaves only the linear map.
    """

    def __init__(self, dim: int, out: int, conv: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, out, bias=False)
        self.conv = nn.Conv1d(out, out, conv, groups=out, bias=False) if conv else None

    def forward(self, x: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """[B, T, dim] and the last conv - 1 rows of the call before (None at the start) to [B, T, out] and new rows."""
        x = self.linear(x)
        if self.conv is None:
            return x, None
        past = self.conv.kernel_size[0] - 1
        if tail is None:
            tail = x.new_zeros(x.shape[0], past, x.shape[2])
        x = torch.cat([tail.to(x.dtype), x], 1)
        # a copy: a view would keep the whole sequence alive in every state
        return F.silu(self.conv(x.mT).mT), x[:, x.shape[1] - past :].clone()


class RMSNorm(nn.RMSNorm):
    """RMSNorm whose scale follows the input's dtype, since PyTorch fuses the kernel for equal dtypes only."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] to [..., dim]."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class SwiGLU(nn.Module):
    """Gated feed-forward of the Llama family, [B, T, dim] to [B, T, dim]; hidden width 8/3 dim, rounded up to 8."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = -(-8 * dim // 24) * 8
        self.up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


def rotate(x: Tensor, start: int, width: int) -> Tensor:
    """Rotary position embedding of the first `width` features of x [B, H, T, d], row 0 at position `start`.

    Angles are float64 until their sine: at position 2M a float32 angle is off by a quarter of a radian.
    """
    half = width // 2
    frequency = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = torch.arange(start, start + x.shape[2], device=x.device, dtype=torch.float64)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)  # [T, half]
    a, b = x[..., :half], x[..., half:width]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., width:]], -1)
