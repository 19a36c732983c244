"""Backward of the linear memory: all reads in parallel, the scan from the last chunk on, then the rest.

All take the chunk-start states that a second run of the forward scan stores. The scan back needs of a chunk only
what its reads want of state and errors; it stores the state's gradient at each chunk's end for those that need it.
No product takes the transpose of a product as its left operand, which Triton miscompiles on Hopper in some shapes:
the transpose is computed from transposed factors instead.
"""

import triton
import triton.language as tl

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.kernels.common import error_of_unit, project, standardise


@triton.jit
def through_error(d_err, unit, err, rstd, along, square, D: tl.constexpr):
    """Gradient of z, as `error_bwd`, from what the forward knows of the LayerNorm; and d_err's part in reach of it.

    That part is d_err without its mean and its component along unit: errors are linear in it. square: scale squared.
    """
    with_err, with_unit = (tl.sum(d_err * err, 1) / D)[:, None], (tl.sum(d_err * unit, 1) / D)[:, None]
    across = d_err - (tl.sum(d_err, 1) / D)[:, None] - with_unit * unit
    g = square * across
    with_err += rstd * (tl.sum(across * (square * unit), 1) / D)[:, None]
    g = rstd * (g - (tl.sum(g, 1) / D)[:, None] - along * across)
    return rstd * (g - with_unit * err - with_err * unit), across


@triton.jit(do_not_specialize=SIZES)
def linear_read_bwd_kernel(
    q, k, err, PN, vec, Mc, Sc, P, scale, dy,
    dq, dk, d_err, dz_m, dz_s, dMr, dSr, dz_p, dPN, dvec, dscale, dshift, T, H, c0, n,
    D: tl.constexpr, C: tl.constexpr, NORM: tl.constexpr, RES: tl.constexpr, PRIOR: tl.constexpr,
    MOMENTUM: tl.constexpr, EPS: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (n, B*H): the reads of one chunk once more, and the gradient of everything they use.

    dq is complete, dk [B, T, H, D] what reads add to it; d_err [B*H, n, C, D] is what they want of the errors; dz_m,
    dz_s and dz_p are the gradients of q M, q S and q P, of which the states' are q^T times these. Where dz_m and dz_s
    are None, dMr and dSr [B*H, n, D, D] take what reads want of M and S at the chunk's start.
    dPN: [B*H, n, C, C]. dscale, dshift: [B*H, chunks of the sequence, D].
    """
    j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d = tl.arange(0, C), tl.arange(0, D)
    dt = k.dtype.element_ty
    token, row = o[:, None] * (H * D) + o_d[None, :], o[:, None] * D + o_d[None, :]
    tile, c_c = o_d[:, None] * D + o_d[None, :], o[:, None] * C + o[None, :]
    x_d, at = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_bh * n + j) * 4 * C + o
    c_d, saved, square = (i_bh * n + j) * C * D, (i_bh * n + j) * D * D, (i_bh * n + j) * C * C
    inside = ((c0 + j) * C + o < T)[:, None]
    b_q, b_k = tl.load(q + x_d + token, mask=inside, other=0.0), tl.load(k + x_d + token, mask=inside, other=0.0)
    b_m, b_err = tl.load(Mc + saved + tile), tl.load(err + c_d + row)
    dz = tl.load(dy + x_d + token, mask=inside, other=0.0).to(tl.float32)
    beta = tl.load(vec + at)[:, None]
    if MOMENTUM:
        b_s, f = tl.load(Sc + saved + tile), tl.load(vec + at + C)[:, None]
    scores = tl.dot(b_q, tl.trans(b_k), input_precision=IP)
    if PRIOR:
        b_p = tl.load(P + i_h * D * D + tile).to(dt)
    if NORM:
        attend = (scores * tl.load(PN + square + c_c).to(tl.float32)).to(dt)
        z = beta * tl.dot(b_q, b_m, input_precision=IP)
        if MOMENTUM:
            z += f * tl.dot(b_q, b_s, input_precision=IP)
        if PRIOR:
            z += (1.0 - beta) * tl.dot(b_q, b_p, input_precision=IP)
        unit, rstd = standardise(tl.dot(attend, b_err, z, input_precision=IP), D, EPS)
        head = (i_bh * tl.cdiv(T, C) + c0 + j) * D + o_d
        tl.store(dscale + head, tl.sum(dz * unit, 0))
        tl.store(dshift + head, tl.sum(dz, 0))
        dz = project(dz * tl.load(scale + i_h * D + o_d)[None, :], unit, D) * rstd[:, None]
    if dz_m is not None:
        tl.store(dz_m + c_d + row, (beta * dz).to(dt))
        tl.store(dz_s + c_d + row, (f * dz).to(dt))
    else:
        tl.store(dMr + saved + tile, tl.dot(tl.trans(b_q), (beta * dz).to(dt), input_precision=IP).to(dt))
        if MOMENTUM:
            tl.store(dSr + saved + tile, tl.dot(tl.trans(b_q), (f * dz).to(dt), input_precision=IP).to(dt))
    if PRIOR:
        tl.store(dz_p + c_d + row, ((1.0 - beta) * dz).to(dt))
    b_dz = dz.to(dt)
    # of the queries, of the shares of M and S and of the weights of tokens
    qf = b_q.to(tl.float32)
    part = tl.dot(b_dz, tl.trans(b_m), input_precision=IP)
    b_dq = beta * part
    if PRIOR:
        of_prior = tl.dot(b_dz, tl.trans(b_p), input_precision=IP)
        b_dq += (1.0 - beta) * of_prior
        part -= of_prior
    tl.store(dvec + at, tl.sum(qf * part, 1))
    if MOMENTUM:
        part = tl.dot(b_dz, tl.trans(b_s), input_precision=IP)
        b_dq += f * part
        tl.store(dvec + at + C, tl.sum(qf * part, 1))
    d_attend = tl.where(o[:, None] >= o[None, :], tl.dot(b_dz, tl.trans(b_err), input_precision=IP), 0.0)
    tl.store(dPN + square + c_c, (d_attend * scores).to(dt))
    d_scores = (d_attend * tl.load(PN + square + c_c).to(tl.float32)).to(dt)
    b_dq = tl.dot(d_scores, b_k, b_dq, input_precision=IP)
    if RES:
        b_dq += tl.load(dy + x_d + token, mask=inside, other=0.0).to(tl.float32)
    tl.store(dq + x_d + token, b_dq.to(dt), mask=inside)
    # of the errors and keys: the same two matrices transposed
    weight_t = tl.load(PN + square + o[:, None] + o[None, :] * C).to(tl.float32)
    attend_t = (tl.dot(b_k, tl.trans(b_q), input_precision=IP) * weight_t).to(dt)
    tl.store(d_err + c_d + row, tl.dot(attend_t, b_dz, input_precision=IP).to(dt))
    d_scores_t = tl.where(o[:, None] <= o[None, :], tl.dot(b_err, tl.trans(b_dz), input_precision=IP), 0.0)
    d_scores_t = (d_scores_t * weight_t).to(dt)
    tl.store(dk + x_d + token, tl.dot(d_scores_t, b_q, input_precision=IP).to(dt), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def linear_scan_bwd_kernel(
    q, k, err, unit_i, stat_i, d_err_i, dz_m, dz_s, scale, vec, m_last, dM_start, dS_start, dM, dS, dA, dMc, dSc,
    T, H, c0, n,
    D: tl.constexpr, C: tl.constexpr, NORM: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (B*H,): the scan's backward over chunks c0 + n - 1 .. c0 of one head.

    dM, dS: float32 gradient of the state behind the chunks, [B*H, D, D], or both None for zero; dM_start, dS_start: of
    that before them, or None where it is not wanted. dA: gradient of M at the start of the last chunk, or None for
    zero. dMc, dSc: gradient of the state at the end of each chunk, [B*H, n, D, D].
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
    if NORM:
        square = tl.load(scale + i_h * D + o_d)[None, :]
        square *= square
    for back in range(n):
        j = n - 1 - back
        x_d, at = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_bh * n + j) * 4 * C
        c_d, saved = (i_bh * n + j) * C * D, (i_bh * n + j) * D * D
        inside = ((c0 + j) * C + o < T)[:, None]
        b_k, b_q = tl.load(k + x_d + token, mask=inside, other=0.0), tl.load(q + x_d + token, mask=inside, other=0.0)
        dz = tl.load(d_err_i + c_d + row).to(tl.float32)
        beta, f, m_c = tl.load(vec + at + C - 1), tl.load(vec + at + 2 * C - 1), tl.load(m_last + i_bh * n + j)
        pn, rn = tl.load(vec + at + 2 * C + o)[:, None], tl.load(vec + at + 3 * C + o)[:, None]
        b_dm, b_ds = dm.to(dt), ds.to(dt)
        tl.store(dMc + saved + tile, b_dm)
        tl.store(dSc + saved + tile, b_ds)
        dz += pn * tl.dot(b_k, b_dm, input_precision=IP)
        dz += rn * tl.dot(b_k, b_ds, input_precision=IP)
        ds = tl.dot(tl.trans(b_q), tl.load(dz_s + c_d + row), f * dm + m_c * ds, input_precision=IP)
        dm = tl.dot(tl.trans(b_q), tl.load(dz_m + c_d + row), beta * dm, input_precision=IP)
        if NORM:
            unit, b_err = tl.load(unit_i + c_d + row).to(tl.float32), tl.load(err + c_d + row).to(tl.float32)
            stat = (i_bh * n + j) * 2 * C + o
            rstd, along = tl.load(stat_i + stat)[:, None], tl.load(stat_i + stat + C)[:, None]
            dz, _ = through_error(dz, unit, b_err, rstd, along, square, D)
        dm = tl.dot(tl.trans(b_k), dz.to(dt), dm, input_precision=IP)
        if dA is not None:
            dm += tl.load(dA + w + tile, mask=back == 0, other=0.0)
    if dM_start is not None:
        tl.store(dM_start + w + tile, dm)
    if dS_start is not None:
        tl.store(dS_start + w + tile, ds)


@triton.jit(do_not_specialize=SIZES)
def linear_write_bwd_kernel(
    k, v, vec, Mc, Sc, P, dMc, dSc, d_err_i, scale, shift, dk, dv, dvec, dm_last, dscale, dshift, T, H, c0, n,
    D: tl.constexpr, C: tl.constexpr, NORM: tl.constexpr, RES: tl.constexpr, PRIOR: tl.constexpr,
    EPS: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (n, B*H): gradients of keys, values and the writes' coefficients; adds to what reads stored."""
    j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d = tl.arange(0, C), tl.arange(0, D)
    dt = k.dtype.element_ty
    token, row = o[:, None] * (H * D) + o_d[None, :], o[:, None] * D + o_d[None, :]
    tile = o_d[:, None] * D + o_d[None, :]
    x_d, at = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_bh * n + j) * 4 * C + o
    saved = (i_bh * n + j) * D * D
    inside = ((c0 + j) * C + o < T)[:, None]
    b_k = tl.load(k + x_d + token, mask=inside, other=0.0)
    b_m, b_dm, b_ds = tl.load(Mc + saved + tile), tl.load(dMc + saved + tile), tl.load(dSc + saved + tile)
    b_v, b_derr = tl.load(v + x_d + token, mask=inside, other=0.0), tl.load(d_err_i + (i_bh * n + j) * C * D + row)
    pn, rn = tl.load(vec + at + 2 * C)[:, None], tl.load(vec + at + 3 * C)[:, None]
    # of what the state keeps
    s, dm, ds = tl.load(Sc + saved + tile).to(tl.float32), b_dm.to(tl.float32), b_ds.to(tl.float32)
    tl.store(dm_last + i_bh * n + j, tl.sum(ds * s))
    d_f, m_p = tl.sum(dm * s), b_m.to(tl.float32)
    if PRIOR:
        m_p -= tl.load(P + i_h * D * D + tile)
    last = o == C - 1
    tl.store(dvec + at, tl.load(dvec + at) + tl.where(last, tl.sum(dm * m_p), 0.0))
    tl.store(dvec + at + C, tl.load(dvec + at + C) + tl.where(last, d_f, 0.0))
    # of the errors, which are computed once more
    z = tl.dot(b_k, b_m, input_precision=IP)
    err = z
    if NORM:
        b_scale, b_shift = tl.load(scale + i_h * D + o_d)[None, :], tl.load(shift + i_h * D + o_d)[None, :]
        unit, rstd = standardise(z, D, EPS)
        err = unit * b_scale + b_shift
    err -= b_v.to(tl.float32)
    if RES:
        err += b_k.to(tl.float32)
    if NORM:
        miss = err
        err, along = error_of_unit(unit, rstd, miss, b_scale, D)
    err = err.to(dt).to(tl.float32)
    part = tl.dot(b_k, b_dm, input_precision=IP)
    tl.store(dvec + at + 2 * C, tl.sum(err * part, 1))
    d_err = b_derr.to(tl.float32) + pn * part
    part = tl.dot(b_k, b_ds, input_precision=IP)
    tl.store(dvec + at + 3 * C, tl.sum(err * part, 1))
    d_err += rn * part
    # of the written keys and values
    b_dk = tl.load(dk + x_d + token, mask=inside, other=0.0).to(tl.float32)
    b_dk = tl.dot((pn * err).to(dt), tl.trans(b_dm), b_dk, input_precision=IP)
    b_dk = tl.dot((rn * err).to(dt), tl.trans(b_ds), b_dk, input_precision=IP)
    d_miss, dz = d_err, d_err
    if NORM:
        dz, across = through_error(d_err, unit, err, rstd[:, None], along[:, None], b_scale * b_scale, D)
        d_miss = b_scale * rstd[:, None] * across
        head = (i_bh * tl.cdiv(T, C) + c0 + j) * D + o_d
        of_scale = tl.sum(rstd[:, None] * (miss + b_scale * unit) * across, 0)
        tl.store(dscale + head, tl.load(dscale + head) + of_scale)
        tl.store(dshift + head, tl.load(dshift + head) + tl.sum(d_miss, 0))
    tl.store(dv + x_d + token, (-d_miss).to(dt), mask=inside)
    b_dk = tl.dot(dz.to(dt), tl.trans(b_m), b_dk, input_precision=IP)
    if RES:
        b_dk += d_miss
    tl.store(dk + x_d + token, b_dk.to(dt), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def linear_prior_bwd_kernel(
    q, vec, dMc, dz_p, dP, B, T, H, c0, n, D: tl.constexpr, C: tl.constexpr, IP: tl.constexpr
):  # fmt: skip
    """grid (G*H,): gradient of the prior, added to dP [G*H, D, D] over chunks and each G-th sequence."""
    i_gh = tl.program_id(0).to(tl.int64)
    i_g, i_h, groups = i_gh // H, i_gh % H, tl.num_programs(0) // H
    o, o_d = tl.arange(0, C), tl.arange(0, D)
    token, row = o[:, None] * (H * D) + o_d[None, :], o[:, None] * D + o_d[None, :]
    tile, w = o_d[:, None] * D + o_d[None, :], i_gh * D * D
    dp = tl.load(dP + w + tile)
    for i_b in range(i_g, B, groups):
        for j in range(n):
            x_d, of_chunk = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_b * H + i_h) * n + j
            b_q = tl.load(q + x_d + token, mask=((c0 + j) * C + o < T)[:, None], other=0.0)
            lost = 1.0 - tl.load(vec + of_chunk * 4 * C + C - 1)
            dp += lost * tl.load(dMc + of_chunk * D * D + tile).to(tl.float32)
            dp = tl.dot(tl.trans(b_q), tl.load(dz_p + of_chunk * C * D + row), dp, input_precision=IP)
    tl.store(dP + w + tile, dp)
