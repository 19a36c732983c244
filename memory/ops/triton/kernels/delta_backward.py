"""Backward of the exact errors of the linear memory; reads are those of `linear_backward`.

With d_e the gradient of the errors and b what the system is solved for (e = T b),

    d_b = T^T d_e,   dA = -d_b e^T  (below the diagonal),   dM += (beta' k)^T d_b,   dS += (f' k)^T d_b,

so that nothing is solved again, and the scan back has the scan's products, transposed, in the same columns.
"""

import triton
import triton.language as tl

from memory.ops.triton.kernels import SIZES


@triton.jit(do_not_specialize=SIZES)
def delta_scan_bwd_kernel(
    k, inv, d_err_i, dMr, dSr, vec, m_last, dM_start, dS_start, dM, dS, d_b_o, dMc, dSc, T, H, c0, n, span,
    D: tl.constexpr, C: tl.constexpr, BV: tl.constexpr, MOMENTUM: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (D / BV, B*H spans): the scan's backward over chunks c0 + n - 1 .. c0 of columns of one head.

    d_err_i, dMr, dSr: what reads want of the errors, [B*H, n, C, D], and of the state at the start of each chunk,
    [B*H, n, D, D]. dM, dS: float32 gradient of the state behind the chunks, [B*H, D, D], or both None for zero;
    dM_start, dS_start: of that before them, or None where it is not wanted. d_b_o [B*H, n, C, D]: gradient of what the
    system is solved for, in place of that of the errors. dMc, dSc: gradient of the state at the end of each chunk,
    [B*H, n, D, D], or None where only the state's gradient is wanted. Without momentum there is nothing of S.
    A program takes `span` of the chunks, from its row of dM to its row of dM_start.
    """
    o_v, i_s = tl.program_id(0) * BV + tl.arange(0, BV), tl.program_id(1).to(tl.int64)
    spans = tl.cdiv(n, span)
    i_bh, begin = i_s // spans, i_s % spans * span
    end = tl.minimum(begin + span, n)
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d = tl.arange(0, C), tl.arange(0, D)
    dt = k.dtype.element_ty
    token, row = o[:, None] * (H * D) + o_d[None, :], o[:, None] * D + o_v[None, :]
    tile, w, c_c = o_d[:, None] * D + o_v[None, :], i_s * D * D, o[:, None] * C + o[None, :]
    dm, ds = tl.zeros([D, BV], tl.float32), tl.zeros([D, BV], tl.float32)
    if dM is not None:
        dm = tl.load(dM + w + tile)
        if MOMENTUM:
            ds = tl.load(dS + w + tile)
    last = (i_bh * n + end - 1) * 4 * C + C - 1
    beta = tl.load(vec + last)
    if MOMENTUM:
        f, m_c = tl.load(vec + last + C), tl.load(m_last + i_bh * n + end - 1)
    for back in range(end - begin):
        j = end - 1 - back
        x_d, at = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_bh * n + j) * 4 * C
        c_d, saved, square = (i_bh * n + j) * C * D, (i_bh * n + j) * D * D, (i_bh * n + j) * C * C
        inside = ((c0 + j) * C + o < T)[:, None]
        b_k = tl.load(k + x_d + token, mask=inside, other=0.0)
        b_inv = tl.load(inv + square + c_c)
        de = tl.load(d_err_i + c_d + row).to(tl.float32)
        # what reads of the chunk behind want, only here: so it is loaded ahead
        behind = (i_bh * n + j + 1) * D * D
        dm += tl.load(dMr + behind + tile, mask=back > 0, other=0.0).to(tl.float32)
        beta_o = tl.load(vec + at + o - 1, mask=o > 0, other=1.0)[:, None]
        pn = tl.load(vec + at + 2 * C + o)[:, None]
        b_dm = dm.to(dt)
        if dMc is not None:
            tl.store(dMc + saved + tile, b_dm)
        de += pn * tl.dot(b_k, b_dm, input_precision=IP)
        if MOMENTUM:
            ds += tl.load(dSr + behind + tile, mask=back > 0, other=0.0).to(tl.float32)
            f_o = tl.load(vec + at + C + o - 1, mask=o > 0, other=0.0)[:, None]
            rn = tl.load(vec + at + 3 * C + o)[:, None]
            b_ds = ds.to(dt)
            tl.store(dSc + saved + tile, b_ds)
            de += rn * tl.dot(b_k, b_ds, input_precision=IP)
        db = tl.dot(tl.trans(b_inv), de.to(dt), input_precision=IP)
        if dMc is not None:
            tl.store(d_b_o + c_d + row, db.to(dt))
        if MOMENTUM:
            ds = f * dm + m_c * ds
        dm = beta * dm
        # the next chunk's are on their way while the products run
        more, at = j > begin, at - 3 * C - 1
        beta = tl.load(vec + at, mask=more, other=0.0)
        if MOMENTUM:
            f = tl.load(vec + at + C, mask=more, other=0.0)
            m_c = tl.load(m_last + i_bh * n + j - 1, mask=more, other=0.0)
            ds = tl.dot(tl.trans(b_k), (f_o * db).to(dt), ds, input_precision=IP)
        dm = tl.dot(tl.trans(b_k), (beta_o * db).to(dt), dm, input_precision=IP)
    first = (i_bh * n + begin) * D * D
    if dM_start is not None:
        tl.store(dM_start + w + tile, dm + tl.load(dMr + first + tile).to(tl.float32))
    if MOMENTUM and dS_start is not None:
        tl.store(dS_start + w + tile, ds + tl.load(dSr + first + tile).to(tl.float32))


@triton.jit(do_not_specialize=SIZES)
def delta_write_bwd_kernel(
    k, vec, PN, err, Mc, Sc, P, dMc, dSc, d_b, dk, dv, dz_k, dPN, dvec, dm_last, T, H, c0, n,
    D: tl.constexpr, C: tl.constexpr, RES: tl.constexpr, PRIOR: tl.constexpr, MOMENTUM: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (n, B*H): gradients of keys, values and coefficients by errors and writes; adds to what reads stored.

    dz_k [B*H, n, C, D]: gradient of k P, of which that of P is k^T times it.
    """
    j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d = tl.arange(0, C), tl.arange(0, D)
    dt = k.dtype.element_ty
    token, row = o[:, None] * (H * D) + o_d[None, :], o[:, None] * D + o_d[None, :]
    tile = o_d[:, None] * D + o_d[None, :]
    x_d, at = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_bh * n + j) * 4 * C + o
    c_d, saved, square = (i_bh * n + j) * C * D, (i_bh * n + j) * D * D, (i_bh * n + j) * C * C
    inside = ((c0 + j) * C + o < T)[:, None]
    b_k = tl.load(k + x_d + token, mask=inside, other=0.0)
    b_m, b_dm, b_err = tl.load(Mc + saved + tile), tl.load(dMc + saved + tile), tl.load(err + c_d + row)
    # of what the state keeps
    dm, m_p = b_dm.to(tl.float32), b_m.to(tl.float32)
    if MOMENTUM:
        b_s, b_ds = tl.load(Sc + saved + tile), tl.load(dSc + saved + tile)
        s = b_s.to(tl.float32)
        tl.store(dm_last + i_bh * n + j, tl.sum(b_ds.to(tl.float32) * s))
        d_f = tl.sum(dm * s)
    if PRIOR:
        prior = tl.load(P + i_h * D * D + tile)
        m_p -= prior
        b_p = prior.to(dt)
    last = o == C - 1
    d_beta = tl.where(last, tl.sum(dm * m_p), 0.0)
    # of the writes
    e, pn = b_err.to(tl.float32), tl.load(vec + at + 2 * C)[:, None]
    tl.store(dvec + at + 2 * C, tl.sum(e * tl.dot(b_k, b_dm, input_precision=IP), 1))
    b_dk = tl.load(dk + x_d + token, mask=inside, other=0.0).to(tl.float32)
    b_dk = tl.dot((pn * e).to(dt), tl.trans(b_dm), b_dk, input_precision=IP)
    if MOMENTUM:
        rn = tl.load(vec + at + 3 * C)[:, None]
        tl.store(dvec + at + 3 * C, tl.sum(e * tl.dot(b_k, b_ds, input_precision=IP), 1))
        b_dk = tl.dot((rn * e).to(dt), tl.trans(b_ds), b_dk, input_precision=IP)
    # of what the system was solved for
    b_db = tl.load(d_b + c_d + row)
    db = b_db.to(tl.float32)
    tl.store(dv + x_d + token, (-db).to(dt), mask=inside)
    if RES:
        b_dk += db
    first = o > 0  # coefficients behind the token before, so the gradients go there as well
    beta = tl.load(vec + at - 1, mask=first, other=1.0)[:, None]
    kf = b_k.to(tl.float32)
    part = tl.dot(b_db, tl.trans(b_m), input_precision=IP)
    b_dk += beta * part
    if PRIOR:
        of_prior = tl.dot(b_db, tl.trans(b_p), input_precision=IP)
        b_dk += (1.0 - beta) * of_prior
        part -= of_prior
        tl.store(dz_k + c_d + row, ((1.0 - beta) * db).to(dt))
    tl.store(dvec + at - 1, tl.load(dvec + at - 1, mask=first) + tl.sum(kf * part, 1), mask=first)
    tl.store(dvec + at, tl.load(dvec + at, mask=last) + d_beta, mask=last)
    if MOMENTUM:
        part = tl.dot(b_db, tl.trans(b_s), input_precision=IP)
        b_dk += tl.load(vec + at + C - 1, mask=first, other=0.0)[:, None] * part
        tl.store(dvec + at + C - 1, tl.load(dvec + at + C - 1, mask=first) + tl.sum(kf * part, 1), mask=first)
        tl.store(dvec + at + C, tl.load(dvec + at + C, mask=last) + tl.where(last, d_f, 0.0), mask=last)
    # of the system: -dA = d_b e^T, and -A is the keys' products times the weights behind the token before
    above, there = square + (o[:, None] - 1) * C + o[None, :], first[:, None]  # PN, dPN are zero above the diagonal
    b_w = tl.load(PN + above, mask=there, other=0.0)
    d_system = tl.dot(b_db, tl.trans(b_err), input_precision=IP)
    d_weight = d_system * tl.dot(b_k, tl.trans(b_k), input_precision=IP)
    d_weight = tl.where(o[:, None] > o[None, :], d_weight, 0.0)
    d_weight += tl.load(dPN + above, mask=there, other=0.0).to(tl.float32)
    tl.store(dPN + above, d_weight.to(dt), mask=there)
    d_scores = (d_system * b_w.to(tl.float32)).to(dt)
    b_dk = tl.dot(d_scores, b_k, b_dk, input_precision=IP)
    # the same matrix transposed, from transposed factors: Triton miscompiles a product's transpose on Hopper
    weight_t = tl.trans(b_w).to(tl.float32)
    d_scores_t = (tl.dot(b_err, tl.trans(b_db), input_precision=IP) * weight_t).to(dt)
    b_dk = tl.dot(d_scores_t, b_k, b_dk, input_precision=IP)
    tl.store(dk + x_d + token, b_dk.to(dt), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def delta_prior_bwd_kernel(k, dz_k, dP, B, T, H, c0, n, D: tl.constexpr, C: tl.constexpr, IP: tl.constexpr):
    """grid (G*H,): gradient of the prior through the errors, added as by `linear_prior_bwd_kernel`."""
    i_gh = tl.program_id(0).to(tl.int64)
    i_g, i_h, groups = i_gh // H, i_gh % H, tl.num_programs(0) // H
    o, o_d = tl.arange(0, C), tl.arange(0, D)
    token, row = o[:, None] * (H * D) + o_d[None, :], o[:, None] * D + o_d[None, :]
    tile = i_gh * D * D + o_d[:, None] * D + o_d[None, :]
    dp = tl.load(dP + tile)
    for i_b in range(i_g, B, groups):
        for j in range(n):
            x_d, of_chunk = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_b * H + i_h) * n + j
            b_k = tl.load(k + x_d + token, mask=((c0 + j) * C + o < T)[:, None], other=0.0)
            dp = tl.dot(tl.trans(b_k), tl.load(dz_k + of_chunk * C * D + row), dp, input_precision=IP)
    tl.store(dP + tile, dp)
