"""Backward of the exact errors of the linear memory; reads are those of `linear_backward`.

With d_e the gradient of the errors, b what the system is solved for (e = T b) and d_b = T^T d_e,

    dA = -d_b e^T  (below the diagonal),   dM += (T beta' k)^T d_e,   dS += (T f' k)^T d_e,

so that the scan back, too, only has two products with what `delta_solve_kernel` has prepared.
"""

import triton
import triton.language as tl

from memory.ops.triton.kernels import SIZES


@triton.jit(do_not_specialize=SIZES)
def delta_scan_bwd_kernel(
    q, k, k_m, k_s, d_err, dz_m, dz_s, vec, m_last, dM_start, dS_start, dM, dS, dMc, dSc, T, H, c0, n,
    D: tl.constexpr, C: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (B*H,): the scan's backward over chunks c0 + n - 1 .. c0 of one head.

    d_err [B*H, n, C, D]: what reads want of the errors, and behind this kernel all that anything wants of them.
    dM, dS: float32 gradient of the state behind the chunks, [B*H, D, D], or both None for zero; dM_start, dS_start: of
    that before them, or None where it is not wanted. dMc, dSc: gradient of the state at the end of each chunk,
    [B*H, n, D, D].
    """
    i_bh = tl.program_id(0).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d = tl.arange(0, C), tl.arange(0, D)
    dt = k.dtype.element_ty
    token, row = o[:, None] * (H * D) + o_d[None, :], o[:, None] * D + o_d[None, :]
    tile, w = o_d[:, None] * D + o_d[None, :], i_bh * D * D
    dm, ds = tl.zeros([D, D], tl.float32), tl.zeros([D, D], tl.float32)
    if dM is not None:
        dm, ds = tl.load(dM + w + tile), tl.load(dS + w + tile)
    for back in range(n):
        j = n - 1 - back
        x_d, at = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_bh * n + j) * 4 * C
        c_d, saved = (i_bh * n + j) * C * D, (i_bh * n + j) * D * D
        inside = ((c0 + j) * C + o < T)[:, None]
        b_k, b_q = tl.load(k + x_d + token, mask=inside, other=0.0), tl.load(q + x_d + token, mask=inside, other=0.0)
        b_km, b_ks = tl.load(k_m + c_d + row), tl.load(k_s + c_d + row)
        de = tl.load(d_err + c_d + row).to(tl.float32)
        beta, f, m_c = tl.load(vec + at + C - 1), tl.load(vec + at + 2 * C - 1), tl.load(m_last + i_bh * n + j)
        pn, rn = tl.load(vec + at + 2 * C + o)[:, None], tl.load(vec + at + 3 * C + o)[:, None]
        b_dm, b_ds = dm.to(dt), ds.to(dt)
        tl.store(dMc + saved + tile, b_dm)
        tl.store(dSc + saved + tile, b_ds)
        de += pn * tl.dot(b_k, b_dm, input_precision=IP)
        de += rn * tl.dot(b_k, b_ds, input_precision=IP)
        b_de = de.to(dt)
        tl.store(d_err + c_d + row, b_de)
        ds = tl.dot(tl.trans(b_q), tl.load(dz_s + c_d + row), f * dm + m_c * ds, input_precision=IP)
        ds = tl.dot(tl.trans(b_ks), b_de, ds, input_precision=IP)
        dm = tl.dot(tl.trans(b_q), tl.load(dz_m + c_d + row), beta * dm, input_precision=IP)
        dm = tl.dot(tl.trans(b_km), b_de, dm, input_precision=IP)
    if dM_start is not None:
        tl.store(dM_start + w + tile, dm)
    if dS_start is not None:
        tl.store(dS_start + w + tile, ds)


@triton.jit(do_not_specialize=SIZES)
def delta_write_bwd_kernel(
    k, vec, PN, inv, err, Mc, Sc, P, dMc, dSc, d_err, dk, dv, dz_k, dPN, dvec, dm_last, T, H, c0, n,
    D: tl.constexpr, C: tl.constexpr, RES: tl.constexpr, PRIOR: tl.constexpr, IP: tl.constexpr,
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
    b_m, b_dm, b_s, b_ds = (
        tl.load(Mc + saved + tile),
        tl.load(dMc + saved + tile),
        tl.load(Sc + saved + tile),
        tl.load(dSc + saved + tile),
    )
    b_err = tl.load(err + c_d + row)
    # of what the state keeps
    s, dm = b_s.to(tl.float32), b_dm.to(tl.float32)
    tl.store(dm_last + i_bh * n + j, tl.sum(b_ds.to(tl.float32) * s))
    d_f, m_p = tl.sum(dm * s), b_m.to(tl.float32)
    if PRIOR:
        prior = tl.load(P + i_h * D * D + tile)
        m_p -= prior
        b_p = prior.to(dt)
    last = o == C - 1
    d_beta, d_f = tl.where(last, tl.sum(dm * m_p), 0.0), tl.where(last, d_f, 0.0)
    # of the writes
    e = b_err.to(tl.float32)
    pn, rn = tl.load(vec + at + 2 * C)[:, None], tl.load(vec + at + 3 * C)[:, None]
    tl.store(dvec + at + 2 * C, tl.sum(e * tl.dot(b_k, b_dm, input_precision=IP), 1))
    tl.store(dvec + at + 3 * C, tl.sum(e * tl.dot(b_k, b_ds, input_precision=IP), 1))
    b_dk = tl.load(dk + x_d + token, mask=inside, other=0.0).to(tl.float32)
    b_dk = tl.dot((pn * e).to(dt), tl.trans(b_dm), b_dk, input_precision=IP)
    b_dk = tl.dot((rn * e).to(dt), tl.trans(b_ds), b_dk, input_precision=IP)
    # of what the system was solved for
    inv_t = tl.load(inv + square + o[:, None] + o[None, :] * C)
    db = tl.dot(inv_t, tl.load(d_err + c_d + row), input_precision=IP)
    b_db = db.to(dt)
    tl.store(dv + x_d + token, (-db).to(dt), mask=inside)
    if RES:
        b_dk += db
    first = o > 0  # coefficients behind the token before, so the gradients go there as well
    beta = tl.load(vec + at - 1, mask=first, other=1.0)[:, None]
    f = tl.load(vec + at + C - 1, mask=first, other=0.0)[:, None]
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
    part = tl.dot(b_db, tl.trans(b_s), input_precision=IP)
    b_dk += f * part
    tl.store(dvec + at + C - 1, tl.load(dvec + at + C - 1, mask=first) + tl.sum(kf * part, 1), mask=first)
    tl.store(dvec + at + C, tl.load(dvec + at + C, mask=last) + d_f, mask=last)
    # of the system: -dA = d_b e^T, and -A is the keys' products times the weights behind the token before
    lower = o[:, None] > o[None, :]
    above = square + (o[:, None] - 1) * C + o[None, :]
    d_system = tl.dot(b_db, tl.trans(b_err), input_precision=IP)
    d_weight = d_system * tl.dot(b_k, tl.trans(b_k), input_precision=IP)
    d_weight += tl.load(dPN + above, mask=lower, other=0.0).to(tl.float32)
    tl.store(dPN + above, d_weight.to(dt), mask=lower)
    d_scores = (d_system * tl.load(PN + above, mask=lower, other=0.0).to(tl.float32)).to(dt)
    b_dk = tl.dot(d_scores, b_k, b_dk, input_precision=IP)
    # the same matrix transposed, from transposed factors: Triton miscompiles a product's transpose on Hopper
    above_t = square + (o[None, :] - 1) * C + o[:, None]
    weight_t = tl.load(PN + above_t, mask=o[None, :] > o[:, None], other=0.0).to(tl.float32)
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
