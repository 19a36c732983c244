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


@triton.jit
def load_inputs(x, before, i_b, row, N, P, of, feature):
    """Rows of a sequence of N: the first P are those of `before`, which all sequences share, others its own in x."""
    if before is None:
        return load_rows(x + i_b * N * of, row, N, of, feature)
    else:
        own = load_rows(x + i_b * (N - P) * of, row - P, N - P, of, feature)
        return own + load_rows(before, row, P, of, feature)


@triton.jit(do_not_specialize=[*SIZES, "P"])
def conv_fwd_kernel(
    x, before, w, y, N, P, T, F: tl.constexpr, first: tl.constexpr, width: tl.constexpr,
    D: tl.constexpr, BT: tl.constexpr, K: tl.constexpr, UNIT: tl.constexpr, LENGTH: tl.constexpr, EPS: tl.constexpr,
    SILU: tl.constexpr,
):  # fmt: skip
    """grid (B * blocks of BT tokens, width / D): features first .. first + width - 1 of x.

    Of the N rows of a sequence the last T are the tokens; those before the first one are zero. x: [B, N - P, F], behind
    `before`: [P, F] for all sequences, which need not be there. w: [F, K]; y: [B, T, width].
    """
    i_b, t, own = places(T, BT, D)
    feature = first + own
    z = tl.zeros([BT, D], tl.float32)
    for j in tl.static_range(K):
        tap = tl.load(w + feature * K + j).to(tl.float32)
        z += load_inputs(x, before, i_b, t + (N - T - K + 1 + j), N, P, F, feature) * tap[None, :]
    out, _ = activate(z, SILU)
    if UNIT:
        out *= (LENGTH * tl.rsqrt(tl.sum(out * out, 1) / D + EPS))[:, None]
    place = y + i_b * T * width + t[:, None] * width + own[None, :]
    tl.store(place, out.to(y.dtype.element_ty), mask=(t < T)[:, None])


@triton.jit(do_not_specialize=[*SIZES, "P"])
def conv_bwd_kernel(
    x, before, w, dy, dz, dw, N, P, T, F: tl.constexpr, first: tl.constexpr, width: tl.constexpr,
    D: tl.constexpr, BT: tl.constexpr, K: tl.constexpr, UNIT: tl.constexpr, LENGTH: tl.constexpr, EPS: tl.constexpr,
    SILU: tl.constexpr,
):  # fmt: skip
    """grid as `conv_fwd_kernel`: gradients of z, [B, T, F], and of w, [B * blocks, K, F] to be added up."""
    i_b, t, own = places(T, BT, D)
    feature = first + own
    z = tl.zeros([BT, D], tl.float32)
    for j in tl.static_range(K):
        tap = tl.load(w + feature * K + j).to(tl.float32)
        z += load_inputs(x, before, i_b, t + (N - T - K + 1 + j), N, P, F, feature) * tap[None, :]
    out, slope = activate(z, SILU)
    grad = load_rows(dy + i_b * T * width, t, T, width, own)
    if UNIT:
        rms = tl.rsqrt(tl.sum(out * out, 1) / D + EPS)[:, None]
        grad = LENGTH * rms * (grad - out * rms * rms * (tl.sum(grad * out, 1) / D)[:, None])
    grad *= slope
    place = dz + i_b * T * F + t[:, None] * F + feature[None, :]
    tl.store(place, grad.to(dz.dtype.element_ty), mask=(t < T)[:, None])
    for j in tl.static_range(K):
        seen = load_inputs(x, before, i_b, t + (N - T - K + 1 + j), N, P, F, feature)
        tl.store(dw + (tl.program_id(0).to(tl.int64) * K + j) * F + feature, tl.sum(grad * seen, 0))


@triton.jit(do_not_specialize=[*SIZES, "P"])
def conv_dx_kernel(dz, w, dx, dbefore, N, P, T, F: tl.constexpr, D: tl.constexpr, BT: tl.constexpr, K: tl.constexpr):
    """grid (B * blocks of BT rows, F / D): gradients of x, [B, N - P, F], and of `before`, [B, P, F] to be added up."""
    i_b, row, feature = places(N, BT, D)
    grad = tl.zeros([BT, D], tl.float32)
    for j in tl.static_range(K):
        tap = tl.load(w + feature * K + j).to(tl.float32)
        grad += load_rows(dz + i_b * T * F, row + (T - N + K - 1 - j), T, F, feature) * tap[None, :]
    own = (i_b * (N - P) + row - P)[:, None] * F + feature[None, :]
    tl.store(dx + own, grad.to(dx.dtype.element_ty), mask=((row >= P) & (row < N))[:, None])
    if dbefore is not None:
        shared = (i_b * P + row)[:, None] * F + feature[None, :]
        tl.store(dbefore + shared, grad, mask=(row < P)[:, None])


def _launch(
    kernel: triton.JITFunction, x: Tensor, before: Tensor | None, weight: Tensor, parts: list[Tensor], *out: Tensor,
    width: int, lengths: list[float], silu: bool,
) -> None:  # fmt: skip
    """Run a kernel over neighbouring features that lie apart in `parts`, [B, T, ..], each with a length of its own."""
    first = 0
    block = TILE // width
    shared = _rows(before)
    for part, length in zip(parts, lengths, strict=True):
        batch, time, features = part.shape
        if features:
            constants = {"F": x.shape[2], "first": first, "width": features, "D": width, "BT": block}
            constants |= {"K": weight.shape[2], "UNIT": length > 0, "LENGTH": length / width**0.5}
            constants |= {"EPS": EPS, "SILU": silu}
            grid = (batch * cdiv(time, block), features // width)
            args = (x, before, weight, part, *out, x.shape[1] + shared, shared, time)
            run(kernel, grid, args, constants, (x.dtype, weight.dtype), num_warps=8)
        first += features


def _rows(before: Tensor | None) -> int:
    return 0 if before is None else len(before)


def _short_conv(
    x: Tensor, before: Tensor | None, weight: Tensor, first: int, past: int, width: int, lengths: list[float],
    silu: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    parts = _parts(x, before, first, past)
    inputs = (aligned(x), aligned(before), aligned(weight))
    _launch(conv_fwd_kernel, *inputs, parts, width=width, lengths=lengths, silu=silu)
    leading, rest = parts
    return leading, rest


def _parts(x: Tensor, before: Tensor | None, first: int, past: int) -> list[Tensor]:
    time = _rows(before) + x.shape[1] - past
    return [x.new_empty(x.shape[0], time, n) for n in (first, x.shape[2] - first)]


_op = library.custom_op("titans::short_conv", _short_conv, mutates_args=())


@_op.register_fake
def _(x, before, weight, first, past, width, lengths, silu):
    return tuple(_parts(x, before, first, past))


@library.custom_op("titans::short_conv_backward", mutates_args=())
def _short_conv_backward(
    x: Tensor, before: Tensor | None, weight: Tensor, dfirst: Tensor, drest: Tensor, width: int,
    lengths: list[float], silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, of what comes before it ([0] where nothing does) and of weight."""
    x, weight, dfirst, drest = (aligned(t) for t in (x, weight, dfirst, drest))
    before = aligned(before)
    batch, rows, features = x.shape
    shared = _rows(before)
    taps = weight.shape[2]
    time = dfirst.shape[1]
    block = TILE // width
    dz = x.new_empty(batch, time, features)
    dx = torch.empty_like(x)
    dbefore = None if before is None else x.new_empty(batch, shared, features, dtype=torch.float32)
    programs = batch * cdiv(time, block)
    dw = x.new_empty(programs, taps, features, dtype=torch.float32)
    _launch(conv_bwd_kernel, x, before, weight, [dfirst, drest], dz, dw, width=width, lengths=lengths, silu=silu)
    grid = (batch * cdiv(shared + rows, block), features // width)
    constants = {"F": features, "D": width, "BT": block, "K": taps}
    args = (dz, weight, dx, dbefore, shared + rows, shared, time)
    run(conv_dx_kernel, grid, args, constants, (x.dtype, weight.dtype), num_warps=8)
    of_before = x.new_empty(0) if dbefore is None else dbefore.sum(0).to(x.dtype)
    return dx, of_before, dw.sum(0).mT[:, None].to(weight.dtype).contiguous()


@_short_conv_backward.register_fake
def _(x, before, weight, dfirst, drest, width, lengths, silu):
    of_before = x.new_empty(0 if before is None else before.shape)
    return x.new_empty(x.shape), of_before, weight.new_empty(weight.shape)


def _save(ctx, inputs, output) -> None:
    x, before, weight, _, _, *ctx.options = inputs
    ctx.save_for_backward(x, before, weight)


def _backward(ctx, dfirst, drest):
    dx, dbefore, dw = _short_conv_backward(*ctx.saved_tensors, dfirst, drest, *ctx.options)
    return dx, dbefore if ctx.needs_input_grad[1] else None, dw, *(None,) * 5


_op.register_autograd(_backward, setup_context=_save)


def short_conv(
    x: Tensor,
    weight: Tensor,
    first: int,
    past: int,
    width: int,
    lengths: list[float],
    silu: bool = True,
    before: Tensor | None = None,
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
        before: the same of P tokens that every sequence begins with, [P, features]; `past` is 0 then.

    Returns:
        [B, P + T, first] and [B, P + T, features - first].
    """
    return direct(_op, _short_conv)(x, before, weight, first, past, width, lengths, silu)
