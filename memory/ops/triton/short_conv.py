"""Queries, keys and values behind their linear map: see `memory.layers.ConvProjection`.

A causal depthwise convolution over a few tokens and, where asked, SiLU and RMS normalisation, in one pass:
z_t = sum_j w_j x_{t - (K-1) + j}, s = z or SiLU(z), y = s or s * LENGTH / rms(s). The backward computes z again.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, library

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.launch import aligned, cdiv, direct, run

TILE = 4096  # elements of a program
EPS = 1e-6  # of the normalisation


@triton.jit
def silu_1(z):
    """SiLU and its slope."""
    gate = 1.0 / (1.0 + tl.exp(-z))
    return z * gate, gate * (1.0 + z * (1.0 - gate))


@triton.jit
def activate(z, SILU: tl.constexpr):
    """SiLU, or nothing, and its slope."""
    if SILU:
        return silu_1(z)
    else:
        return z, tl.full(z.shape, 1.0, tl.float32)


@triton.jit
def places(rows, BT: tl.constexpr, D: tl.constexpr):
    """Sequence, rows [BT] of its `rows` and features [D] of a program."""
    blocks = tl.cdiv(rows, BT)
    i_b, i_t = (tl.program_id(0) // blocks).to(tl.int64), (tl.program_id(0) % blocks).to(tl.int64)
    return i_b, i_t * BT + tl.arange(0, BT), tl.program_id(1) * D + tl.arange(0, D)


@triton.jit
def load_rows(x, row, rows, of, feature):
    """x[row, feature] as float32, zero outside of 0 .. rows - 1."""
    inside = ((row >= 0) & (row < rows))[:, None]
    return tl.load(x + row[:, None] * of + feature[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=SIZES)
def conv_fwd_kernel(
    x, w, y, N, T, F: tl.constexpr, first: tl.constexpr, width: tl.constexpr,
    D: tl.constexpr, BT: tl.constexpr, K: tl.constexpr, UNIT: tl.constexpr, LENGTH: tl.constexpr, EPS: tl.constexpr,
    SILU: tl.constexpr,
):  # fmt: skip
    """grid (B * blocks of BT tokens, width / D): features first .. first + width - 1 of x.

    x: [B, N, F], whose last T rows are the tokens; rows before the first one are zero. w: [F, K]; y: [B, T, width].
    """
    i_b, t, own = places(T, BT, D)
    feature = first + own
    z = tl.zeros([BT, D], tl.float32)
    for j in tl.static_range(K):
        tap = tl.load(w + feature * K + j).to(tl.float32)
        z += load_rows(x + i_b * N * F, t + (N - T - K + 1 + j), N, F, feature) * tap[None, :]
    out, _ = activate(z, SILU)
    if UNIT:
        out *= (LENGTH * tl.rsqrt(tl.sum(out * out, 1) / D + EPS))[:, None]
    place = y + i_b * T * width + t[:, None] * width + own[None, :]
    tl.store(place, out.to(y.dtype.element_ty), mask=(t < T)[:, None])


@triton.jit(do_not_specialize=SIZES)
def conv_bwd_kernel(
    x, w, dy, dz, dw, N, T, F: tl.constexpr, first: tl.constexpr, width: tl.constexpr,
    D: tl.constexpr, BT: tl.constexpr, K: tl.constexpr, UNIT: tl.constexpr, LENGTH: tl.constexpr, EPS: tl.constexpr,
    SILU: tl.constexpr,
):  # fmt: skip
    """grid as `conv_fwd_kernel`: gradients of z, [B, T, F], and of w, [B * blocks, K, F] to be added up."""
    i_b, t, own = places(T, BT, D)
    feature = first + own
    z = tl.zeros([BT, D], tl.float32)
    for j in tl.static_range(K):
        tap = tl.load(w + feature * K + j).to(tl.float32)
        z += load_rows(x + i_b * N * F, t + (N - T - K + 1 + j), N, F, feature) * tap[None, :]
    out, slope = activate(z, SILU)
    grad = load_rows(dy + i_b * T * width, t, T, width, own)
    if UNIT:
        rms = tl.rsqrt(tl.sum(out * out, 1) / D + EPS)[:, None]
        grad = LENGTH * rms * (grad - out * rms * rms * (tl.sum(grad * out, 1) / D)[:, None])
    grad *= slope
    place = dz + i_b * T * F + t[:, None] * F + feature[None, :]
    tl.store(place, grad.to(dz.dtype.element_ty), mask=(t < T)[:, None])
    for j in tl.static_range(K):
        seen = load_rows(x + i_b * N * F, t + (N - T - K + 1 + j), N, F, feature)
        tl.store(dw + (tl.program_id(0).to(tl.int64) * K + j) * F + feature, tl.sum(grad * seen, 0))


@triton.jit(do_not_specialize=SIZES)
def conv_dx_kernel(dz, w, dx, N, T, F: tl.constexpr, D: tl.constexpr, BT: tl.constexpr, K: tl.constexpr):
    """grid (B * blocks of BT rows of x, F / D): gradient of x, [B, N, F], whose rows up to K tokens saw."""
    i_b, row, feature = places(N, BT, D)
    grad = tl.zeros([BT, D], tl.float32)
    for j in tl.static_range(K):
        tap = tl.load(w + feature * K + j).to(tl.float32)
        grad += load_rows(dz + i_b * T * F, row + (T - N + K - 1 - j), T, F, feature) * tap[None, :]
    place = dx + i_b * N * F + row[:, None] * F + feature[None, :]
    tl.store(place, grad.to(dx.dtype.element_ty), mask=(row < N)[:, None])


def _launch(
    kernel: triton.JITFunction, x: Tensor, weight: Tensor, parts: list[Tensor], *out: Tensor,
    width: int, lengths: list[float], silu: bool,
) -> None:  # fmt: skip
    """Run a kernel over neighbouring features that lie apart in `parts`, [B, T, ..], each with a length of its own."""
    first = 0
    block = TILE // width
    for part, length in zip(parts, lengths, strict=True):
        batch, time, features = part.shape
        if features:
            constants = {"F": x.shape[2], "first": first, "width": features, "D": width, "BT": block}
            constants |= {"K": weight.shape[2], "UNIT": length > 0, "LENGTH": length / width**0.5}
            constants |= {"EPS": EPS, "SILU": silu}
            grid = (batch * cdiv(time, block), features // width)
            args = (x, weight, part, *out, x.shape[1], time)
            run(kernel, grid, args, constants, (x.dtype, weight.dtype), num_warps=8)
        first += features


def _short_conv(
    x: Tensor, weight: Tensor, first: int, past: int, width: int, lengths: list[float], silu: bool
) -> tuple[Tensor, Tensor]:
    parts = _parts(x, first, past)
    _launch(conv_fwd_kernel, aligned(x), aligned(weight), parts, width=width, lengths=lengths, silu=silu)
    leading, rest = parts
    return leading, rest


def _parts(x: Tensor, first: int, past: int) -> list[Tensor]:
    return [x.new_empty(x.shape[0], x.shape[1] - past, n) for n in (first, x.shape[2] - first)]


_op = library.custom_op("titans::short_conv", _short_conv, mutates_args=())


@_op.register_fake
def _(x, weight, first, past, width, lengths, silu):
    return tuple(_parts(x, first, past))


@library.custom_op("titans::short_conv_backward", mutates_args=())
def _short_conv_backward(
    x: Tensor, weight: Tensor, dfirst: Tensor, drest: Tensor, width: int, lengths: list[float], silu: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    x, weight, dfirst, drest = (aligned(t) for t in (x, weight, dfirst, drest))
    batch, rows, features = x.shape
    taps = weight.shape[2]
    time = dfirst.shape[1]
    block = TILE // width
    dz = x.new_empty(batch, time, features)
    dx = torch.empty_like(x)
    programs = batch * cdiv(time, block)
    dw = x.new_empty(programs, taps, features, dtype=torch.float32)
    _launch(conv_bwd_kernel, x, weight, [dfirst, drest], dz, dw, width=width, lengths=lengths, silu=silu)
    grid = (batch * cdiv(rows, block), features // width)
    constants = {"F": features, "D": width, "BT": block, "K": taps}
    args = (dz, weight, dx, rows, time)
    run(conv_dx_kernel, grid, args, constants, (x.dtype, weight.dtype), num_warps=8)
    return dx, dw.sum(0).mT[:, None].to(weight.dtype).contiguous()


@_short_conv_backward.register_fake
def _(x, weight, dfirst, drest, width, lengths, silu):
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _save(ctx, inputs, output) -> None:
    x, weight, _, _, *ctx.options = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, dfirst, drest):
    dx, dw = _short_conv_backward(*ctx.saved_tensors, dfirst, drest, *ctx.options)
    return dx, dw, *(None,) * 5


_op.register_autograd(_backward, setup_context=_save)


def short_conv(
    x: Tensor, weight: Tensor, first: int, past: int, width: int, lengths: list[float], silu: bool = True
) -> tuple[Tensor, Tensor]:
    """Convolve, activate, and bring heads to a length.

    Args:
        x: the linear map's outputs, [B, past + T, features].
        weight: taps of the convolution, [features, 1, K].
        first: how many features come first and lie apart from the rest.
        past: rows of x before the first token, K - 1, or 0 for zeros.
        width: features of a head.
        lengths: of a head among the first features and among the rest; 0 does not change them.
        silu: whether SiLU follows the convolution.

    Returns:
        [B, T, first] and [B, T, features - first].
    """
    return direct(_op, _short_conv)(x, weight, first, past, width, lengths, silu)
