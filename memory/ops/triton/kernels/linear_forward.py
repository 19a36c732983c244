"""Forward of the linear memory, one weight matrix a head: a scan that carries it, then all tokens' reads in parallel.

The scan does nothing but what the next chunk needs: a program per head holds weights and momentum in float32 registers
and stores each chunk's start state in the model's dtype. Letters as in `common`; states are [D, D], d_in first.
"""

import triton
import triton.language as tl

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.kernels.common import error_of_unit, output, standardise


@triton.jit(do_not_specialize=SIZES)
def linear_scan_kernel(
    k, v, vec, m_last, scale, shift, M, S, M_end, S_end, A, P, Mc, Sc, err_o, unit_o, stat_o, R, T, H, c0, n,
    D: tl.constexpr, C: tl.constexpr, NORM: tl.constexpr, RES: tl.constexpr, PRIOR: tl.constexpr,
    EPS: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (B*H,): chunks c0 .. c0 + n - 1 of one head.

    M, S: float32 state before the chunks, [R, D, D], with R = B*H or, where one stands for all sequences, H; M_end,
    S_end: behind them, [B*H, D, D], or None. A: M at the start of the last of them, [B*H, D, D] float32, or None.
    P: the prior, [H, D, D]. Mc, Sc: states at the start of each chunk, [B*H, n, D, D].
    err_o [B*H, n, C, D]: the inner loss's gradient at the keys' outputs. For the backward, or None, of the LayerNorm:
    unit_o [B*H, n, C, D] its output and stat_o [B*H, n, 2, C] its 1 / std and the mean of its output times the gradient
    there.
    """
    i_bh = tl.program_id(0).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d = tl.arange(0, C), tl.arange(0, D)
    dt = k.dtype.element_ty
    # 64-bit offsets stay scalars: as tensors they would take more registers than the state
    token, row = o[:, None] * (H * D) + o_d[None, :], o[:, None] * D + o_d[None, :]
    tile, w, of_head = o_d[:, None] * D + o_d[None, :], i_bh * D * D, i_h * D * D
    before = i_bh % R * D * D
    m, s = tl.load(M + before + tile), tl.load(S + before + tile)
    if NORM:
        b_scale, b_shift = tl.load(scale + i_h * D + o_d)[None, :], tl.load(shift + i_h * D + o_d)[None, :]
    for j in range(n):
        x_d, at = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_bh * n + j) * 4 * C
        c_d, saved = (i_bh * n + j) * C * D, (i_bh * n + j) * D * D
        inside = ((c0 + j) * C + o < T)[:, None]
        b_k = tl.load(k + x_d + token, mask=inside, other=0.0)
        b_v = tl.load(v + x_d + token, mask=inside, other=0.0)
        beta, f, m_c = tl.load(vec + at + C - 1), tl.load(vec + at + 2 * C - 1), tl.load(m_last + i_bh * n + j)
        pn, rn = tl.load(vec + at + 2 * C + o)[:, None], tl.load(vec + at + 3 * C + o)[:, None]
        if A is not None:
            tl.store(A + w + tile, m, mask=j == n - 1)
        b_m = m.to(dt)
        tl.store(Mc + saved + tile, b_m)
        tl.store(Sc + saved + tile, s.to(dt))
        z = tl.dot(b_k, b_m, input_precision=IP)
        err = z
        if NORM:
            unit, rstd = standardise(z, D, EPS)
            err = unit * b_scale + b_shift
        err -= b_v.to(tl.float32)
        if RES:
            err += b_k.to(tl.float32)
        if NORM:
            err, along = error_of_unit(unit, rstd, err, b_scale, D)
            if unit_o is not None:
                tl.store(unit_o + c_d + row, unit.to(dt))
                tl.store(stat_o + (i_bh * n + j) * 2 * C + o, rstd)
                tl.store(stat_o + (i_bh * n + j) * 2 * C + C + o, along)
        tl.store(err_o + c_d + row, err.to(dt))
        # coefficients scale the errors, so that keys go from where they were loaded to both products
        m = beta * m + f * s
        if PRIOR:
            m += (1.0 - beta) * tl.load(P + of_head + tile)
        m = tl.dot(tl.trans(b_k), (err * pn).to(dt), m, input_precision=IP)
        s = tl.dot(tl.trans(b_k), (err * rn).to(dt), m_c * s, input_precision=IP)
    if M_end is not None:
        tl.store(M_end + w + tile, m)
        tl.store(S_end + w + tile, s)


@triton.jit(do_not_specialize=SIZES)
def linear_read_kernel(
    q, k, err, PN, vec, Mc, Sc, P, scale, shift, y, T, H, c0, n,
    D: tl.constexpr, C: tl.constexpr, NORM: tl.constexpr, RES: tl.constexpr, PRIOR: tl.constexpr,
    MOMENTUM: tl.constexpr, EPS: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (n, B*H): y_t = M_t(q_t) for the tokens of one chunk."""
    j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d = tl.arange(0, C), tl.arange(0, D)
    dt = k.dtype.element_ty
    token, row = o[:, None] * (H * D) + o_d[None, :], o[:, None] * D + o_d[None, :]
    tile, square = o_d[:, None] * D + o_d[None, :], o[:, None] * C + o[None, :]
    x_d, at = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_bh * n + j) * 4 * C + o
    saved = (i_bh * n + j) * D * D
    inside = ((c0 + j) * C + o < T)[:, None]
    b_q, b_k = tl.load(q + x_d + token, mask=inside, other=0.0), tl.load(k + x_d + token, mask=inside, other=0.0)
    weight = tl.load(PN + (i_bh * n + j) * C * C + square).to(tl.float32)
    b_m, b_err = tl.load(Mc + saved + tile), tl.load(err + (i_bh * n + j) * C * D + row)
    beta = tl.load(vec + at)[:, None]
    attend = (tl.dot(b_q, tl.trans(b_k), input_precision=IP) * weight).to(dt)
    z = beta * tl.dot(b_q, b_m, input_precision=IP)
    if MOMENTUM:
        z += tl.load(vec + at + C)[:, None] * tl.dot(b_q, tl.load(Sc + saved + tile), input_precision=IP)
    if PRIOR:
        z += (1.0 - beta) * tl.dot(b_q, tl.load(P + i_h * D * D + tile).to(dt), input_precision=IP)
    z = tl.dot(attend, b_err, z, input_precision=IP)
    b_y = output(z, b_q, scale, shift, i_h, NORM, RES, D, EPS)
    tl.store(y + x_d + token, b_y.to(y.dtype.element_ty), mask=inside)
