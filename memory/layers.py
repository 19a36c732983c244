"""Small parts of every block: normalised projections with a causal convolution, rotary positions, SwiGLU."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory.config import Backend
from memory.ops.serves import fuses, traced
from memory.precision import compute_dtype

# Share of a random convolution beside one that starts as a copy of a token; docs/log.md has what others are worth.
MIXED_IN = 0.2
# Tokens of a feed-forward on a processor without gradients: what lies between its products, many times as wide as a
# token, stays in the cache and takes no new pages of memory.
TOKENS_AT_ONCE = 512


def behind(before: Tensor, x: Tensor) -> Tensor:
    """Rows [B, P + T, features]: those that all sequences begin with, [P, features], and then x [B, T, features]."""
    return torch.cat([before.expand(len(x), -1, -1), x], 1)


def conv_inputs(cache: Tensor | None, x: Tensor, past: int, fused: bool) -> tuple[Tensor, Tensor, int]:
    """The rows that a causal convolution reads, each of which sees `past` rows before it.

    Args:
        cache: last `past` rows of the call before, [B, past, features]; None at the start.
        x: rows of this call, [B, T, features].
        past: number of earlier rows that a row sees.
        fused: whether a kernel reads them, which takes missing rows for zero.

    Returns:
        the rows, [B, rows + T, features], the cache for the next call, and `rows`, those before the first token.
    """
    rows = past
    if fused and cache is None and x.shape[1] >= past:
        rows = 0
    else:
        if cache is None:
            cache = x.new_zeros(x.shape[0], past, x.shape[2])
        x = torch.cat([cache.to(x.dtype), x], 1)
    cache = x[:, x.shape[1] - past :]
    if x.shape[1] > 2 * past:
        cache = cache.clone()  # a view would keep the whole sequence alive in every state
    return x, cache, rows


def depthwise(x: Tensor, weight: Tensor) -> Tensor:
    """Depthwise convolution over time, rows [B, past + T, F] and weights [F, 1, past + 1] to [B, T, F].

    A processor does it sooner tap by tap, over rows as they lie; in half precision every sum would be rounded.
    """
    if x.is_cuda or torch.finfo(x.dtype).bits < 32:
        return F.conv1d(x.mT, weight, groups=len(weight)).mT
    taps = weight[:, 0].T.contiguous()  # over strided ones a product with a row is not vectorised
    tokens = x.shape[1] - len(taps) + 1
    y = x[:, :tokens] * taps[0]
    for i in range(1, len(taps)):
        y = y.addcmul_(x[:, i : i + tokens], taps[i])
    return y


def rms_norm(x: Tensor, eps: float, weight: Tensor | None = None, length: float = 1.0) -> Tensor:
    """`F.rms_norm` over the last axis, and that times `length`; eps bounds the gradient at a zero vector.

    PyTorch has a kernel for a GPU; what it composes for a processor takes twice the passes, but a single call, which is
    all that matters for one token.
    """
    width = x.shape[-1]
    one = x.dim() > 2 and x.shape[1] == 1
    if one or not x.is_cpu or torch.finfo(x.dtype).bits < 32:
        y = F.rms_norm(x, (width,), weight, eps)
        return y if length == 1 else y * length
    scale = (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / width + eps).rsqrt()
    y = x * (scale * length if length != 1 else scale)
    return y if weight is None else y * weight


class LastTwoTokens(nn.Conv1d):
    """Depthwise convolution whose weights for all but the last two tokens start at zero.

    A key and its value often lie in neighbouring tokens: recall is learned sooner from a start that sees only these.

    Args:
        sizes: channels of two parts.
        width: tokens that an output sees, its own included.
        delays: for each part, 0 to start at the token itself, 1 at the token before; None for a random mix of the two.
    """

    def __init__(self, sizes: tuple[int, int], width: int, delays: tuple[int, int] | None) -> None:
        self.sizes = sizes  # before the base class draws its parameters
        self.delays = delays
        features = sum(sizes)
        super().__init__(features, features, width, groups=features, bias=False)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights as any convolution does, clear those of older tokens, and copy a token where one is named.

        A copy keeps a little of the other token, so that channels differ.
        """
        super().reset_parameters()
        self.weight[..., :-2].zero_()
        if self.delays is None:
            return
        self.weight.mul_(MIXED_IN)
        for taps, delay in zip(self.weight.split(self.sizes), self.delays, strict=True):
            taps[..., -1 - delay] += 1


class ConvProjection(nn.Module):
    """Linear map, causal depthwise convolution over time, SiLU, heads: how queries, keys and values are made.

    Args:
        dim: input width.
        sizes: features of two parts that are projected and convolved together: keys and values, or queries and none.
        lengths: norm that the heads of each part are given; 0 leaves a part without normalisation.
        width: features of a head.
        conv: width of the convolution; 0 leaves the linear map and the normalisation.
        backend: see `MemoryConfig`.
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
        self.sizes = sizes
        self.lengths = lengths
        self.width = width
        self.backend = backend
        self.linear = nn.Linear(dim, sum(sizes), bias=False)
        self.conv = LastTwoTokens(sizes, conv, delays) if conv else None
        self.cache_sizes = (conv - 1, sum(sizes)) if conv else None  # rows and features of the convolution's cache

    def forward(
        self, x: Tensor, cache: Tensor | None, before: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Project tokens.

        Args:
            x: tokens, [B, T, dim].
            cache: last conv - 1 inputs of the convolution, [B, conv - 1, sum(sizes)]; None at the start.
            before: tokens that every sequence begins with, [P, dim]; there is no cache then.

        Returns:
            heads of both parts, [B, P + T, size / width, width], and the cache for the next call.
        """
        x = self.linear(x)
        fused = self.conv is not None and fuses(x, self.width, self.backend)
        if before is not None:
            before = self.linear(before)
            if not fused or x.shape[1] < cast(nn.Conv1d, self.conv).kernel_size[0] - 1:
                x = behind(before, x)
                before = None
        if self.conv is None:
            return *self._heads(x), None
        x, cache, rows = conv_inputs(cache, x, self.conv.kernel_size[0] - 1, fused)
        if not fused:
            y = F.silu(depthwise(x, self.conv.weight), inplace=not torch.is_grad_enabled())
            return *self._heads(y), cache
        from memory.ops.triton.short_conv import short_conv  # imports Triton, which need not be there

        parts = short_conv(x, self.conv.weight, self.sizes[0], rows, self.width, list(self.lengths), before=before)
        first, second = (self._by_head(part) for part in parts)
        return first, second, cache

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (x.shape[-1] // self.width, self.width))

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        heads = [size // self.width for size in self.sizes]
        first, second = self._by_head(x).split(heads, 2)
        return self._of_length(first, self.lengths[0]), self._of_length(second, self.lengths[1])

    def _of_length(self, x: Tensor, length: float) -> Tensor:
        return rms_norm(x, 1e-6, length=length / math.sqrt(self.width)) if length else x


class ShortConv(nn.Conv1d):
    """Causal depthwise convolution over time that at the start copies its input.

    Args:
        features: width of a token.
        width: tokens that an output sees, its own included.
        delayed: features that start at the token before, if the convolution sees it.
    """

    def __init__(self, features: int, width: int, delayed: slice = slice(0)) -> None:
        self.delayed = delayed  # before the base class draws its parameters
        super().__init__(features, features, width, groups=features, bias=False)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Let every output be the token itself, or the token before."""
        super().reset_parameters()  # draws numbers that are not used: a seed gives the model that it always gave
        self.weight.zero_()[..., -1] = 1
        if self.weight.shape[-1] > 1:
            self.weight[self.delayed].zero_()[..., -2] = 1

    # what went before is no argument of PyTorch's own class
    def forward(  # pyrefly: ignore[bad-override]
        self, x: Tensor, cache: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Convolve tokens.

        Args:
            x: tokens, [B, T, features].
            cache: last width - 1 inputs of the call before, [B, width - 1, features]; None at the start.

        Returns:
            [B, T, features] and the cache for the next call.
        """
        width = math.gcd(x.shape[2], 128)  # features that one program of the kernel takes
        fused = fuses(x, width, "auto")
        x, cache, rows = conv_inputs(cache, x, self.kernel_size[0] - 1, fused)
        if not fused:
            return depthwise(x, self.weight), cache
        from memory.ops.triton.short_conv import short_conv  # imports Triton, which need not be there

        y, _ = short_conv(x, self.weight, x.shape[2], rows, width, [0.0, 0.0], silu=False)
        return y, cache


def is_product(linear: nn.Linear) -> bool:
    """Whether a map is a product with its weight and no more, so that a kernel may take its place.

    It may have a bias, a class of its own (LoRA), or hooks, of which pruning and tensor parallelism are made.
    """
    hooks = linear._forward_pre_hooks, linear._forward_hooks, linear._backward_pre_hooks, linear._backward_hooks
    return type(linear) is nn.Linear and linear.bias is None and not any(hooks)


class RMSNorm(nn.RMSNorm):
    """RMSNorm whose scale follows the input's dtype, since PyTorch fuses the kernel for equal dtypes only.

    Epsilon is float32's for every dtype: PyTorch's default in bfloat16 would damp rows of small values.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=torch.finfo(torch.float32).eps)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] to [..., dim]."""
        return rms_norm(x, cast(float, self.eps), self.weight.to(x.dtype))

    def added(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The residual stream x [..., dim] with y added, if there is one, and that normalised, for products to read."""
        if fuses(x, 128, "auto"):  # a kernel without heads: any width
            from memory.ops.triton.residual_norm import residual_norm  # imports Triton, which need not be there

            return residual_norm(x, y, self.weight, cast(float, self.eps), compute_dtype(x))
        if y is not None:
            x = x + y
        return x, self(x)

    def gated(self, x: Tensor, gate: Tensor, backend: Backend = "auto") -> Tensor:
        """Heads x [B, before + T, H, dim], normalised, times the SiLU of a gate [B, T, H * dim]: [B, T, H * dim]."""
        if not fuses(x, x.shape[-1], backend):
            return self(x[:, x.shape[1] - gate.shape[1] :]).flatten(2) * F.silu(gate)
        from memory.ops.triton.gated_norm import gated_norm  # imports Triton, which need not be there

        return gated_norm(x, gate, self.weight, cast(float, self.eps))

    def gated_linear(self, x: Tensor, gate: Tensor, out: nn.Linear, backend: Backend = "auto") -> Tensor:
        """`out` of what is `gated`; a plain product's input is made again in the backward, and not kept."""
        if not (is_product(out) and fuses(x, x.shape[-1], backend)):
            return out(self.gated(x, gate, backend))
        from memory.ops.triton.gated_norm import gated_norm_linear  # imports Triton, which need not be there

        return gated_norm_linear(x, gate, self.weight, out.weight.to(x.dtype), cast(float, self.eps))


class SwiGLU(nn.Module):
    """Gated feed-forward of the Llama family, [B, T, dim] to [B, T, dim]; hidden width 8/3 dim, rounded up to 8."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = -(-8 * dim // 24) * 8
        self.up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[:-1].numel()
        if torch.is_grad_enabled() or not x.is_cpu or tokens <= TOKENS_AT_ONCE or traced():
            return self._together(x)
        return torch.cat([self._together(part) for part in x.flatten(0, -2).split(TOKENS_AT_ONCE)]).view_as(x)

    def _together(self, x: Tensor) -> Tensor:
        x = self.up(x)
        if fuses(x, 128, "auto") and is_product(self.down):  # a kernel without heads: any width
            from memory.ops.triton.gating import swiglu_linear  # imports Triton, which need not be there

            return swiglu_linear(x, self.down.weight.to(x.dtype))
        gate, value = x.chunk(2, -1)
        return self.down(F.silu(gate) * value)


# cosines and sines of rotary positions, [T, width / 2] each; [B, 1, 1, width / 2] for one token at a position per row
Angles = tuple[Tensor, Tensor]


_frequencies: dict[tuple[int, torch.device], Tensor] = {}  # of rotary positions: made anew, five launches of a step


def lasts(device: torch.device) -> bool:
    """Whether a tensor made now is there later: one of a trace or of a captured graph is not."""
    return not (traced() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()))


def _rotary_frequencies(half: int, device: torch.device) -> Tensor:
    """Radians from one position to the next, [half] float64."""
    key = (half, device)
    if key in _frequencies and not traced():
        return _frequencies[key]
    with torch.inference_mode(False), torch.no_grad():
        made = 10000.0 ** (-torch.arange(half, device=device, dtype=torch.float64) / half)
    if lasts(device):
        _frequencies[key] = made
    return made


def rotary_angles(positions: Tensor, width: int, dtype: torch.dtype) -> Angles:
    """Angles by which rotary position embedding rotates `width` features of rows at these positions [T].

    Angles are float64 until their sine: at position 2M a float32 angle is off by a quarter of a radian.
    """
    angle = positions[:, None] * _rotary_frequencies(width // 2, positions.device)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Rotate the first features of x [B, H, T, d] and leave the others as they are."""
    cos, sin = angles
    if fuses(x, x.shape[-1], "auto"):
        from memory.ops.triton.rotary import rotary  # imports Triton, which need not be there

        if cos.dim() == 2:
            return rotary(x.transpose(1, 2), cos, sin).transpose(1, 2)
        # one token a row: rows are to the kernel what tokens of a sequence are
        return rotary(x.permute(2, 0, 1, 3), cos[:, 0, 0], sin[:, 0, 0]).permute(1, 2, 0, 3)
    half = cos.shape[-1]
    a = x[..., :half]
    b = x[..., half : 2 * half]
    rotated = [a * cos - b * sin, b * cos + a * sin]
    return torch.cat([*rotated, x[..., 2 * half :]], -1)


def rotate_pair(pair: Tensor, heads: int, angles: Angles) -> tuple[Tensor, Tensor]:
    """Rotated keys, and values, [B, H, T, d] each, of what one map has made for both, [B, T, 2 H d]."""
    pair = pair.unflatten(-1, (2, heads, -1))
    cos, sin = angles
    if cos.dim() == 2 and fuses(pair, pair.shape[-1], "auto"):
        from memory.ops.triton.rotary import rotary_pair  # imports Triton, which need not be there

        k, v = rotary_pair(pair, cos, sin)
        return k.transpose(1, 2), v.transpose(1, 2)
    k, v = pair.transpose(1, 3).unbind(2)
    return rotate(k, angles), v
