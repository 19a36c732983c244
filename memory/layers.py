"""Small parts of every block: normalised projections with a causal convolution, rotary positions, SwiGLU."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory.config import Backend
from memory.ops.serves import fuses

# Share of a random convolution beside one that starts as a copy of a token; docs/log.md has what others are worth.
MIXED_IN = 0.2


def behind(tail: Tensor | None, x: Tensor, past: int, fused: bool) -> tuple[Tensor, Tensor, int]:
    """What a causal convolution over `past` earlier rows reads.

    Args:
        tail: the last `past` rows of the call before, [B, past, features]; None at the start.
        x: this call's rows, [B, T, features].
        past: how many earlier rows a row sees.
        fused: a kernel reads them, which takes what is not there for zero.

    Returns:
        the rows, [B, rows + T, features], the tail for the next call, and `rows`, those before the first token.
    """
    rows = past
    if fused and tail is None and x.shape[1] >= past:
        rows = 0
    else:
        if tail is None:
            tail = x.new_zeros(x.shape[0], past, x.shape[2])
        x = torch.cat([tail.to(x.dtype), x], 1)
    tail = x[:, x.shape[1] - past :]
    if x.shape[1] > 2 * past:
        tail = tail.clone()  # a view would keep the whole sequence alive in every state
    return x, tail, rows


class ConvProjection(nn.Module):
    """Linear map, causal depthwise convolution over time, SiLU, heads: how queries, keys and values are made.

    Args:
        dim: input width.
        sizes: features of two parts that are projected and convolved together: keys and values, or queries and none.
        lengths: of a head in each part; 0 leaves it as it is.
        width: of a head.
        conv: width of the convolution, at the start zero for all but the last two tokens; 0 leaves the linear map and
            the normalisation.
        backend: that of the memory's recurrence.
        delays: for each part, 0 where its convolution starts at the token itself, 1 at the token before; None for a
            random mix of the two.
    """

    def __init__(
        self,
        dim: int,
        sizes: tuple[int, int],
        lengths: tuple[float, float],
        width: int,
        conv: int,
        backend: Backend = "auto",
        delays: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.sizes, self.lengths, self.width, self.backend = sizes, lengths, width, backend
        self.linear = nn.Linear(dim, sum(sizes), bias=False)
        self.conv = nn.Conv1d(sum(sizes), sum(sizes), conv, groups=sum(sizes), bias=False) if conv else None
        if conv:
            # a pair often lies in neighbouring tokens: recall is learned sooner from a start that sees only these
            nn.init.zeros_(self.conv.weight[..., :-2])
        if delays:
            self._start_at(delays)

    @torch.no_grad()
    def _start_at(self, delays: tuple[int, int]) -> None:
        """Let the convolution start as a copy of one token, with a little of the other so that channels differ."""
        self.conv.weight.mul_(MIXED_IN)
        for taps, delay in zip(self.conv.weight.split(self.sizes), delays, strict=True):
            taps[..., -1 - delay] += 1

    def forward(self, x: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Project tokens.

        Args:
            x: [B, T, dim].
            tail: the last conv - 1 rows of the call before, [B, conv - 1, sum(sizes)]; None at the start.

        Returns:
            heads of both parts, [B, T, size / width, width], and the new tail.
        """
        x = self.linear(x)
        if self.conv is None:
            return *self._heads(x), None
        fused = fuses(x, self.width, self.backend)
        x, tail, rows = behind(tail, x, self.conv.kernel_size[0] - 1, fused)
        if not fused:
            return *self._heads(F.silu(self.conv(x.mT).mT)), tail
        from memory.ops.triton.short_conv import short_conv  # imports Triton, which need not be there

        parts = short_conv(x, self.conv.weight, self.sizes[0], rows, self.width, self.lengths)
        return *(part.unflatten(-1, (part.shape[-1] // self.width, self.width)) for part in parts), tail

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = x.unflatten(-1, (-1, self.width)).split([size // self.width for size in self.sizes], 2)
        return tuple(self._bring(part, length) for part, length in zip(parts, self.lengths, strict=True))

    def _bring(self, x: Tensor, length: float) -> Tensor:
        if not length:
            return x
        # epsilon inside the root bounds the gradient at a zero vector
        return F.rms_norm(x, (self.width,), eps=1e-6) * (length / math.sqrt(self.width))


class ShortConv(nn.Conv1d):
    """Causal depthwise convolution over time that at the start leaves its input as it is.

    Args:
        features: of a token.
        width: tokens that it sees, its own included.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__(features, features, width, groups=features, bias=False)
        nn.init.zeros_(self.weight)
        nn.init.ones_(self.weight[..., -1])

    def forward(self, x: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor]:
        """Convolve x [B, T, features] behind the last inputs of the call before, [B, width - 1, features] or None.

        Returns:
            [B, T, features] and the last inputs of this call.
        """
        width = math.gcd(x.shape[2], 128)  # features that one program of the kernel takes
        fused = fuses(x, width, "auto")
        x, tail, rows = behind(tail, x, self.kernel_size[0] - 1, fused)
        if not fused:
            return super().forward(x.mT).mT, tail
        from memory.ops.triton.short_conv import short_conv  # imports Triton, which need not be there

        return short_conv(x, self.weight, x.shape[2], rows, width, [0.0, 0.0], silu=False)[0], tail


class RMSNorm(nn.RMSNorm):
    """RMSNorm whose scale follows the input's dtype, since PyTorch fuses the kernel for equal dtypes only.

    Epsilon is float32's for every dtype: PyTorch's default in bfloat16 would damp rows of small values.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=torch.finfo(torch.float32).eps)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] to [..., dim]."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)

    def gated(self, x: Tensor, gate: Tensor, backend: Backend = "auto") -> Tensor:
        """Heads x [B, T, H, dim], normalised, times the SiLU of a gate [B, T, H * dim]: [B, T, H * dim]."""
        if not fuses(x, x.shape[-1], backend):
            return self(x).flatten(2) * F.silu(gate)
        from memory.ops.triton.gated_norm import gated_norm  # imports Triton, which need not be there

        return gated_norm(x, gate, self.weight, self.eps).flatten(2)


class SwiGLU(nn.Module):
    """Gated feed-forward of the Llama family, [B, T, dim] to [B, T, dim]; hidden width 8/3 dim, rounded up to 8."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = -(-8 * dim // 24) * 8
        self.up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        if fuses(x, 128, "auto"):  # a kernel without heads: any width
            from memory.ops.triton.gating import swiglu  # imports Triton, which need not be there

            return self.down(swiglu(x))
        gate, value = x.chunk(2, -1)
        return self.down(F.silu(gate) * value)


Rotation = tuple[Tensor, Tensor]  # cosines and sines, [T, width / 2] each


def rotation(positions: Tensor, width: int, dtype: torch.dtype) -> Rotation:
    """By how much rotary position embedding turns `width` features of rows at these positions [T].

    Angles are float64 until their sine: at position 2M a float32 angle is off by a quarter of a radian.
    """
    half = width // 2
    frequency = 10000.0 ** (-torch.arange(half, device=positions.device, dtype=torch.float64) / half)
    angle = positions.double()[:, None] * frequency
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """The first features of x [B, H, T, d] turned, the others as they are."""
    cos, sin = turn
    if fuses(x, x.shape[-1], "auto"):
        from memory.ops.triton.rotary import rotary  # imports Triton, which need not be there

        return rotary(x.transpose(1, 2), cos, sin).transpose(1, 2)
    half = cos.shape[1]
    a, b = x[..., :half], x[..., half : 2 * half]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., 2 * half :]], -1)
