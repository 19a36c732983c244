"""One token of a memory of one or two layers, for every sequence and head, in one launch: generation, no gradients.

Products of a matrix and a vector run at the speed of memory: they are float32, on the vector units, in tiles of BE
hidden units. Weights keep PyTorch's layout, [D, E] and [E, D], so that a state needs no copy between two tokens.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, library

from memory.ops.rule import EPS, Rule, Tokens
from memory.ops.serves import MOST_DEPTH
from memory.ops.triton.kernels import SIZES
from memory.ops.triton.kernels.common import error, gelu, gelu_1, standardise
from memory.ops.triton.launch import aligned, direct, run
from memory.state import FastState

WARPS = 4  # on an H100: 11.6 us a token against 13.6 with 8 and 4096
TILE = 2048  # weights: 16 registers of a thread, which holds six tiles


@triton.jit
def learn(w, s, A, P, W_o, S_o, at, of_head, gradient, theta, eta, keep, real, ends):
    """Momentum (eq. 10) and forgetting (13) of a tile: stores both at offsets `at` and returns the new weights.

    Where a row's chunk `ends`, the new weights are the anchor too.
    """
    s = eta * s - theta * gradient
    w = keep * w + real * s
    if P is not None:
        w += (1.0 - keep) * tl.load(P + of_head).to(tl.float32)
    tl.store(S_o + at, s)
    tl.store(W_o + at, w)
    if ends is not None:
        tl.store(A + at, w, mask=ends)
    return w


@triton.jit(do_not_specialize=SIZES)
def decode_kernel(
    q, k, v, theta, log_eta, log_keep, mask, W1, W2, S1, S2, A1, A2, P1, P2, scale, shift, ends,
    y, W1_o, W2_o, S1_o, S2_o, H,
    D: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, RES: tl.constexpr, EPS: tl.constexpr, OVER: tl.constexpr,
):  # fmt: skip
    """grid (B*H,): M' is M after it has learned (k, v) by the gradient at the anchor; y = M'(q).

    W, S, A: memory, momentum and anchor, [B*H, d_in, d_out] float32; P: the prior, [H, d_in, d_out].
    Without W1 the memory is W2 alone, whose E inputs are the head's features. OVER: W_o and S_o are W and S, and rows
    [B] whose chunk `ends` get M' as their anchor.
    """
    i_bh = tl.program_id(0).to(tl.int64)
    i_h = i_bh % H
    o, o_e = tl.arange(0, D), tl.arange(0, BE)
    token, w, of_head = i_bh * D, i_bh * D * E, i_h * D * E
    up, down = o[:, None] * E + o_e[None, :], o_e[:, None] * D + o[None, :]
    b_k, b_q = tl.load(k + token + o).to(tl.float32), tl.load(q + token + o).to(tl.float32)
    b_theta, keep = tl.load(theta + i_bh).to(tl.float32), tl.exp(tl.load(log_keep + i_bh).to(tl.float32))
    eta, real = tl.exp(tl.load(log_eta + i_bh).to(tl.float32)), 1.0
    if mask is not None:  # padding keeps everything, and does not add momentum to the memory once more
        real = (tl.load(mask + i_bh // H) != 0).to(tl.float32)
        b_theta, eta, keep = b_theta * real, eta * real + (1.0 - real), keep * real + (1.0 - real)
    z = tl.zeros([1, D], tl.float32)
    for e in range(E // BE):
        a2 = tl.load(A2 + w + e * BE * D + down)
        if A1 is not None:
            x = gelu(tl.sum(tl.load(A1 + w + e * BE + up) * b_k[:, None], 0), False)
        else:
            x = tl.load(k + token + e * BE + o_e).to(tl.float32)
        z += tl.sum(a2 * x[:, None], 0, keep_dims=True)
    b_ends = None
    if ends is not None:
        b_ends = tl.load(ends + i_bh // H) != 0
    wanted = tl.load(v + token + o).to(tl.float32)
    if RES:
        wanted -= b_k
    b_scale, b_shift = wanted[None, :], wanted[None, :]
    if scale is not None:
        b_scale = tl.load(scale + i_h * D + o).to(tl.float32)[None, :]
        b_shift = tl.load(shift + i_h * D + o).to(tl.float32)[None, :]
    err = error(z, wanted[None, :], b_scale, b_shift, scale is not None, D, EPS)
    z = tl.zeros([1, D], tl.float32)
    for e in range(E // BE):
        at1, at2 = e * BE + up, e * BE * D + down
        # all loads of a tile before the first sum, which the warps wait for
        w2, s2 = tl.load(W2 + w + at2), tl.load(S2 + w + at2)
        if A1 is not None:
            a1, a2 = tl.load(A1 + w + at1), tl.load(A2 + w + at2)
            w1, s1 = tl.load(W1 + w + at1), tl.load(S1 + w + at1)
            if OVER:  # threads may hold an element together, and all must have read it before one writes it
                tl.debug_barrier()
            x, slope = gelu_1(tl.sum(a1 * b_k[:, None], 0), False)
            e1 = (tl.sum(a2 * err, 1) * slope)[None, :]
            w1 = learn(
                w1, s1, A1 + w, P1, W1_o + w, S1_o + w, at1, of_head + at1, b_k[:, None] * e1, b_theta, eta, keep, real,
                b_ends,
            )  # fmt: skip
            xq = gelu(tl.sum(w1 * b_q[:, None], 0), False)
        else:
            x = tl.load(k + token + e * BE + o_e).to(tl.float32)
            xq = tl.load(q + token + e * BE + o_e).to(tl.float32)
            if OVER:
                tl.debug_barrier()
        w2 = learn(
            w2, s2, A2 + w, P2, W2_o + w, S2_o + w, at2, of_head + at2, x[:, None] * err, b_theta, eta, keep, real,
            b_ends,
        )  # fmt: skip
        z += tl.sum(w2 * xq[:, None], 0, keep_dims=True)
    if scale is not None:
        unit, _ = standardise(z, D, EPS)
        z = unit * b_scale + b_shift
    if RES:
        z += b_q[None, :]
    tl.store(y + token + o[None, :], z.to(y.dtype.element_ty))


def _launch(
    tokens: list[Tensor], mask: Tensor | None, weights: list[Tensor], momentum: list[Tensor], anchor: list[Tensor],
    norm: list[Tensor], prior: list[Tensor], residual: bool,
) -> list[Tensor]:  # fmt: skip
    """y, then the new weights and the new momentum per layer; an empty prior is zero, an empty norm no LayerNorm."""
    old = [[aligned(w) for w in part] for part in (weights, momentum, anchor)]
    new = [[torch.empty_like(w) for w in part] for part in (weights, momentum)]
    y = _run(tokens, mask, old, norm, prior, residual, None, new)
    return [y, *new[0], *new[1]]


def _run(
    tokens: list[Tensor], mask: Tensor | None, old: list[list[Tensor]], norm: list[Tensor], prior: list[Tensor],
    residual: bool, ends: Tensor | None, new: list[list[Tensor]] | None,
) -> Tensor:  # fmt: skip
    """y; weights and momentum go to `new`, or where that is None to where they are, and rows' `ends` to the anchor."""
    q, _, v, *_ = tokens
    batch, _, heads, width = q.shape
    depth = len(old[0])
    units = old[0][-1].shape[-2]
    missing = [None] * (MOST_DEPTH - depth)
    y = torch.empty_like(v)
    inputs = [aligned(x) for x in (*tokens, mask)]
    states = []
    for part in (*old, [aligned(w) for w in prior] or [None] * depth):
        states += [*missing, *part]
    slow = [aligned(x) for x in norm] or [None, None]
    written = []
    for part in new or old[:2]:
        written += [*missing, *part]
    args = (*inputs, *states, *slow, ends, y, *written, heads)
    constants = {"D": width, "E": units, "BE": min(units & -units, TILE // width), "RES": residual, "EPS": EPS}
    constants["OVER"] = new is None
    call = tuple(getattr(arg, "dtype", None) for arg in args)
    run(decode_kernel, (batch * heads,), args, constants, call, num_warps=WARPS, num_stages=1)
    return y


_op = library.custom_op("titans::decode", _launch, mutates_args=())


@_op.register_fake
def _(tokens, mask, weights, momentum, anchor, norm, prior, residual):
    return [t.new_empty(t.shape) for t in (tokens[2], *weights, *momentum)]


def decode(tokens: Tokens, state: FastState, rule: Rule) -> tuple[Tensor, FastState]:
    """See `memory.ops.memory_scan`, for calls that `serves.decodes` accepts; inputs of any dtype but float64."""
    # all are contiguous already but for a state that another kernel computed
    weights = [w.contiguous() for w in state.weights]
    momentum = [w.contiguous() for w in state.momentum]
    anchor = [w.contiguous() for w in state.anchor]
    prior = [w.contiguous() for w in rule.prior or ()]
    norm = list(rule.norm or ())
    step = direct(_op, _launch)
    y, *new = step(list(tokens.sequences), tokens.mask, weights, momentum, anchor, norm, prior, rule.residual)
    weights = new[: len(weights)]
    momentum = new[len(weights) :]
    position = rule.position(state.position, 1, len(state.weights))
    return y, FastState(weights, momentum, anchor if position else weights, position)


def decode_in_place(tokens: Tokens, state: FastState, rule: Rule, ends: Tensor | None) -> Tensor:
    """See `memory.ops.memory_step`; rows that `ends` [B] names get the new memory as their anchor.

    Raises:
        ValueError: the kernel would write to other places than those of the state.
    """
    if not all(w.is_contiguous() for part in (state.weights, state.momentum, state.anchor) for w in part):
        raise ValueError("a step overwrites contiguous tensors only; take rows by their numbers, as t[[0, 2]]")
    prior = [w.contiguous() for w in rule.prior or ()]
    old = [state.weights, state.momentum, state.anchor]
    return _run(list(tokens.sequences), None, old, list(rule.norm or ()), prior, rule.residual, ends, None)
