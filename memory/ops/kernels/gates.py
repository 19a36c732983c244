"""What the gates alone decide about a chunk, all chunks in parallel: see `memory.ops.chunked` for the formulas.

Per chunk the forward kernel writes PN = -theta_s G_ts [C, C] and, per token, vec = (beta, f, pn, rn) with pn the last
row of PN and rn = -theta_s N_Cs, and m_C. Tokens behind the end and padding keep everything and write nothing.
"""

import triton
import triton.language as tl


@triton.jit
def decay(log_gate, C: tl.constexpr):
    """Lower-triangular prod_{r=s+1..t} gate_r [C, C] as exp of partial sums: no difference of two large numbers."""
    o = tl.arange(0, C)
    rows = tl.where(o[:, None] > o[None, :], log_gate[:, None], 0.0)
    return tl.where(o[:, None] >= o[None, :], tl.exp(tl.cumsum(rows, 0)), 0.0)


@triton.jit
def load_gates(theta, log_eta, log_keep, mask, i_b, i_h, t, T, H, MASK: tl.constexpr):
    """Gates of the tokens t [C], neutral where there is none; and 1.0 where there is one."""
    inside = t < T
    if MASK:
        inside = inside & (tl.load(mask + i_b * T + t, mask=inside, other=0) != 0)
    at = (i_b * T + t) * H + i_h
    b_theta = tl.load(theta + at, mask=inside, other=0.0)
    # exp(-1e4) is 0 in float32, and unlike -inf survives a product with 0
    b_eta = tl.maximum(tl.load(log_eta + at, mask=inside, other=0.0), -1e4)
    b_keep = tl.maximum(tl.load(log_keep + at, mask=inside, other=0.0), -1e4)
    return b_theta, b_eta, b_keep, inside.to(tl.float32)


@triton.jit
def gates_fwd_kernel(
    theta, log_eta, log_keep, mask, PN, vec, m_last, T, H, c0, n,
    C: tl.constexpr, MASK: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """grid (n, B*H): chunk c0 + program_id(0) of one head."""
    j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o = tl.arange(0, C)
    b_theta, b_eta, b_keep, real = load_gates(
        theta, log_eta, log_keep, mask, i_bh // H, i_bh % H, (c0 + j) * C + o, T, H, MASK
    )
    kept = decay(b_keep, C) * real[None, :]
    past = decay(b_eta, C)
    m = tl.exp(tl.cumsum(b_eta, 0))
    weight = tl.dot(kept, past, input_precision=IP) * -b_theta[None, :]
    last = o == C - 1
    at = vec + (i_bh * n + j) * 4 * C + o
    tl.store(at, tl.exp(tl.cumsum(b_keep, 0)))
    tl.store(at + C, tl.sum(kept * m[None, :], 1))
    tl.store(at + 2 * C, tl.sum(tl.where(last[:, None], weight, 0.0), 0))
    tl.store(at + 3 * C, tl.sum(tl.where(last[:, None], past, 0.0), 0) * -b_theta)
    tl.store(m_last + i_bh * n + j, tl.sum(tl.where(last, m, 0.0), 0))
    tl.store(PN + ((i_bh * n + j) * C + o[:, None]) * C + o[None, :], weight.to(PN.dtype.element_ty))


@triton.jit
def gates_bwd_kernel(
    theta, log_eta, log_keep, mask, dPN, dvec, dm_last, dtheta, dlog_eta, dlog_keep, T, H, c0, n,
    C: tl.constexpr, MASK: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """Gradients of the gates from those of what `gates_fwd_kernel` wrote."""
    j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    o = tl.arange(0, C)
    t = (c0 + j) * C + o
    b_theta, b_eta, b_keep, real = load_gates(theta, log_eta, log_keep, mask, i_b, i_h, t, T, H, MASK)
    kept = decay(b_keep, C)
    past = decay(b_eta, C)
    beta, m = tl.exp(tl.cumsum(b_keep, 0)), tl.exp(tl.cumsum(b_eta, 0))
    last = o == C - 1
    at = dvec + (i_bh * n + j) * 4 * C + o
    d_beta, df, dpn, drn = tl.load(at), tl.load(at + C), tl.load(at + 2 * C), tl.load(at + 3 * C)
    d_weight = -tl.load(dPN + ((i_bh * n + j) * C + o[:, None]) * C + o[None, :])
    d_weight -= tl.where(last[:, None], dpn[None, :], 0.0)
    d_weight = tl.where(o[:, None] >= o[None, :], d_weight, 0.0)
    g = tl.dot(kept * real[None, :], past, input_precision=IP)
    n_last = tl.sum(tl.where(last[:, None], past, 0.0), 0)
    dg = d_weight * b_theta[None, :]
    d_kept = (tl.dot(dg, tl.trans(past), input_precision=IP) + df[:, None] * m[None, :]) * real[None, :]
    d_past = tl.dot(tl.trans(kept * real[None, :]), dg, input_precision=IP)
    d_past -= tl.where(last[:, None], (drn * b_theta)[None, :], 0.0)
    dm = tl.sum(kept * real[None, :] * df[:, None], 0) + tl.where(last, tl.load(dm_last + i_bh * n + j), 0.0)
    # d log gate_r = sum over t >= r > s of (d decay * decay)_ts, plus what beta and m pass on
    strict = o[:, None] > o[None, :]
    before = (o[:, None] < o[None, :]).to(tl.float32)
    after = o[:, None] >= o[None, :]
    keep_ts = tl.dot(tl.where(strict, d_kept * kept, 0.0), before, input_precision=IP)
    eta_ts = tl.dot(tl.where(strict, d_past * past, 0.0), before, input_precision=IP)
    d_keep = tl.sum(tl.where(after, keep_ts + (d_beta * beta)[:, None], 0.0), 0)
    d_eta = tl.sum(tl.where(after, eta_ts + (dm * m)[:, None], 0.0), 0)
    out = (i_b * T + t) * H + i_h
    inside = t < T
    tl.store(dtheta + out, (tl.sum(d_weight * g, 0) - drn * n_last) * real, mask=inside)
    tl.store(dlog_eta + out, d_eta * real, mask=inside)
    tl.store(dlog_keep + out, d_keep * real, mask=inside)
