"""The same memory, a chunk at a time: matrix products only, no token's weights are ever formed.

With u_s the surprise of token s (minus theta_s times its inner gradient, a rank-one matrix per layer), both recurrences
of a chunk that starts at (W, S) unroll to sums over its tokens,

    S_t = m_t S + sum_{s<=t} N_ts u_s               N_ts = prod_{r=s+1..t} eta_r,  m_t = prod_{r<=t} eta_r
    W_t = beta_t W + f_t S + sum_{s<=t} G_ts u_s    G = B N,  f = B m,  B and beta as N and m, of 1 - alpha

so that reading W_t with q_t is two products with W and S and one masked, weighted attention over the chunk. Where
forgetting leads to a prior M_0, (1 - beta_t) M_0 is added to W_t. Without momentum G is B, and S is not there.
Letters: N sequences times heads, C tokens of the chunk, D head width, E channels of forgetting (1: one per head).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from memory.ops.rule import Rule, Tokens, forgets_rows
from memory.state import FastState

AHEAD = 4096  # tokens whose coefficients are made at once: enough to fill an operation, and few enough for a cache


@dataclass
class Coefficients:
    """What gates alone decide about a chunk; all terms are products of numbers in [0, 1], so nothing cancels."""

    beta: Tensor  # share of W that remains at t, [N, C, E]
    rest: Tensor  # share of M_0 that has come in its place, 1 - beta, [N, C, E]
    f: Tensor | None  # share of S that has entered W at t, [N, C, E]; None without momentum, as all that is of S
    g: Tensor  # weight of u_s in W_t, [N, E, C, C]
    # at the chunk's end: of all chunks at once, as a slice costs a CPU a fifth of a small product
    beta_last: Tensor  # [N, 1, E]
    f_last: Tensor | None  # [N, 1, E]
    m_last: Tensor | None  # share of S that remains, [N, 1, 1]
    g_last: Tensor  # [N, C, E]
    n_last: Tensor | None  # weight of u_s in S, [N, C, 1]


@dataclass
class Layer:
    """One layer of the memory at a chunk's start; its forgetting acts on rows of the weight, or else on columns."""

    w: Tensor  # memory W, [N, d_in, d_out]
    s: Tensor  # momentum S, [N, d_in, d_out]
    prior: Tensor | None  # M_0, [N, d_in, d_out]; None for zero
    rows: bool


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


def coefficients(log_eta: Tensor | None, log_keep: Tensor, real: Tensor | None) -> Coefficients:
    """Coefficients of chunks from log eta [..., C], log(1 - alpha) [..., C, E] and `real` [..., C], 0 at padding."""
    keep = decay(log_keep.mT)  # [..., E, C, C]
    beta = log_keep.cumsum(-2).exp()
    if log_eta is None:  # no momentum
        return Coefficients(beta, 1 - beta, None, keep, beta[..., -1:, :], None, None, keep[..., -1, :].mT, None)
    eta = decay(log_eta)  # [..., C, C]
    if real is not None:
        keep = keep * real[..., None, None, :]  # padding does not add S to W once more
    m = log_eta.cumsum(-1).exp()
    f = (keep @ m[..., None, :, None])[..., 0].mT
    g = keep @ eta[..., None, :, :]
    last = beta[..., -1:, :], f[..., -1:, :], m[..., -1:, None], g[..., -1, :].mT, eta[..., -1, :, None]
    return Coefficients(beta, 1 - beta, f, g, *last)


def surprise(
    anchor: list[Tensor], last: Layer, k: Tensor, offset: Tensor, step: Tensor, c: Coefficients, rule: Rule
) -> tuple[list[Tensor], list[Tensor]]:
    """Factors of u_s for all tokens of a chunk: u_s = inputs[l][s] (outer) errors[l][s] for layer l.

    Args:
        anchor: the memory the gradients are taken at, [N, d_in, d_out] per layer.
        last: the last layer at the chunk's start, which exact errors are taken at.
        k: keys, [N, C, D].
        offset: see `Rule.offset`, [N, C, D].
        step: minus the step sizes, [N, C, 1].
        c: the chunk's coefficients.
        rule: what the memory is, `by_row`, its tensors [N, ...].
    """
    inputs = [k]
    hidden = []
    for w in anchor[:-1]:
        hidden.append(rule.hidden(torch.bmm(inputs[-1], w)))
        inputs.append(hidden[-1].features)
    if rule.exact:
        error = exact_error(inputs[-1], offset, step, last, c)
    else:
        error = rule.error(torch.bmm(inputs[-1], anchor[-1]), offset)
    errors = [step * error]
    for layer in range(len(anchor) - 2, -1, -1):
        errors.insert(0, hidden[layer].back(torch.bmm(errors[0], anchor[layer + 1].mT)))
    return inputs, errors


def exact_error(x: Tensor, offset: Tensor, step: Tensor, layer: Layer, c: Coefficients) -> Tensor:
    """Errors x_t W_{t-1} + offset_t of a layer, each at the weight before its token, [N, C, d_out].

    That weight holds what the chunk's earlier tokens wrote, by the same coefficients that a read uses, and so their
    errors: with A_ts = G_{t-1,s} theta_s (x_t . x_s) for s < t, and e* the errors if none of them had written,

        (I + A) e = e*,

    a unit lower triangular system, whatever momentum and forgetting do.
    """
    earlier = before(c)
    unwritten = from_state(x, layer, earlier) + offset
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    system = identity - scores(x, x, earlier) * step.mT
    return torch.linalg.solve_triangular(system, unwritten, upper=False, unitriangular=True)


def before(c: Coefficients) -> Coefficients:
    """The coefficients that hold before each token, in place of behind it; those of the chunk's end are not changed."""

    def shifted(x: Tensor, first: float, dim: int) -> Tensor:
        start = torch.full_like(x.narrow(dim, 0, 1), first)
        return torch.cat([start, x.narrow(dim, 0, x.shape[dim] - 1)], dim)

    beta = shifted(c.beta, 1.0, 1)
    f = None if c.f is None else shifted(c.f, 0.0, 1)
    return replace(c, beta=beta, rest=1 - beta, f=f, g=shifted(c.g, 0.0, 2))


def from_state(x: Tensor, layer: Layer, c: Coefficients) -> Tensor:
    """The part of x_t W_t that comes from the chunk's start and from the prior, [N, C, d_out]."""
    parts = [] if c.f is None else [(c.f, layer.s)]
    if layer.prior is not None:
        parts.append((c.rest, layer.prior))
    if layer.rows or c.beta.shape[-1] == 1:
        y = torch.bmm(c.beta * x, layer.w)
        for share, weight in parts:
            y = y.baddbmm_(share * x, weight)
    else:
        y = c.beta * torch.bmm(x, layer.w)
        for share, weight in parts:
            y = y.addcmul_(share, torch.bmm(x, weight))
    return y


def scores(x: Tensor, inputs: Tensor, c: Coefficients) -> Tensor:
    """Weight of each token's error in each x_t W_t, [N, C, C], where forgetting is by head or acts on rows."""
    if c.g.shape[1] == 1:
        return c.g[:, 0] * torch.bmm(x, inputs.mT)
    return torch.einsum("nti,nits,nsi->nts", x, c.g, inputs)


def retrieve(x: Tensor, inputs: Tensor, errors: Tensor, layer: Layer, c: Coefficients) -> Tensor:
    """x_t W_t for every token of a chunk, in one layer, W_t never formed: x [N, C, d_in] to [N, C, d_out]."""
    if c.g.shape[1] == 1 or layer.rows:
        return from_state(x, layer, c).baddbmm_(scores(x, inputs, c), errors)
    recent = torch.einsum("nts,nots,nso->nto", torch.bmm(x, inputs.mT), c.g, errors)
    return recent + from_state(x, layer, c)


def advance(inputs: Tensor, errors: Tensor, layer: Layer, c: Coefficients, into: Layer | None) -> tuple[Tensor, Tensor]:
    """One layer's memory and momentum at the end of a chunk, written into the W and S of `into` where it is given."""
    beta = c.beta_last.mT if layer.rows else c.beta_last
    # a weight of a token as a whole may stand on either side of a product: on the narrower
    on_inputs = layer.rows if c.g.shape[1] > 1 else inputs.shape[-1] < errors.shape[-1]

    def weighted(weight: Tensor) -> tuple[Tensor, Tensor]:
        return ((weight * inputs).mT, errors) if on_inputs else (inputs.mT, weight * errors)

    # Every pass over a state costs a CPU as much as a product does: sums are taken by the operations that multiply.
    w, s = (None, None) if into is None else (into.w, into.s)
    if layer.prior is None:
        remaining = torch.mul(beta, layer.w, out=w)
    else:
        remaining = torch.lerp(layer.prior, layer.w, beta, out=w)
    if c.f_last is None or c.m_last is None or c.n_last is None:
        return remaining.baddbmm_(*weighted(c.g_last)), layer.s
    memory = remaining.addcmul_(c.f_last.mT if layer.rows else c.f_last, layer.s).baddbmm_(*weighted(c.g_last))
    return memory, torch.mul(c.m_last, layer.s, out=s).baddbmm_(*weighted(c.n_last))


def chunk_lengths(time: int, chunk: int, position: int) -> list[int]:
    """Lengths of the chunks that `time` tokens fall into, when a call starts at `position` in a chunk."""
    first = min(chunk - position, time)
    lengths = [first] + [chunk] * ((time - first) // chunk)
    rest = time - sum(lengths)
    return lengths + [rest] if rest else lengths


def runs(lengths: list[int], most: int) -> Iterator[tuple[int, int]]:
    """Number and length of chunks of one length that follow each other, at most so many together."""
    for length, found in groupby(lengths):
        count = len(list(found))
        for start in range(0, count, most):
            yield min(most, count - start), length


def without_padding(tokens: Tokens) -> tuple[Tokens, Tensor | None]:
    """The tokens with gates that keep everything and write nothing at padding, and which are real, [B, T, H]."""
    if tokens.mask is None:
        return tokens, None
    padding = ~tokens.mask[..., None]
    theta = tokens.theta.masked_fill(padding, 0)
    log_eta = tokens.log_eta.masked_fill(padding, 0)
    log_keep = tokens.log_keep.masked_fill(padding[..., None], 0)
    real = (~padding).expand_as(theta).to(tokens.q.dtype)
    return replace(tokens, theta=theta, log_eta=log_eta, log_keep=log_keep), real


def in_chunks(tokens: Tokens, real: Tensor | None, lengths: list[int], rule: Rule) -> Iterator[list[tuple]]:
    """Of some chunks at a time: q, k, offset [N, C, D], step [N, C, 1] and coefficients of each."""
    batch, _, heads, channels = tokens.log_keep.shape
    rows = max(batch * heads, 1) if tokens.q.is_cpu else 16  # a GPU takes as many chunks of more rows
    start = 0
    for count, length in runs(lengths, max(AHEAD // (rows * max(lengths) * channels), 1)):
        q, k, v, theta, log_eta, log_keep = (cut(x, start, count, length) for x in tokens.sequences)
        there = None if real is None else cut(real, start, count, length)
        c = coefficients(log_eta if rule.momentum else None, log_keep, there)
        parts = (by_chunk(x, count) for x in (q, k, rule.offset(k, v), -theta[..., None], *vars(c).values()))
        yield [(*chunk[:4], Coefficients(*chunk[4:])) for chunk in zip(*parts, strict=True)]
        start += count * length


def by_chunk(x: Tensor | None, count: int) -> Sequence[Tensor | None]:
    """The parts of x that belong to each of `count` chunks; nothing of nothing."""
    return [None] * count if x is None else x.unbind()


def cut(x: Tensor, start: int, count: int, length: int) -> Tensor:
    """Tokens of [B, T, H, ...] from `start` on in chunks of one length, [count, N, C, ...]."""
    x = x[:, start : start + count * length].unflatten(1, (count, length))
    return x.transpose(0, 1).transpose(2, 3).flatten(1, 2)


def scan(tokens: Tokens, state: FastState, rule: Rule) -> tuple[Tensor, FastState]:
    """See `memory.ops.memory_scan`."""
    batch, time, heads, width = tokens.q.shape
    depth = len(state.weights)
    position = state.position

    def per_row(x: Tensor) -> Tensor:  # [H, ...] -> [N, ...]
        return x.expand(batch, *x.shape).reshape(batch * heads, *x.shape[1:])

    def by_head(weights: list[Tensor]) -> list[Tensor]:  # [N, ...] -> [B, H, ...] per layer
        return [w.view(batch, heads, *w.shape[1:]) for w in weights]

    weights = [w.flatten(0, 1) for w in state.weights]
    momentum = [w.flatten(0, 1) for w in state.momentum]
    anchor = [w.flatten(0, 1) for w in state.anchor]
    rule = rule.map(per_row).by_row()
    priors = rule.prior or [None] * depth
    tokens, real = without_padding(tokens)
    ys = []
    own = False  # whether the state is of this call alone, and no gradient will ask for it
    for chunks in in_chunks(tokens, real, chunk_lengths(time, rule.chunk, position), rule):
        zs = []
        for q, k, offset, step, c in chunks:
            layers = [Layer(weights[i], momentum[i], priors[i], forgets_rows(i, depth)) for i in range(depth)]
            inputs, errors = surprise(anchor, layers[-1], k, offset, step, c, rule)
            position = rule.position(position, q.shape[1], depth)
            z = q
            after = []
            for i, (layer, to_layer, error) in enumerate(zip(layers, inputs, errors, strict=True)):
                z = retrieve(rule.features(z) if i else q, to_layer, error, layer, c)
                # in place the state stays in a processor's cache; within a chunk it is still needed, as the anchor
                after.append(advance(to_layer, error, layer, c, layer if own and not position else None))
            zs.append(z)
            weights, momentum = (list(part) for part in zip(*after, strict=True))
            own = not torch.is_grad_enabled()
            if not position:
                anchor = weights
        ys.append(rule.output(torch.cat(zs, 1), torch.cat([chunk[0] for chunk in chunks], 1)))
    y = torch.cat(ys, 1).view(batch, heads, time, width).transpose(1, 2)
    return y, FastState(by_head(weights), by_head(momentum), by_head(anchor), position)
