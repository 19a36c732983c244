"""Exact errors of the linear memory: each token's inner gradient at the memory behind the token before.

`memory.ops.chunked.exact_surprise` has the formulas. The triangular system depends on keys and gates alone, so that
`delta_solve_kernel` inverts all of them in parallel and multiplies everything that waits for the state by the inverses:

    e = T (beta' k) M + T (f' k) S + T ((1 - beta') k M_0 + [k] - v),   T = (I + A)^-1,  A_ts = -PN_{t-1,s} (k_t . k_s)

with a dash for the coefficients behind the token before. All that remains for the scan is two products with the state.
"""

import triton
import triton.language as tl

from memory.ops.triton.kernels import SIZES

BLOCK = tl.constexpr(16)  # rows of the inverse that are computed one by one; the blocks follow by products


@triton.jit
def inverse_of_unit_lower(a, C: tl.constexpr, IP: tl.constexpr):
    """(I + a)^-1 of a strictly lower triangular a [C, C], float32.

    Rows of the diagonal blocks follow from the rows above, in all blocks at once. With X their inverse, (I + a) X is
    I - r with r strictly lower in blocks, so that r to the power of the blocks' number, at most 4, is zero and the
    inverse is X (I + r) (I + r^2), exactly.
    """
    NB: tl.constexpr = C // BLOCK
    o, o_b, o_i = tl.arange(0, C), tl.arange(0, NB), tl.arange(0, BLOCK)
    diagonal = (o_b[:, None] == o_b[None, :])[:, None, :, None]
    blocks = tl.reshape(a, [NB, BLOCK, NB, BLOCK])
    x = -tl.sum(tl.where(diagonal, blocks, 0.0), 2)  # [NB, BLOCK, BLOCK]
    for i in range(1, BLOCK):
        row = tl.sum(tl.where((o_i == i)[None, :, None], x, 0.0), 1)
        row += tl.sum(row[:, :, None] * x, 1)
        x = tl.where((o_i == i)[None, :, None], row[:, None, :], x)
    x = tl.where(diagonal, tl.broadcast_to(x[:, :, None, :], [NB, BLOCK, NB, BLOCK]), 0.0)
    x = tl.reshape(x, [C, C]) + tl.where(o[:, None] == o[None, :], 1.0, 0.0)
    if NB > 1:
        off = tl.where((o // BLOCK)[:, None] != (o // BLOCK)[None, :], a, 0.0)
        r = -tl.dot(off, x, input_precision=IP)
        x += tl.dot(x, r, input_precision=IP)
        if NB > 2:
            r = tl.dot(r, r, input_precision=IP)
            x += tl.dot(x, r, input_precision=IP)
    return x


@triton.jit(do_not_specialize=SIZES)
def delta_solve_kernel(
    k, v, PN, vec, P, inv, k_m, k_s, e_o, T, H, c0, n,
    D: tl.constexpr, C: tl.constexpr, RES: tl.constexpr, PRIOR: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (n, B*H): what of a chunk's errors needs no state.

    P: the prior, [H, D, D]. inv: T, [B*H, n, C, C]. k_m, k_s, e_o: what is multiplied by M, by S and
    added, [B*H, n, C, D].
    """
    j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d = tl.arange(0, C), tl.arange(0, D)
    dt = k.dtype.element_ty
    token, row = o[:, None] * (H * D) + o_d[None, :], o[:, None] * D + o_d[None, :]
    x_d, at = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_bh * n + j) * 4 * C + o - 1
    c_d, square = (i_bh * n + j) * C * D, (i_bh * n + j) * C * C
    inside = ((c0 + j) * C + o < T)[:, None]
    b_k = tl.load(k + x_d + token, mask=inside, other=0.0)
    above = square + (o[:, None] - 1) * C + o[None, :]
    weight = tl.load(PN + above, mask=o[:, None] > o[None, :], other=0.0).to(tl.float32)
    b_inv = inverse_of_unit_lower(-weight * tl.dot(b_k, tl.trans(b_k), input_precision=IP), C, IP).to(dt)
    tl.store(inv + square + o[:, None] * C + o[None, :], b_inv)
    beta = tl.load(vec + at, mask=o > 0, other=1.0)[:, None]
    f = tl.load(vec + at + C, mask=o > 0, other=0.0)[:, None]
    kf = b_k.to(tl.float32)
    tl.store(k_m + c_d + row, tl.dot(b_inv, (beta * kf).to(dt), input_precision=IP).to(dt))
    tl.store(k_s + c_d + row, tl.dot(b_inv, (f * kf).to(dt), input_precision=IP).to(dt))
    e = -tl.load(v + x_d + token, mask=inside, other=0.0).to(tl.float32)
    if RES:
        e += kf
    if PRIOR:
        tile = i_h * D * D + o_d[:, None] * D + o_d[None, :]
        e += (1.0 - beta) * tl.dot(b_k, tl.load(P + tile).to(dt), input_precision=IP)
    tl.store(e_o + c_d + row, tl.dot(b_inv, e.to(dt), input_precision=IP).to(dt))


@triton.jit(do_not_specialize=SIZES)
def delta_scan_kernel(
    k, vec, m_last, k_m, k_s, e_i, M, S, M_end, S_end, P, Mc, Sc, err_o, R, T, H, c0, n,
    D: tl.constexpr, C: tl.constexpr, PRIOR: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (B*H,): chunks c0 .. c0 + n - 1 of one head; arguments as of `linear_scan_kernel`, `delta_solve_kernel`."""
    i_bh = tl.program_id(0).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d = tl.arange(0, C), tl.arange(0, D)
    dt = k.dtype.element_ty
    token, row = o[:, None] * (H * D) + o_d[None, :], o[:, None] * D + o_d[None, :]
    tile, w, of_head = o_d[:, None] * D + o_d[None, :], i_bh * D * D, i_h * D * D
    before = i_bh % R * D * D
    m, s = tl.load(M + before + tile), tl.load(S + before + tile)
    for j in range(n):
        x_d, at = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_bh * n + j) * 4 * C
        c_d, saved = (i_bh * n + j) * C * D, (i_bh * n + j) * D * D
        inside = ((c0 + j) * C + o < T)[:, None]
        b_k = tl.load(k + x_d + token, mask=inside, other=0.0)
        b_km, b_ks = tl.load(k_m + c_d + row), tl.load(k_s + c_d + row)
        err = tl.load(e_i + c_d + row).to(tl.float32)
        beta, f, m_c = tl.load(vec + at + C - 1), tl.load(vec + at + 2 * C - 1), tl.load(m_last + i_bh * n + j)
        pn, rn = tl.load(vec + at + 2 * C + o)[:, None], tl.load(vec + at + 3 * C + o)[:, None]
        b_m, b_s = m.to(dt), s.to(dt)
        tl.store(Mc + saved + tile, b_m)
        tl.store(Sc + saved + tile, b_s)
        err = tl.dot(b_km, b_m, err, input_precision=IP)
        err = tl.dot(b_ks, b_s, err, input_precision=IP)
        tl.store(err_o + c_d + row, err.to(dt))
        m = beta * m + f * s
        if PRIOR:
            m += (1.0 - beta) * tl.load(P + of_head + tile)
        m = tl.dot(tl.trans(b_k), (err * pn).to(dt), m, input_precision=IP)
        s = tl.dot(tl.trans(b_k), (err * rn).to(dt), m_c * s, input_precision=IP)
    if M_end is not None:
        tl.store(M_end + w + tile, m)
        tl.store(S_end + w + tile, s)
