"""Exact errors of the linear memory: each token's inner gradient at the memory behind the token before.

`memory.ops.chunked.exact_error` has the formulas. The triangular system depends on keys and gates alone, so that
`delta_solve_kernel` inverts all of them in parallel, and the scan multiplies by the inverse what errors would be if no
token of the chunk had written:

    e = T (beta' (k M) + f' (k S) + (1 - beta') (k M_0) [+ k] - v),   T = (I + A)^-1,  A_ts = -PN_{t-1,s} (k_t . k_s)

with a dash for the coefficients behind the token before. Columns of the values have nothing to do with one another
here, and the scan is the longest chain of products: a program holds BV columns of a head's state.

Where heads are few, a program takes a span of the chunks. Without momentum M behind a span is an affine function of M
before it, U M + Z: all spans are walked through at once for U and Z, `delta_carry_kernel` goes from span to span, and
all spans are walked through once more, each from its start.
"""

import triton
import triton.language as tl

from memory.ops.triton.kernels import SIZES

SCALE = tl.constexpr(256.0)  # a power of two, so that nothing is rounded by it


@triton.jit
def inverse_of_unit_lower(a, dt: tl.constexpr, C: tl.constexpr, IP: tl.constexpr):
    """(I + a)^-1 of a strictly lower triangular a [C, C], float32, C at most 64, by products of operands in dt.

    Blocks of two rows are inverted by a sign. With X the inverse of the diagonal blocks, X - X a X is that of blocks
    twice their size in the places that join two of them. X is held SCALE times smaller, so that float16 holds entries
    up to 2**24: beyond that a chunk multiplies errors by as much, and no state stays finite.
    """
    t, s = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    x = tl.where(t == s, 1.0, tl.where(t // 2 == s // 2, -a, 0.0)) / SCALE
    b_a = (-a).to(dt)
    for i in tl.static_range(1, 6):
        if 2**i < C:
            b_x = x.to(dt)
            joined = tl.dot(b_x, tl.dot(b_a, b_x, input_precision=IP).to(dt), input_precision=IP)
            joins = (t // 2 ** (i + 1) == s // 2 ** (i + 1)) & (t // 2**i > s // 2**i)
            x = tl.where(joins, joined * SCALE, x)
    return x * SCALE


@triton.jit(do_not_specialize=SIZES)
def delta_solve_kernel(k, PN, inv, T, H, c0, n, D: tl.constexpr, C: tl.constexpr, IP: tl.constexpr):
    """grid (n, B*H): the inverse of a chunk's system, inv [B*H, n, C, C].

    Its products round their operands to 11 bits, as tf32 does, so float16 serves bfloat16 keys; float32 takes tf32x3.
    """
    j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d = tl.arange(0, C), tl.arange(0, D)
    token = o[:, None] * (H * D) + o_d[None, :]
    x_d, square = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_bh * n + j) * C * C
    b_k = tl.load(k + x_d + token, mask=((c0 + j) * C + o < T)[:, None], other=0.0)
    above = square + (o[:, None] - 1) * C + o[None, :]  # PN is zero above its diagonal
    weight = tl.load(PN + above, mask=(o > 0)[:, None], other=0.0).to(tl.float32)
    a = -weight * tl.dot(b_k, tl.trans(b_k), input_precision=IP)
    b_inv = inverse_of_unit_lower(a, tl.float32 if k.dtype.element_ty == tl.float32 else tl.float16, C, IP)
    tl.store(inv + square + o[:, None] * C + o[None, :], b_inv.to(inv.dtype.element_ty))


@triton.jit(do_not_specialize=SIZES)
def delta_scan_kernel(
    k, v, inv, vec, m_last, M, S, M_end, S_end, P, Mc, Sc, err_o, R, T, H, c0, n, span,
    D: tl.constexpr, C: tl.constexpr, BV: tl.constexpr, RES: tl.constexpr, PRIOR: tl.constexpr,
    MOMENTUM: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (D / BV, B*H spans): columns of one head's chunks c0 .. c0 + n - 1; arguments as of `linear_scan_kernel`.

    A program takes `span` of these chunks, from its row of M on and to its row of M_end. Without momentum there is no
    S: nothing is read from it or stored of it. Where M is None, nothing is stored but M_end, [2, B*H spans, D, D], and
    the grid is (2 D / BV, ..): the first half of the columns holds Z, the second U.
    """
    i_v, i_s = tl.program_id(0), tl.program_id(1).to(tl.int64)
    spans = tl.cdiv(n, span)
    i_bh, begin = i_s // spans, i_s % spans * span
    end = tl.minimum(begin + span, n)
    own = 1.0
    if M is None:
        own = tl.where(i_v < D // BV, 1.0, 0.0)  # of Z: what does not come from M
        i_v = i_v % (D // BV)
    o_v, i_b, i_h = i_v * BV + tl.arange(0, BV), i_bh // H, i_bh % H
    o, o_d = tl.arange(0, C), tl.arange(0, D)
    dt = k.dtype.element_ty
    token, token_v = o[:, None] * (H * D) + o_d[None, :], o[:, None] * (H * D) + o_v[None, :]
    row, c_c = o[:, None] * D + o_v[None, :], o[:, None] * C + o[None, :]
    tile, w = o_d[:, None] * D + o_v[None, :], i_s * D * D
    before = i_s % R * D * D
    if M is None:
        w += tl.where(own > 0, 0, tl.num_programs(1)) * D * D
        m = tl.where(o_d[:, None] == o_v[None, :], 1.0 - own, 0.0)
    else:
        m = tl.load(M + before + tile)
    if PRIOR:
        prior = own * tl.load(P + i_h * D * D + tile)
        b_p = prior.to(dt)
    at = (i_bh * n + begin) * 4 * C + C - 1
    beta = tl.load(vec + at)
    if MOMENTUM:
        s, f, m_c = tl.load(S + before + tile), tl.load(vec + at + C), tl.load(m_last + i_bh * n + begin)
    for j in range(begin, end):
        x_d, at = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_bh * n + j) * 4 * C
        c_d, saved, square = (i_bh * n + j) * C * D, (i_bh * n + j) * D * D, (i_bh * n + j) * C * C
        inside = ((c0 + j) * C + o < T)[:, None]
        b_k = tl.load(k + x_d + token, mask=inside, other=0.0)
        b_inv = tl.load(inv + square + c_c)
        wanted = tl.load(v + x_d + token_v, mask=inside, other=0.0).to(tl.float32)
        if RES:
            wanted -= tl.load(k + x_d + token_v, mask=inside, other=0.0).to(tl.float32)
        beta_o = tl.load(vec + at + o - 1, mask=o > 0, other=1.0)[:, None]
        pn = tl.load(vec + at + 2 * C + o)[:, None]
        b_m = m.to(dt)
        if M is not None:
            tl.store(Mc + saved + tile, b_m)
        z = beta_o * tl.dot(b_k, b_m, input_precision=IP) - own * wanted
        if MOMENTUM:
            f_o = tl.load(vec + at + C + o - 1, mask=o > 0, other=0.0)[:, None]
            rn = tl.load(vec + at + 3 * C + o)[:, None]
            b_s = s.to(dt)
            tl.store(Sc + saved + tile, b_s)
            z += f_o * tl.dot(b_k, b_s, input_precision=IP)
        if PRIOR:
            z += (1.0 - beta_o) * tl.dot(b_k, b_p, input_precision=IP)
        err = tl.dot(b_inv, z.to(dt), input_precision=IP)
        if M is not None:
            tl.store(err_o + c_d + row, err.to(dt))
        m = beta * m
        if PRIOR:
            m += (1.0 - beta) * prior
        if MOMENTUM:
            m += f * s
            s = m_c * s
        # the next chunk's are on their way while the products run
        more, at = j + 1 < end, at + 5 * C - 1
        beta = tl.load(vec + at, mask=more, other=0.0)
        if MOMENTUM:
            f = tl.load(vec + at + C, mask=more, other=0.0)
            m_c = tl.load(m_last + i_bh * n + j + 1, mask=more, other=0.0)
            s = tl.dot(tl.trans(b_k), (err * rn).to(dt), s, input_precision=IP)
        m = tl.dot(tl.trans(b_k), (err * pn).to(dt), m, input_precision=IP)
    if M_end is not None:
        tl.store(M_end + w + tile, m)
        if MOMENTUM:
            tl.store(S_end + w + tile, s)


@triton.jit(do_not_specialize=SIZES)
def delta_carry_kernel(
    Z, U, U_back, M, starts, M_end, R, spans, D: tl.constexpr, BV: tl.constexpr, IP: tl.constexpr
):  # fmt: skip
    """grid (D / BV, B*H): columns of one head's state from span to span, M' = U M + Z, all float32.

    Z, U: of each span, [B*H spans, D, D]. M: before the first, [R, D, D]. starts: room for M before each, as Z. M_end:
    room for M behind the last, [B*H, D, D], or None.
    Where U_back is given in place of U, the same of gradients, from the last span to the first, by its transpose: M is
    that behind the last or None for zero, starts takes those behind each, and M_end that before the first.
    """
    o_v, i_bh = tl.program_id(0) * BV + tl.arange(0, BV), tl.program_id(1).to(tl.int64)
    o_d = tl.arange(0, D)
    tile, w = o_d[:, None] * D + o_v[None, :], i_bh * D * D
    m = tl.zeros([D, BV], tl.float32)
    if M is not None:
        m = tl.load(M + i_bh % R * D * D + tile)
    for i in range(spans):
        if U_back is not None:
            place = (i_bh * spans + spans - 1 - i) * D * D
            u = tl.load(U_back + place + o_d[:, None] + o_d[None, :] * D)
        else:
            place = (i_bh * spans + i) * D * D
            u = tl.load(U + place + o_d[:, None] * D + o_d[None, :])
        tl.store(starts + place + tile, m)
        m = tl.dot(u, m, tl.load(Z + place + tile), input_precision=IP)
    if M_end is not None:
        tl.store(M_end + w + tile, m)
