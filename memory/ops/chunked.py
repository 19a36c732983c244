"""The same memory, a chunk at a time: matrix products only, no token's weights are ever formed.

With u_s the surprise of token s (minus theta_s times its inner gradient, a rank-one matrix per layer), both recurrences
of a chunk that starts at (W, S) unroll to sums over its tokens,

    S_t = m_t S + sum_{s<=t} N_ts u_s               N_ts = prod_{r=s+1..t} eta_r,  m_t = prod_{r<=t} eta_r
    W_t = beta_t W + f_t S + sum_{s<=t} G_ts u_s    G = B N,  f = B m,  B and beta as N and m, of 1 - alpha

so that reading W_t with q_t is two products with W and S and one masked, weighted attention over the chunk.
Letters: N sequences times heads, C tokens of the chunk, D head width, E channels of forgetting (1: one per head).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from memory.ops.inputs import ScanInputs
from memory.ops.mlp import error, forgets_rows, gelu, gelu_slope, output
from memory.state import FastState


@dataclass
class Coefficients:
    """What gates alone decide about a chunk; all terms are products of numbers in [0, 1], so nothing cancels."""

    beta: Tensor  # share of W left at t, [N, C, E]
    f: Tensor  # share of S that has entered W at t, [N, C, E]
    m: Tensor  # share of S left at t, [N, C]
    n_last: Tensor  # weight of u_s in S at the chunk's end, [N, C]
    g: Tensor  # weight of u_s in W_t, [N, E, C, C]


def decay(log_gate: Tensor) -> Tensor:
    """Lower-triangular prod_{r=s+1..t} gate_r as exp of masked partial sums: exact for gates of 0 (log = -inf).

    Args:
        log_gate: [..., C].

    Returns:
        [..., C, C], row t, column s.
    """
    size = log_gate.shape[-1]
    lower = torch.ones(size, size, dtype=torch.bool, device=log_gate.device).tril()
    rows = log_gate[..., :, None].expand(*log_gate.shape, size)
    total = rows.masked_fill(~lower.tril(-1), 0).cumsum(-2)
    return total.masked_fill(~lower, float("-inf")).exp()


def coefficients(log_eta: Tensor, log_keep: Tensor, real: Tensor | None) -> Coefficients:
    """Coefficients of one chunk from log eta [N, C], log(1 - alpha) [N, C, E] and `real` [N, C], 0 at padding."""
    past, kept = decay(log_eta), decay(log_keep.mT)  # [N, C, C], [N, E, C, C]
    if real is not None:
        kept = kept * real[:, None, None]  # padding does not add S to W once more
    m = log_eta.cumsum(-1).exp()
    f = (kept @ m[:, None, :, None])[..., 0].mT
    return Coefficients(log_keep.cumsum(1).exp(), f, m, past[:, -1], kept @ past[:, None])


def surprise(
    anchor: list[Tensor],
    k: Tensor,
    v: Tensor,
    theta: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    residual: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Factors of u_s for all tokens of a chunk: u_s = inputs[l][s] (outer) errors[l][s] for layer l.

    Args:
        anchor: the memory the gradients are taken at, [N, d_in, d_out] per layer.
        k: keys, [N, C, D].
        v: values, [N, C, D].
        theta: step sizes, [N, C].
    """
    inputs, z = [k], [torch.bmm(k, anchor[0])]
    for w in anchor[1:]:
        inputs.append(gelu(z[-1]))
        z.append(torch.bmm(inputs[-1], w))
    errors = [-theta[..., None] * error(z[-1], k, v, scale, shift, residual)]
    for layer in range(len(anchor) - 2, -1, -1):
        errors.insert(0, torch.bmm(errors[0], anchor[layer + 1].mT) * gelu_slope(z[layer]))
    return inputs, errors


def exact_surprise(
    k: Tensor,
    v: Tensor,
    theta: Tensor,
    w: Tensor,
    s: Tensor,
    prior: Tensor | None,
    c: Coefficients,
    residual: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """As `surprise`, of a linear memory without LayerNorm, each token's gradient at the memory before that token.

    That memory holds what the chunk's earlier tokens wrote, by the same coefficients that a read uses, and so their
    errors: with A_ts = G_{t-1,s} theta_s (k_t . k_s) for s < t, and e* the errors if none of them had written,

        (I + A) e = e*,

    a unit lower triangular system, whatever momentum and forgetting do.
    """
    earlier = before(c)
    unwritten = from_state(k, w, s, prior, earlier, True) - v
    if residual:
        unwritten = unwritten + k
    system = torch.eye(k.shape[1], dtype=k.dtype, device=k.device) + scores(k, k, earlier) * theta[:, None]
    found = torch.linalg.solve_triangular(system, unwritten, upper=False, unitriangular=True)
    return [k], [-theta[..., None] * found]


def before(c: Coefficients) -> Coefficients:
    """The coefficients that hold before each token, in place of behind it; those of the chunk's end are not changed."""

    def shifted(x: Tensor, first: float, dim: int) -> Tensor:
        kept = x.narrow(dim, 0, x.shape[dim] - 1)
        return torch.cat([torch.full_like(x.narrow(dim, 0, 1), first), kept], dim)

    return replace(c, beta=shifted(c.beta, 1.0, 1), f=shifted(c.f, 0.0, 1), g=shifted(c.g, 0.0, 2))


def from_state(x: Tensor, w: Tensor, s: Tensor, prior: Tensor | None, c: Coefficients, rows: bool) -> Tensor:
    """The part of x_t W_t that the chunk's start and the prior of forgetting have in it, [N, C, d_out]."""
    parts = [(c.beta, w), (c.f, s)] + ([(1 - c.beta, prior)] if prior is not None else [])
    return sum(torch.bmm(share * x, weight) if rows else share * torch.bmm(x, weight) for share, weight in parts)


def scores(x: Tensor, inputs: Tensor, c: Coefficients) -> Tensor:
    """Weight of each token's error in each x_t W_t, [N, C, C], where forgetting is by head or acts on rows."""
    if c.g.shape[1] == 1:
        return c.g[:, 0] * torch.bmm(x, inputs.mT)
    return torch.einsum("nti,nits,nsi->nts", x, c.g, inputs)


def retrieve(
    x: Tensor, inputs: Tensor, errors: Tensor, w: Tensor, s: Tensor, prior: Tensor | None, c: Coefficients, rows: bool
) -> Tensor:
    """x_t W_t for every token of a chunk, in one layer, W_t never formed: x [N, C, d_in] to [N, C, d_out]."""
    if c.g.shape[1] == 1 or rows:
        recent = torch.bmm(scores(x, inputs, c), errors)
    else:
        recent = torch.einsum("nts,nots,nso->nto", torch.bmm(x, inputs.mT), c.g, errors)
    return recent + from_state(x, w, s, prior, c, rows)


def advance(
    inputs: Tensor, errors: Tensor, w: Tensor, s: Tensor, prior: Tensor | None, c: Coefficients, rows: bool
) -> tuple[Tensor, Tensor]:
    """One layer's memory and momentum at the end of a chunk."""
    beta, f, g_last = c.beta[:, -1, None], c.f[:, -1, None], c.g[:, :, -1].mT  # [N, 1, E], [N, 1, E], [N, C, E]
    if rows:
        gained = torch.bmm((g_last * inputs).mT, errors)
        beta, f = beta.mT, f.mT
    else:
        gained = torch.bmm(inputs.mT, g_last * errors)
    memory = beta * w + f * s + gained
    if prior is not None:
        memory = memory + (1 - beta) * prior
    return memory, c.m[:, -1, None, None] * s + torch.bmm(inputs.mT, c.n_last[..., None] * errors)


def scan(x: ScanInputs, state: FastState) -> tuple[Tensor, FastState]:
    """See `memory.ops.memory_scan`."""
    batch, time, heads, width = x.q.shape
    depth, position, chunk = len(state.weights), state.position, x.chunk

    def rows_of(tokens: Tensor) -> Tensor:  # [B, T, H, ...] -> [N, T, ...]
        return tokens.transpose(1, 2).reshape(batch * heads, time, *tokens.shape[3:])

    def per_head(slow: Tensor) -> Tensor:  # [H, ...] -> [N, ...]
        return slow.expand(batch, *slow.shape).reshape(batch * heads, *slow.shape[1:])

    weights, momentum, anchor = (
        [w.reshape(-1, *w.shape[2:]) for w in part] for part in (state.weights, state.momentum, state.anchor)
    )
    priors = [None] * depth if x.prior is None else [per_head(w) for w in x.prior]
    scale, shift = (None if p is None else per_head(p)[:, None] for p in (x.scale, x.shift))  # [N, 1, D]
    theta, log_eta, log_keep, real = x.theta, x.log_eta, x.log_keep, None
    if x.mask is not None:  # gates that keep everything and write nothing
        padding = ~x.mask[..., None]
        theta, log_eta = theta.masked_fill(padding, 0), log_eta.masked_fill(padding, 0)
        log_keep = log_keep.masked_fill(padding[..., None], 0)
        real = rows_of((~padding).expand(-1, -1, heads)).to(x.q.dtype)
    first = chunk - position  # a call may start in the middle of a chunk
    sizes = [min(first, time)] + [chunk] * (max(time - first, 0) // chunk)
    sizes += [time - sum(sizes)] if sum(sizes) < time else []
    ys = []
    pieces = zip(*(rows_of(part).split(sizes, 1) for part in (x.q, x.k, x.v, theta, log_eta, log_keep)), strict=True)
    reals = [None] * len(sizes) if real is None else real.split(sizes, 1)
    for (q_c, k_c, v_c, theta_c, log_eta_c, log_keep_c), real_c in zip(pieces, reals, strict=True):
        c = coefficients(log_eta_c, log_keep_c, real_c)
        if x.exact:
            inputs, errors = exact_surprise(k_c, v_c, theta_c, weights[0], momentum[0], priors[0], c, x.residual)
        else:
            inputs, errors = surprise(anchor, k_c, v_c, theta_c, scale, shift, x.residual)
        hidden, after = q_c, []
        for layer in range(depth):
            rows = forgets_rows(layer, depth)
            this = (inputs[layer], errors[layer], weights[layer], momentum[layer], priors[layer], c, rows)
            z = retrieve(hidden, *this)
            after.append(advance(*this))
            hidden = gelu(z)
        ys.append(output(z, q_c, scale, shift, x.residual))
        weights, momentum = [list(part) for part in zip(*after, strict=True)]
        position = 0 if x.exact else (position + q_c.shape[1]) % chunk
        if not position:
            anchor = weights
    y = torch.cat(ys, 1).view(batch, heads, time, width).transpose(1, 2)
    weights, momentum, anchor = (
        [w.view(batch, heads, *w.shape[1:]) for w in part] for part in (weights, momentum, anchor)
    )
    return y, FastState(weights, momentum, anchor, position)
