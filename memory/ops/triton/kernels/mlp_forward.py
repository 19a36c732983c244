"""Forward: a scan over chunks that carries the memory, then all tokens' reads in parallel.

The scan gives each head NG programs, which hold BE hidden units each, weights and momentum in float32 registers, and
meet once a chunk to add up the MLP's output. It stores every chunk's start state in the model's dtype for the reads,
which recompute keys' activations instead of loading them.
"""

import triton
import triton.language as tl

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.kernels.common import error, gelu, gelu_1, output, sum_over_tiles


@triton.jit(do_not_specialize=SIZES)
def state_fwd_kernel(
    k, v, vec, m_last, scale, shift, M1, M2, S1, S2, M1_end, M2_end, S1_end, S2_end, A1, A2, P1, P2,
    M1c, M2c, S1c, S2c, z2_o, err, shared, arrived, R, T, H, c0, n,
    D: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, C: tl.constexpr, NORM: tl.constexpr, RES: tl.constexpr,
    PRIOR: tl.constexpr, EPS: tl.constexpr, FAST: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (E / BE * B*H,): chunks c0 .. c0 + n - 1 of BE hidden units of one head.

    M, S: float32 state before the chunks, [R, E, D], with R = B*H or, where one stands for all sequences, H; M_end,
    S_end: behind them, [B*H, E, D], or None. A: M at the start of the last of them, [B*H, E, D] float32, or None.
    P: the prior, [H, E, D]. Mc, Sc: states at the start of each chunk, [B*H, n, E, D].
    z2_o: the MLP's outputs for the keys, [B*H, n, C, D] float32, or None; err: the loss's gradient there. shared,
    arrived: see `sum_over_tiles`.
    """
    NG: tl.constexpr = E // BE
    # programs start in the order of their tickets, so those of one head never wait for one that cannot start
    ticket = tl.atomic_add(arrived + tl.num_programs(0) // NG, 1) if NG > 1 else tl.program_id(0)
    i_bh, i_e = (ticket // NG).to(tl.int64), ticket % NG
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d = tl.arange(0, C), tl.arange(0, D)
    dt = k.dtype.element_ty
    # 64-bit offsets stay scalars: as tensors they would take more registers than the state
    tile = (i_e * BE + tl.arange(0, BE))[:, None] * D + o_d[None, :]
    token, row = o[:, None] * (H * D) + o_d[None, :], o[:, None] * D + o_d[None, :]
    w, before, of_head = i_bh * E * D, i_bh % R * E * D, i_h * E * D
    m1, m2 = tl.load(M1 + before + tile), tl.load(M2 + before + tile)
    s1, s2 = tl.load(S1 + before + tile), tl.load(S2 + before + tile)
    for j in range(n):
        x_d = ((i_b * T + (c0 + j) * C) * H + i_h) * D
        c_d, saved = (i_bh * n + j) * C * D, (i_bh * n + j) * E * D
        inside = ((c0 + j) * C + o < T)[:, None]
        b_k = tl.load(k + x_d + token, mask=inside, other=0.0)
        if A1 is not None:
            tl.store(A1 + w + tile, m1, mask=j == n - 1)
            tl.store(A2 + w + tile, m2, mask=j == n - 1)
        b_m1, b_m2 = m1.to(dt), m2.to(dt)
        tl.store(M1c + saved + tile, b_m1)
        tl.store(M2c + saved + tile, b_m2)
        tl.store(S1c + saved + tile, s1.to(dt))
        tl.store(S2c + saved + tile, s2.to(dt))
        x, slope = gelu_1(tl.dot(b_m1, tl.trans(b_k), input_precision=IP), FAST)
        x, slope = x.to(dt), slope.to(dt)  # half the registers until the errors are there
        part = tl.dot(tl.trans(x), b_m2, input_precision=IP)
        z2 = sum_over_tiles(part, shared, arrived, j, i_bh, i_e, C, D, NG)
        wanted = tl.load(v + x_d + token, mask=inside, other=0.0).to(tl.float32)
        if RES:
            wanted -= b_k.to(tl.float32)
        b_scale, b_shift = wanted, wanted
        if NORM:
            b_scale, b_shift = tl.load(scale + i_h * D + o_d)[None, :], tl.load(shift + i_h * D + o_d)[None, :]
        b_err = error(z2, wanted, b_scale, b_shift, NORM, D, EPS).to(dt)
        if i_e == 0:
            if z2_o is not None:
                tl.store(z2_o + c_d + row, z2)
            tl.store(err + c_d + row, b_err)
        at = vec + (i_bh * n + j) * 4 * C
        beta, f, m = tl.load(at + C - 1), tl.load(at + 2 * C - 1), tl.load(m_last + i_bh * n + j)
        # coefficients scale the factor that stays in registers, so that k and err are staged once for all products
        pn, rn = tl.load(at + 2 * C + o)[None, :], tl.load(at + 3 * C + o)[None, :]
        e1 = tl.dot(b_m2, tl.trans(b_err), input_precision=IP) * slope.to(tl.float32)
        xf = x.to(tl.float32)
        m2 = beta * m2 + f * s2
        m1 = beta * m1 + f * s1
        if PRIOR:
            m1 += (1.0 - beta) * tl.load(P1 + of_head + tile)
            m2 += (1.0 - beta) * tl.load(P2 + of_head + tile)
        m2 = tl.dot((xf * pn).to(dt), b_err, m2, input_precision=IP)
        s2 = tl.dot((xf * rn).to(dt), b_err, m * s2, input_precision=IP)
        m1 = tl.dot((e1 * pn).to(dt), b_k, m1, input_precision=IP)
        s1 = tl.dot((e1 * rn).to(dt), b_k, m * s1, input_precision=IP)
    if M1_end is not None:
        tl.store(M1_end + w + tile, m1)
        tl.store(M2_end + w + tile, m2)
        tl.store(S1_end + w + tile, s1)
        tl.store(S2_end + w + tile, s2)


@triton.jit(do_not_specialize=SIZES)
def read_fwd_kernel(
    q, k, err, PN, vec, M1c, M2c, S1c, S2c, P1, P2, scale, shift, y, T, H, c0, n,
    D: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, C: tl.constexpr, NORM: tl.constexpr, RES: tl.constexpr,
    PRIOR: tl.constexpr, EPS: tl.constexpr, FAST: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (n, B*H): y_t = M_t(q_t) for the tokens of one chunk."""
    j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d, o_e = tl.arange(0, C), tl.arange(0, D), tl.arange(0, BE)
    dt = k.dtype.element_ty
    tile, row = o_e[:, None] * D + o_d[None, :], o[:, None] * D + o_d[None, :]
    token, square = o[:, None] * (H * D) + o_d[None, :], o[:, None] * C + o[None, :]
    x_d = ((i_b * T + (c0 + j) * C) * H + i_h) * D
    inside = ((c0 + j) * C + o < T)[:, None]
    b_q, b_k = tl.load(q + x_d + token, mask=inside, other=0.0), tl.load(k + x_d + token, mask=inside, other=0.0)
    at = vec + (i_bh * n + j) * 4 * C + o
    beta, f = tl.load(at)[:, None], tl.load(at + C)[:, None]
    qf = b_q.to(tl.float32)
    q_m, q_s = tl.trans((qf * beta).to(dt)), tl.trans((qf * f).to(dt))
    q_p = tl.trans((qf * (1.0 - beta)).to(dt))
    weight = PN + (i_bh * n + j) * C * C + square
    attend = (tl.dot(b_q, tl.trans(b_k), input_precision=IP) * tl.load(weight).to(tl.float32)).to(dt)
    b_err = tl.load(err + (i_bh * n + j) * C * D + row)
    saved, of_head = (i_bh * n + j) * E * D, i_h * E * D
    scores = tl.zeros([C, C], tl.float32)
    z_m, z_s, z_p = tl.zeros([C, D], tl.float32), tl.zeros([C, D], tl.float32), tl.zeros([C, D], tl.float32)
    for e in range(E // BE):
        at_e = e * BE * D
        m1, m2 = tl.load(M1c + saved + at_e + tile), tl.load(M2c + saved + at_e + tile)
        s2 = tl.load(S2c + saved + at_e + tile)
        x, slope = gelu_1(tl.dot(m1, tl.trans(b_k), input_precision=IP), FAST)
        e1 = (tl.dot(m2, tl.trans(b_err), input_precision=IP) * slope).to(dt)
        z = tl.dot(m1, q_m, input_precision=IP)
        z = tl.dot(tl.load(S1c + saved + at_e + tile), q_s, z, input_precision=IP)
        z = tl.dot(e1, tl.trans(attend), z, input_precision=IP)
        if PRIOR:
            z = tl.dot(tl.load(P1 + of_head + at_e + tile).to(dt), q_p, z, input_precision=IP)
        xq = tl.trans(gelu(z, FAST).to(dt))
        scores = tl.dot(xq, x.to(dt), scores, input_precision=IP)
        z_m = tl.dot(xq, m2, z_m, input_precision=IP)
        z_s = tl.dot(xq, s2, z_s, input_precision=IP)
        if PRIOR:
            z_p = tl.dot(xq, tl.load(P2 + of_head + at_e + tile).to(dt), z_p, input_precision=IP)
    z2 = beta * z_m + f * z_s + (1.0 - beta) * z_p
    z2 = tl.dot((scores * tl.load(weight).to(tl.float32)).to(dt), b_err, z2, input_precision=IP)
    b_y = output(z2, b_q, scale, shift, i_h, NORM, RES, D, EPS)
    tl.store(y + x_d + token, b_y.to(y.dtype.element_ty), mask=inside)
