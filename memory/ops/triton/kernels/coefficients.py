"""What the gates alone decide about a chunk, all chunks in parallel: see `memory.ops.chunked` for the formulas.

Per chunk the forward kernel writes PN = -theta_s G_ts [C, C] and, per token, vec = (beta, f, pn, rn) with pn the last
row of PN and rn = -theta_s N_Cs, and m_C. Tokens behind the end and padding keep everything and write nothing.

Without MOMENTUM eta is 0 for all tokens: then N is the identity, so that f, rn and m_C are not there.
Rows follow from rows, N_t = eta_t N_{t-1} and G_t = (1 - alpha_t) G_{t-1} + N_t, each column from its 1 on the diagonal
of N: C steps of a few instructions, one warp a chunk, with no logarithm added up, no difference and no matrix product.
"""

import triton
import triton.language as tl

from memory.ops.triton.kernels import SIZES


@triton.jit
def is_token(mask, of_mask, t, T, MASK: tl.constexpr):
    """Whether t is the place of a token: not behind the end, not padding."""
    inside = t < T
    if MASK:
        inside = inside & (tl.load(mask + of_mask + t, mask=inside, other=0) != 0)
    return inside


@triton.jit(do_not_specialize=SIZES)
def coefficients_fwd_kernel(
    theta, log_eta, log_keep, mask, PN, RN, vec, m_last, T, H, c0, n, C: tl.constexpr, MASK: tl.constexpr,
    MOMENTUM: tl.constexpr,
):  # fmt: skip
    """grid (n, B*H): chunk c0 + program_id(0) of one head. RN: None, or place for -theta_s N_ts [C, C] as well."""
    j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o, first = tl.arange(0, C), (c0 + j) * C
    of_mask = i_bh // H * T
    at, square, of_vec = of_mask * H + i_bh % H, (i_bh * n + j) * C * C, (i_bh * n + j) * 4 * C
    step = -tl.load(theta + at + (first + o) * H, mask=is_token(mask, of_mask, first + o, T, MASK), other=0.0)
    n_row, g_row = tl.zeros([C], tl.float32), tl.zeros([C], tl.float32)
    beta, f, m = 1.0, 0.0, 1.0
    real = is_token(mask, of_mask, first, T, MASK)
    b_keep = tl.load(log_keep + at + first * H, mask=real, other=0.0)
    if MOMENTUM:
        b_eta = tl.load(log_eta + at + first * H, mask=real, other=0.0)
    for t in tl.range(C, loop_unroll_factor=4):
        keep, gain = tl.exp(b_keep), real.to(tl.float32)
        if MOMENTUM:
            eta = tl.exp(b_eta)
        # the next token's gates are on their way while this one's rows are computed and stored
        real = is_token(mask, of_mask, first + t + 1, T, MASK)
        following = at + (first + t + 1) * H
        b_keep = tl.load(log_keep + following, mask=real, other=0.0)
        own = tl.where(o == t, step, 0.0)
        if MOMENTUM:
            b_eta = tl.load(log_eta + following, mask=real, other=0.0)
            n_row = n_row * eta + own
            m *= eta
        else:
            n_row = own
        g_row = g_row * keep + n_row * gain
        beta *= keep
        tl.store(PN + square + t * C + o, g_row.to(PN.dtype.element_ty))
        if RN is not None:
            tl.store(RN + square + t * C + o, n_row.to(RN.dtype.element_ty))
        tl.store(vec + of_vec + t, beta)
        if MOMENTUM:
            f = f * keep + m * gain
            tl.store(vec + of_vec + C + t, f)
    tl.store(vec + of_vec + 2 * C + o, g_row)
    if MOMENTUM:
        tl.store(vec + of_vec + 3 * C + o, n_row)
        tl.store(m_last + i_bh * n + j, m)


@triton.jit(do_not_specialize=SIZES)
def coefficients_bwd_kernel(
    log_eta, log_keep, mask, PN, RN, vec, dPN, dvec, dm_last, dtheta, dlog_eta, dlog_keep, T, H, c0, n,
    C: tl.constexpr, MASK: tl.constexpr, MOMENTUM: tl.constexpr,
):  # fmt: skip
    """Gradients of the gates from those of the coefficients, by the recurrences of the forward from the last row on.

    The factor -theta_s belongs to a column, so the gradients g_row, n_row of the rows go without it and it comes with
    PN and RN; its own gradient is what reaches the place where a column starts, on the diagonal.
    """
    j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o, first = tl.arange(0, C), (c0 + j) * C
    of_mask = i_bh // H * T
    at, square, of_vec = of_mask * H + i_bh % H, (i_bh * n + j) * C * C, (i_bh * n + j) * 4 * C
    # the last row is also vec's; nothing follows it, so what it hands on to itself is not decayed
    g_row, d_beta, d_f = tl.load(dvec + of_vec + 2 * C + o), 0.0, 0.0
    if MOMENTUM:
        n_row, d_m = tl.load(dvec + of_vec + 3 * C + o), tl.load(dm_last + i_bh * n + j)
    next_eta, next_keep = 1.0, 1.0
    d_theta, d_eta, d_keep = tl.zeros([C], tl.float32), tl.zeros([C], tl.float32), tl.zeros([C], tl.float32)
    of_m = tl.zeros([C], tl.float32)
    for back in tl.range(C, loop_unroll_factor=4):
        t = C - 1 - back
        there = is_token(mask, of_mask, first + t, T, MASK)
        keep = tl.exp(tl.load(log_keep + at + (first + t) * H, mask=there, other=0.0))
        real = there.to(tl.float32)
        d_beta = d_beta * next_keep + tl.load(dvec + of_vec + t)
        g_row = g_row * next_keep + tl.load(dPN + square + t * C + o).to(tl.float32)
        before = square + (t - 1) * C + o
        of_keep = tl.sum(g_row * tl.load(PN + before, mask=t > 0, other=0.0).to(tl.float32), 0)
        if MOMENTUM:
            eta = tl.exp(tl.load(log_eta + at + (first + t) * H, mask=there, other=0.0))
            d_f = d_f * next_keep + tl.load(dvec + of_vec + C + t)
            d_m = d_m * next_eta + d_f * real
            n_row = n_row * next_eta + g_row * real
            n_before = tl.load(RN + before, mask=t > 0, other=0.0).to(tl.float32)
            of_keep += d_f * tl.load(vec + of_vec + C + t - 1, mask=t > 0, other=0.0)
            d_eta = tl.where(o == t, tl.sum(n_row * n_before, 0) * eta * real, d_eta)
            of_m = tl.where(o == t, d_m * real, of_m)
            next_eta = eta
        else:
            n_row = g_row * real
        of_keep = of_keep * keep + d_beta * tl.load(vec + of_vec + t)
        d_theta = tl.where(o == t, -n_row * real, d_theta)
        d_keep = tl.where(o == t, of_keep * real, d_keep)
        next_keep = keep
    there = is_token(mask, of_mask, first + o, T, MASK)
    out, inside = at + (first + o) * H, first + o < T
    if MOMENTUM:
        d_eta += of_m * tl.exp(tl.cumsum(tl.load(log_eta + out, mask=there, other=0.0), 0))
    tl.store(dtheta + out, d_theta, mask=inside)
    tl.store(dlog_eta + out, d_eta, mask=inside)
    tl.store(dlog_keep + out, d_keep, mask=inside)
