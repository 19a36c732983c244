"""Backward: all tokens' reads in parallel, a scan over chunks from the last to the first, then the rest.

All take the chunk-start states that a second run of the forward scan stores. The derivation is that of
`memory.ops.chunked` differentiated by hand, on paper in `../DERIVATION.md`. Names: d_x is the gradient of x; a trailing
q means the read side (activations of queries), its absence the write side (activations of keys).
"""

import triton
import triton.language as tl

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.kernels.common import error_bwd, gelu_1, gelu_2, project, standardise, sum_over_tiles


@triton.jit(do_not_specialize=SIZES)
def read_again_kernel(
    q, k, err, PN, vec, M1c, M2c, S1c, S2c, P1, P2, scale, dy,
    d_err, x_o, e1_o, slope_o, curve_o, xq_o, slopeq_o, dzq2_o, d_scores_o, dPN, dvec, dscale, dshift, T, H, c0, n,
    D: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, C: tl.constexpr, NORM: tl.constexpr,
    PRIOR: tl.constexpr, EPS: tl.constexpr, FAST: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (n, B*H): the reads of one chunk once more, and their gradient as far as the output layer.

    Leaves, hidden-major [B*H, n, E, C], the keys' activations x, their errors e1, GELU's slope and its curvature times
    the error behind it, and the queries' activations xq and slope; [B*H, n, C, D] d_err (float32) and dzq2, the
    gradient of the output layer's result; [B*H, n, C, C] the gradient of its scores.
    """
    j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d, o_e = tl.arange(0, C), tl.arange(0, D), tl.arange(0, BE)
    dt = k.dtype.element_ty
    tile, unit_t = o_e[:, None] * D + o_d[None, :], o_e[:, None] * C + o[None, :]
    token, row, c_c = o[:, None] * (H * D) + o_d[None, :], o[:, None] * D + o_d[None, :], o[:, None] * C + o[None, :]
    x_d, c_d = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_bh * n + j) * C * D
    square, saved, hidden = (i_bh * n + j) * C * C, (i_bh * n + j) * E * D, (i_bh * n + j) * E * C
    of_head, at = i_h * E * D, (i_bh * n + j) * 4 * C + o
    inside = ((c0 + j) * C + o < T)[:, None]
    b_q, b_k = tl.load(q + x_d + token, mask=inside, other=0.0), tl.load(k + x_d + token, mask=inside, other=0.0)
    b_err = tl.load(err + c_d + row)
    attend = (tl.dot(b_q, tl.trans(b_k), input_precision=IP) * tl.load(PN + square + c_c).to(tl.float32)).to(dt)
    beta, f = tl.load(vec + at), tl.load(vec + at + C)
    scores = tl.zeros([C, C], tl.float32)
    z_m, z_s, z_p = tl.zeros([C, D], tl.float32), tl.zeros([C, D], tl.float32), tl.zeros([C, D], tl.float32)
    for e in range(E // BE):
        at_e, at_h = e * BE * D, e * BE * C
        m1, m2 = tl.load(M1c + saved + at_e + tile), tl.load(M2c + saved + at_e + tile)
        x, slope, curve = gelu_2(tl.dot(m1, tl.trans(b_k), input_precision=IP), FAST)
        h = tl.dot(m2, tl.trans(b_err), input_precision=IP)
        x, e1 = x.to(dt), (h * slope).to(dt)
        tl.store(x_o + hidden + at_h + unit_t, x)
        tl.store(e1_o + hidden + at_h + unit_t, e1)
        tl.store(slope_o + hidden + at_h + unit_t, slope.to(dt))
        tl.store(curve_o + hidden + at_h + unit_t, (h * curve).to(dt))
        z = tl.dot(m1, tl.trans(b_q), input_precision=IP) * beta[None, :]
        z += tl.dot(tl.load(S1c + saved + at_e + tile), tl.trans(b_q), input_precision=IP) * f[None, :]
        if PRIOR:
            p1 = tl.load(P1 + of_head + at_e + tile).to(dt)
            z += tl.dot(p1, tl.trans(b_q), input_precision=IP) * (1.0 - beta)[None, :]
        xq, slope = gelu_1(tl.dot(e1, tl.trans(attend), z, input_precision=IP), FAST)
        xq = xq.to(dt)
        tl.store(xq_o + hidden + at_h + unit_t, xq)
        tl.store(slopeq_o + hidden + at_h + unit_t, slope.to(dt))
        xq = tl.trans(xq)
        scores = tl.dot(xq, x, scores, input_precision=IP)
        z_m = tl.dot(xq, m2, z_m, input_precision=IP)
        z_s = tl.dot(xq, tl.load(S2c + saved + at_e + tile), z_s, input_precision=IP)
        if PRIOR:
            z_p = tl.dot(xq, tl.load(P2 + of_head + at_e + tile).to(dt), z_p, input_precision=IP)
    weight = tl.load(PN + square + c_c).to(tl.float32)
    mixed = (scores * weight).to(dt)
    dz = tl.load(dy + x_d + token, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        z2 = beta[:, None] * z_m + f[:, None] * z_s + (1.0 - beta)[:, None] * z_p
        unit, rstd = standardise(tl.dot(mixed, b_err, z2, input_precision=IP), D, EPS)
        head = (i_bh * n + j) * D + o_d
        tl.store(dscale + head, tl.sum(dz * unit, 0))
        tl.store(dshift + head, tl.sum(dz, 0))
        dz = project(dz * tl.load(scale + i_h * D + o_d)[None, :], unit, D) * rstd[:, None]
    tl.store(dvec + at, tl.sum(dz * (z_m - z_p), 1))
    tl.store(dvec + at + C, tl.sum(dz * z_s, 1))
    dz = dz.to(dt)
    tl.store(dzq2_o + c_d + row, dz)
    tl.store(d_err + c_d + row, tl.dot(tl.trans(mixed), dz, input_precision=IP))
    d_mixed = tl.where(o[:, None] >= o[None, :], tl.dot(dz, tl.trans(b_err), input_precision=IP), 0.0)
    tl.store(dPN + square + c_c, d_mixed * scores)
    tl.store(d_scores_o + square + c_c, (d_mixed * weight).to(dt))


@triton.jit(do_not_specialize=SIZES)
def read_bwd_kernel(
    q, k, PN, vec, M1c, M2c, S1c, S2c, P1, P2, dy, x_i, e1_i, xq_i, dzq2_i, d_scores_i,
    dq, dk, dx, d_e1, dzq1_io, dPN, dvec, T, H, c0, n,
    D: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, C: tl.constexpr, RES: tl.constexpr, PRIOR: tl.constexpr,
    IP: tl.constexpr,
):  # fmt: skip
    """grid (n, B*H): the rest of the reads' gradient; x and e1 get theirs as far as reads use them.

    dzq1_io [B*H, n, E, C] holds the slope at the queries' hidden inputs and becomes their gradient; dk [B*H, n, C, D]
    is float32; dPN and the first half of dvec are added to.
    """
    j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d, o_e = tl.arange(0, C), tl.arange(0, D), tl.arange(0, BE)
    dt = k.dtype.element_ty
    tile, unit_t = o_e[:, None] * D + o_d[None, :], o_e[:, None] * C + o[None, :]
    token, row, c_c = o[:, None] * (H * D) + o_d[None, :], o[:, None] * D + o_d[None, :], o[:, None] * C + o[None, :]
    x_d, c_d = ((i_b * T + (c0 + j) * C) * H + i_h) * D, (i_bh * n + j) * C * D
    square, saved, hidden = (i_bh * n + j) * C * C, (i_bh * n + j) * E * D, (i_bh * n + j) * E * C
    of_head, at = i_h * E * D, (i_bh * n + j) * 4 * C + o
    inside = ((c0 + j) * C + o < T)[:, None]
    b_q, b_k = tl.load(q + x_d + token, mask=inside, other=0.0), tl.load(k + x_d + token, mask=inside, other=0.0)
    weight = tl.load(PN + square + c_c).to(tl.float32)
    raw = tl.dot(b_q, tl.trans(b_k), input_precision=IP)
    attend = (raw * weight).to(dt)
    beta, f = tl.load(vec + at), tl.load(vec + at + C)
    dz, d_scores = tl.load(dzq2_i + c_d + row), tl.load(d_scores_i + square + c_c)
    d_attend = tl.zeros([C, C], tl.float32)
    y_m, y_s, y_p = tl.zeros([C, D], tl.float32), tl.zeros([C, D], tl.float32), tl.zeros([C, D], tl.float32)
    for e in range(E // BE):
        at_e, at_h = e * BE * D, e * BE * C
        g = tl.dot(tl.load(M2c + saved + at_e + tile), tl.trans(dz), input_precision=IP) * beta[None, :]
        g += tl.dot(tl.load(S2c + saved + at_e + tile), tl.trans(dz), input_precision=IP) * f[None, :]
        if PRIOR:
            p2 = tl.load(P2 + of_head + at_e + tile).to(dt)
            g += tl.dot(p2, tl.trans(dz), input_precision=IP) * (1.0 - beta)[None, :]
        g = tl.dot(tl.load(x_i + hidden + at_h + unit_t), tl.trans(d_scores), g, input_precision=IP)
        dzq = (g * tl.load(dzq1_io + hidden + at_h + unit_t).to(tl.float32)).to(dt)
        tl.store(dzq1_io + hidden + at_h + unit_t, dzq)
        from_scores = tl.dot(tl.load(xq_i + hidden + at_h + unit_t), d_scores, input_precision=IP)
        tl.store(dx + hidden + at_h + unit_t, from_scores.to(dt))
        tl.store(d_e1 + hidden + at_h + unit_t, tl.dot(dzq, attend, input_precision=IP).to(dt))
        dzq = tl.trans(dzq)
        d_attend = tl.dot(dzq, tl.load(e1_i + hidden + at_h + unit_t), d_attend, input_precision=IP)
        y_m = tl.dot(dzq, tl.load(M1c + saved + at_e + tile), y_m, input_precision=IP)
        y_s = tl.dot(dzq, tl.load(S1c + saved + at_e + tile), y_s, input_precision=IP)
        if PRIOR:
            y_p = tl.dot(dzq, tl.load(P1 + of_head + at_e + tile).to(dt), y_p, input_precision=IP)
    qf = b_q.to(tl.float32)
    tl.store(dvec + at, tl.load(dvec + at) + tl.sum(qf * (y_m - y_p), 1))
    tl.store(dvec + at + C, tl.load(dvec + at + C) + tl.sum(qf * y_s, 1))
    d_attend = tl.where(o[:, None] >= o[None, :], d_attend, 0.0)
    tl.store(dPN + square + c_c, tl.load(dPN + square + c_c) + d_attend * raw)
    d_attend = (d_attend * weight).to(dt)
    b_dq = beta[:, None] * y_m + f[:, None] * y_s + (1.0 - beta)[:, None] * y_p
    b_dq = tl.dot(d_attend, b_k, b_dq, input_precision=IP)
    if RES:
        b_dq += tl.load(dy + x_d + token, mask=inside, other=0.0).to(tl.float32)
    tl.store(dq + x_d + token, b_dq.to(dq.dtype.element_ty), mask=inside)
    tl.store(dk + c_d + row, tl.dot(tl.trans(d_attend), b_q, input_precision=IP))


@triton.jit(do_not_specialize=SIZES)
def state_bwd_kernel(
    q, k, v, z2_i, err, vec, m_last, scale, shift, M2c, x_i, slope_i, curve_i, dx_i, d_e1_i, xq_i, dzq1_i, dzq2_i,
    d_err_i, dM1_start, dM2_start, dS1_start, dS2_start, dM1, dM2, dS1, dS2, dA1, dA2, dM1c, dM2c, dS1c, dS2c, dz1_o,
    dv, dscale, dshift, shared, arrived, T, H, c0, n,
    D: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, C: tl.constexpr, NORM: tl.constexpr, RES: tl.constexpr,
    EPS: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (E / BE * B*H,): the scan's backward over chunks c0 + n - 1 .. c0, for BE hidden units of one head.

    dM, dS: float32 gradient of the state behind the chunks, [B*H, E, D], or all None for zero; dM_start, dS_start: of
    that before them, or None where it is not wanted. dA: gradient of M at the start of the last chunk, or None for
    zero. dMc, dSc: gradient of the state at the end of each chunk, [B*H, n, E, D]. dz1_o: of the keys'
    hidden inputs, [B*H, n, E, C]. dv is that of v.
    """
    NG: tl.constexpr = E // BE
    ticket = tl.atomic_add(arrived + tl.num_programs(0) // NG, 1) if NG > 1 else tl.program_id(0)
    i_bh, i_e = (ticket // NG).to(tl.int64), ticket % NG
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d, o_e = tl.arange(0, C), tl.arange(0, D), i_e * BE + tl.arange(0, BE)
    dt = k.dtype.element_ty
    token = o[:, None] * (H * D) + o_d[None, :]
    row = o[:, None] * D + o_d[None, :]
    unit_t = o_e[:, None] * C + o[None, :]
    tile = o_e[:, None] * D + o_d[None, :]
    w = i_bh * E * D
    dm1, dm2 = tl.zeros([BE, D], tl.float32), tl.zeros([BE, D], tl.float32)
    ds1, ds2 = tl.zeros([BE, D], tl.float32), tl.zeros([BE, D], tl.float32)
    if dM1 is not None:
        dm1, dm2 = tl.load(dM1 + w + tile), tl.load(dM2 + w + tile)
        ds1, ds2 = tl.load(dS1 + w + tile), tl.load(dS2 + w + tile)
    sum_scale, sum_shift = tl.zeros([D], tl.float32), tl.zeros([D], tl.float32)
    for back in range(n):
        j = n - 1 - back
        x_d = ((i_b * T + (c0 + j) * C) * H + i_h) * D
        c_d = (i_bh * n + j) * C * D
        inside = ((c0 + j) * C + o < T)[:, None]
        at = (i_bh * n + j) * 4 * C
        saved = (i_bh * n + j) * E * D
        hidden = (i_bh * n + j) * E * C
        b_k, b_err = tl.load(k + x_d + token, mask=inside, other=0.0), tl.load(err + c_d + row)
        pn, rn = tl.load(vec + at + 2 * C + o), tl.load(vec + at + 3 * C + o)
        x, slope = tl.load(x_i + hidden + unit_t), tl.load(slope_i + hidden + unit_t)
        m2 = tl.load(M2c + saved + tile)
        b_dm1, b_dm2, b_ds1, b_ds2 = dm1.to(dt), dm2.to(dt), ds1.to(dt), ds2.to(dt)
        tl.store(dM1c + saved + tile, b_dm1)
        tl.store(dM2c + saved + tile, b_dm2)
        tl.store(dS1c + saved + tile, b_ds1)
        tl.store(dS2c + saved + tile, b_ds2)
        # the hidden errors' gradient, and through them and the writes that of the errors at the output; coefficients
        # scale what stays in registers, so that k, err and x are staged once for all products
        g = tl.load(d_e1_i + hidden + unit_t).to(tl.float32)
        g += tl.dot(b_dm1, tl.trans(b_k), input_precision=IP) * pn[None, :]
        g += tl.dot(b_ds1, tl.trans(b_k), input_precision=IP) * rn[None, :]
        b_dh = (g * slope.to(tl.float32)).to(dt)
        g = g.to(dt)
        part = tl.dot(tl.trans(x), b_dm2, input_precision=IP) * pn[:, None]
        part += tl.dot(tl.trans(x), b_ds2, input_precision=IP) * rn[:, None]
        part = tl.dot(tl.trans(b_dh), m2, part, input_precision=IP)
        d_err = sum_over_tiles(part, shared, arrived, back, i_bh, i_e, C, D, NG) + tl.load(d_err_i + c_d + row)
        # through the inner loss
        wanted = tl.load(v + x_d + token, mask=inside, other=0.0).to(tl.float32)
        if RES:
            wanted -= b_k.to(tl.float32)
        b_scale, b_shift = wanted, wanted
        if NORM:
            b_scale, b_shift = tl.load(scale + i_h * D + o_d)[None, :], tl.load(shift + i_h * D + o_d)[None, :]
        z2 = tl.load(z2_i + c_d + row)
        dz2, d_wanted, g_scale, g_shift = error_bwd(d_err, z2, wanted, b_scale, b_shift, NORM, D, EPS)
        if NORM:
            sum_scale += g_scale
            sum_shift += g_shift
        if i_e == 0:
            tl.store(dv + x_d + token, d_wanted.to(dv.dtype.element_ty), mask=inside)
        b_dz2 = dz2.to(dt)
        # through the hidden layer
        dx = tl.load(dx_i + hidden + unit_t).to(tl.float32)
        dx += tl.dot(b_dm2, tl.trans(b_err), input_precision=IP) * pn[None, :]
        dx += tl.dot(b_ds2, tl.trans(b_err), input_precision=IP) * rn[None, :]
        dx = tl.dot(m2, tl.trans(b_dz2), dx, input_precision=IP)
        dz1 = dx * slope.to(tl.float32) + g.to(tl.float32) * tl.load(curve_i + hidden + unit_t).to(tl.float32)
        dz1 = dz1.to(dt)
        tl.store(dz1_o + hidden + unit_t, dz1)
        # the state one chunk back: what it handed on, what reads saw of it, and what the inner gradient took from it
        beta, f, m = tl.load(vec + at + C - 1), tl.load(vec + at + 2 * C - 1), tl.load(m_last + i_bh * n + j)
        beta_t, f_t = tl.load(vec + at + o)[None, :], tl.load(vec + at + C + o)[None, :]
        dzq2, xq = tl.load(dzq2_i + c_d + row), tl.load(xq_i + hidden + unit_t).to(tl.float32)
        ds2 = tl.dot((xq * f_t).to(dt), dzq2, f * dm2 + m * ds2, input_precision=IP)
        dm2 = tl.dot((xq * beta_t).to(dt), dzq2, beta * dm2, input_precision=IP)
        dm2 = tl.dot(b_dh, b_err, dm2, input_precision=IP)
        dm2 = tl.dot(x, b_dz2, dm2, input_precision=IP)
        b_q = tl.load(q + x_d + token, mask=inside, other=0.0)
        dzq1 = tl.load(dzq1_i + hidden + unit_t).to(tl.float32)
        ds1 = tl.dot((dzq1 * f_t).to(dt), b_q, f * dm1 + m * ds1, input_precision=IP)
        dm1 = tl.dot((dzq1 * beta_t).to(dt), b_q, beta * dm1, input_precision=IP)
        dm1 = tl.dot(dz1, b_k, dm1, input_precision=IP)
        if dA1 is not None:
            dm1 += tl.load(dA1 + w + tile, mask=back == 0, other=0.0)
            dm2 += tl.load(dA2 + w + tile, mask=back == 0, other=0.0)
    if dM1_start is not None:
        tl.store(dM1_start + w + tile, dm1)
        tl.store(dM2_start + w + tile, dm2)
    if dS1_start is not None:
        tl.store(dS1_start + w + tile, ds1)
        tl.store(dS2_start + w + tile, ds2)
    if NORM and i_e == 0:
        tl.store(dscale + i_bh * D + o_d, tl.load(dscale + i_bh * D + o_d) + sum_scale)
        tl.store(dshift + i_bh * D + o_d, tl.load(dshift + i_bh * D + o_d) + sum_shift)


@triton.jit(do_not_specialize=SIZES)
def write_bwd_kernel(
    k, err, vec, M1c, M2c, S1c, S2c, P1, P2, dM1c, dM2c, dS1c, dS2c, x_i, e1_i, dz1_i, dk_i, dv,
    dk, dvec, dm_last, T, H, c0, n,
    D: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, C: tl.constexpr, RES: tl.constexpr, PRIOR: tl.constexpr,
    IP: tl.constexpr,
):  # fmt: skip
    """grid (n, B*H): gradients of keys and of the writes' coefficients, from what the scan stored of each chunk."""
    j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    o, o_d, o_e = tl.arange(0, C), tl.arange(0, D), tl.arange(0, BE)
    token = o[:, None] * (H * D) + o_d[None, :]
    row = o[:, None] * D + o_d[None, :]
    unit_t = o_e[:, None] * C + o[None, :]
    x_d = ((i_b * T + (c0 + j) * C) * H + i_h) * D
    c_d = (i_bh * n + j) * C * D
    inside = ((c0 + j) * C + o < T)[:, None]
    at = (i_bh * n + j) * 4 * C + o
    tile = o_e[:, None] * D + o_d[None, :]
    saved = (i_bh * n + j) * E * D
    hidden = (i_bh * n + j) * E * C
    of_k, of_k_s = tl.zeros([C, D], tl.float32), tl.zeros([C, D], tl.float32)
    of_e, of_e_s = tl.zeros([C, D], tl.float32), tl.zeros([C, D], tl.float32)
    b_dk = tl.load(dk_i + c_d + row)
    d_beta, d_f, d_m = 0.0, 0.0, 0.0
    for e in range(E // BE):
        at_e, at_h = e * BE * D, e * BE * C
        m1, m2 = tl.load(M1c + saved + at_e + tile), tl.load(M2c + saved + at_e + tile)
        dm1, dm2 = tl.load(dM1c + saved + at_e + tile), tl.load(dM2c + saved + at_e + tile)
        ds1, ds2 = tl.load(dS1c + saved + at_e + tile), tl.load(dS2c + saved + at_e + tile)
        e1, x = tl.trans(tl.load(e1_i + hidden + at_h + unit_t)), tl.trans(tl.load(x_i + hidden + at_h + unit_t))
        of_k = tl.dot(e1, dm1, of_k, input_precision=IP)
        of_k_s = tl.dot(e1, ds1, of_k_s, input_precision=IP)
        of_e = tl.dot(x, dm2, of_e, input_precision=IP)
        of_e_s = tl.dot(x, ds2, of_e_s, input_precision=IP)
        b_dk = tl.dot(tl.trans(tl.load(dz1_i + hidden + at_h + unit_t)), m1, b_dk, input_precision=IP)
        s1, s2 = tl.load(S1c + saved + at_e + tile).to(tl.float32), tl.load(S2c + saved + at_e + tile).to(tl.float32)
        dm1, dm2 = dm1.to(tl.float32), dm2.to(tl.float32)
        d_f += tl.sum(dm1 * s1 + dm2 * s2)
        d_m += tl.sum(ds1.to(tl.float32) * s1 + ds2.to(tl.float32) * s2)
        m1, m2 = m1.to(tl.float32), m2.to(tl.float32)
        if PRIOR:
            m1 -= tl.load(P1 + i_h * E * D + at_e + tile)
            m2 -= tl.load(P2 + i_h * E * D + at_e + tile)
        d_beta += tl.sum(dm1 * m1 + dm2 * m2)
    kf = tl.load(k + x_d + token, mask=inside, other=0.0).to(tl.float32)
    ef = tl.load(err + c_d + row).to(tl.float32)
    pn, rn = tl.load(vec + at + 2 * C), tl.load(vec + at + 3 * C)
    b_dk += pn[:, None] * of_k + rn[:, None] * of_k_s
    if RES:
        b_dk -= tl.load(dv + x_d + token, mask=inside, other=0.0).to(tl.float32)
    tl.store(dk + x_d + token, b_dk.to(dk.dtype.element_ty), mask=inside)
    last = o == C - 1
    tl.store(dvec + at, tl.load(dvec + at) + tl.where(last, d_beta, 0.0))
    tl.store(dvec + at + C, tl.load(dvec + at + C) + tl.where(last, d_f, 0.0))
    tl.store(dvec + at + 2 * C, tl.sum(kf * of_k + ef * of_e, 1))
    tl.store(dvec + at + 3 * C, tl.sum(kf * of_k_s + ef * of_e_s, 1))
    tl.store(dm_last + i_bh * n + j, d_m)


@triton.jit(do_not_specialize=SIZES)
def prior_bwd_kernel(
    q, vec, dM1c, dM2c, xq_i, dzq1_i, dzq2_i, dP1, dP2, B, T, H, c0, n,
    D: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, C: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (E / BE, G*H): gradient of the prior, added to dP [G*H, E, D] over chunks and each G-th sequence."""
    i_e, i_gh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_g, i_h, groups = i_gh // H, i_gh % H, tl.num_programs(1) // H
    o, o_d, o_e = tl.arange(0, C), tl.arange(0, D), i_e * BE + tl.arange(0, BE)
    dt = q.dtype.element_ty
    token = o[:, None] * (H * D) + o_d[None, :]
    row = o[:, None] * D + o_d[None, :]
    unit_t = o_e[:, None] * C + o[None, :]
    tile = o_e[:, None] * D + o_d[None, :]
    dp1, dp2 = tl.load(dP1 + i_gh * E * D + tile), tl.load(dP2 + i_gh * E * D + tile)
    for i_b in range(i_g, B, groups):
        i_bh = i_b * H + i_h
        for j in range(n):
            x_d = ((i_b * T + (c0 + j) * C) * H + i_h) * D
            at = vec + (i_bh * n + j) * 4 * C
            lost, lost_t = 1.0 - tl.load(at + C - 1), 1.0 - tl.load(at + o)[:, None]
            b_q = tl.load(q + x_d + token, mask=((c0 + j) * C + o < T)[:, None], other=0.0).to(tl.float32)
            dzq2 = tl.load(dzq2_i + (i_bh * n + j) * C * D + row).to(tl.float32)
            saved = (i_bh * n + j) * E * D
            hidden = (i_bh * n + j) * E * C
            dp1 += lost * tl.load(dM1c + saved + tile).to(tl.float32)
            dp2 += lost * tl.load(dM2c + saved + tile).to(tl.float32)
            dp1 = tl.dot(tl.load(dzq1_i + hidden + unit_t), (b_q * lost_t).to(dt), dp1, input_precision=IP)
            dp2 = tl.dot(tl.load(xq_i + hidden + unit_t), (dzq2 * lost_t).to(dt), dp2, input_precision=IP)
    tl.store(dP1 + i_gh * E * D + tile, dp1)
    tl.store(dP2 + i_gh * E * D + tile, dp2)
