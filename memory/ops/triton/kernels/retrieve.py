"""Reading a two-layer memory that stays as it is: y = [q +] [LN](GELU(q M1) M2), and its backward.

The backward computes activations again, in two kernels: one for all that belongs to a token, one for the weights, whose
programs hold BE hidden units and go through all tokens of a head. No product takes an accumulator transposed.
"""

import triton
import triton.language as tl

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.kernels.common import gelu, gelu_1, output, standardise


@triton.jit
def mlp(b_q, M1, M2, weights, D: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, BT: tl.constexpr,
        FAST: tl.constexpr, IP: tl.constexpr):  # fmt: skip
    """GELU(q M1) M2 of queries b_q [BT, D], in float32; the head's weights begin at `weights`."""
    tile = tl.arange(0, BE)[:, None] * D + tl.arange(0, D)[None, :]
    z = tl.zeros([BT, D], tl.float32)
    for e in range(E // BE):
        m1 = tl.load(M1 + weights + e * BE * D + tile).to(b_q.dtype)
        m2 = tl.load(M2 + weights + e * BE * D + tile).to(b_q.dtype)
        x = gelu(tl.dot(b_q, tl.trans(m1), input_precision=IP), FAST).to(b_q.dtype)
        z = tl.dot(x, m2, z, input_precision=IP)
    return z


@triton.jit(do_not_specialize=SIZES)
def retrieve_fwd_kernel(
    q, M1, M2, scale, shift, y, T, H, D: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, BT: tl.constexpr,
    NORM: tl.constexpr, RES: tl.constexpr, EPS: tl.constexpr, FAST: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (blocks of BT tokens, B*H). q, y: [B, T, H, D]; M: [B*H, E, D]; scale, shift: [H, D]."""
    i_bh, t = tl.program_id(1).to(tl.int64), tl.program_id(0) * BT + tl.arange(0, BT)
    i_b, i_h, inside = i_bh // H, i_bh % H, (t < T)[:, None]
    at = ((i_b * T + t) * H + i_h)[:, None] * D + tl.arange(0, D)[None, :]
    b_q = tl.load(q + at, mask=inside, other=0.0)
    z = mlp(b_q, M1, M2, i_bh * E * D, D, E, BE, BT, FAST, IP)
    b_y = output(z, b_q, scale, shift, i_h, NORM, RES, D, EPS)
    tl.store(y + at, b_y.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def retrieve_bwd_kernel(
    q, M1, M2, scale, dy, dq, dz, dslow, T, H, D: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, BT: tl.constexpr,
    NORM: tl.constexpr, RES: tl.constexpr, EPS: tl.constexpr, FAST: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid as forward: gradients of q and of the MLP's output, and of scale and shift, [2, B, blocks, H, D] float32."""
    i_bh, t = tl.program_id(1).to(tl.int64), tl.program_id(0) * BT + tl.arange(0, BT)
    i_b, i_h, inside = i_bh // H, i_bh % H, (t < T)[:, None]
    o_d = tl.arange(0, D)
    dt = q.dtype.element_ty
    at = ((i_b * T + t) * H + i_h)[:, None] * D + o_d[None, :]
    b_q = tl.load(q + at, mask=inside, other=0.0)
    b_dy = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
    b_dz = b_dy
    if NORM:
        unit, rstd = standardise(mlp(b_q, M1, M2, i_bh * E * D, D, E, BE, BT, FAST, IP), D, EPS)
        place = dslow + ((i_b * tl.num_programs(0) + tl.program_id(0)) * H + i_h) * D + o_d
        tl.store(place, tl.sum(b_dy * unit, 0))
        tl.store(place + tl.num_programs(0).to(tl.int64) * tl.num_programs(1) * D, tl.sum(b_dy, 0))
        b_dz = b_dy * tl.load(scale + i_h * D + o_d)[None, :]
        means = (tl.sum(b_dz, 1) / D)[:, None] + unit * (tl.sum(b_dz * unit, 1) / D)[:, None]
        b_dz = rstd[:, None] * (b_dz - means)
    b_dz = b_dz.to(dt)
    tl.store(dz + at, b_dz, mask=inside)
    b_dq = tl.zeros([BT, D], tl.float32)
    tile = tl.arange(0, BE)[:, None] * D + o_d[None, :]
    for e in range(E // BE):
        m1 = tl.load(M1 + (i_bh * E + e * BE) * D + tile).to(dt)
        m2 = tl.load(M2 + (i_bh * E + e * BE) * D + tile).to(dt)
        _, slope = gelu_1(tl.dot(b_q, tl.trans(m1), input_precision=IP), FAST)
        dx = tl.dot(b_dz, tl.trans(m2), input_precision=IP) * slope
        b_dq = tl.dot(dx.to(dt), m1, b_dq, input_precision=IP)
    if RES:
        b_dq += b_dy
    tl.store(dq + at, b_dq.to(dt), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def retrieve_weights_kernel(
    q, M1, M2, dz, dM1, dM2, T, H, D: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, BT: tl.constexpr,
    FAST: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (E / BE, B*H): gradients of the weights, float32."""
    i_bh = tl.program_id(1).to(tl.int64)
    dt = q.dtype.element_ty
    i_b, i_h, o_d = i_bh // H, i_bh % H, tl.arange(0, D)
    own = (i_bh * E + tl.program_id(0) * BE + tl.arange(0, BE))[:, None] * D + o_d[None, :]
    m1, m2 = tl.load(M1 + own).to(dt), tl.load(M2 + own).to(dt)
    d1, d2 = tl.zeros([BE, D], tl.float32), tl.zeros([BE, D], tl.float32)
    for j in range(tl.cdiv(T, BT)):
        t = j * BT + tl.arange(0, BT)
        at = ((i_b * T + t) * H + i_h)[:, None] * D + o_d[None, :]
        b_q = tl.load(q + at, mask=(t < T)[:, None], other=0.0)
        b_dz = tl.load(dz + at, mask=(t < T)[:, None], other=0.0)
        x, slope = gelu_1(tl.dot(m1, tl.trans(b_q), input_precision=IP), FAST)
        dx = tl.dot(m2, tl.trans(b_dz), input_precision=IP) * slope
        d1 = tl.dot(dx.to(dt), b_q, d1, input_precision=IP)
        d2 = tl.dot(x.to(dt), b_dz, d2, input_precision=IP)
    tl.store(dM1 + own, d1)
    tl.store(dM2 + own, d2)
