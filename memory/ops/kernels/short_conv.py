"""Causal depthwise convolution over a few tokens and, where asked, SiLU and RMS normalisation, in one pass.

z_t = sum_j w_j x_{t - (K-1) + j}, s = z or SiLU(z), y = s or s * LENGTH / rms(s). The backward computes z again.
"""

import triton
import triton.language as tl

from memory.ops.kernels import SIZES


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
