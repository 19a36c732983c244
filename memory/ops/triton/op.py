"""The recurrence on Triton kernels as one PyTorch operator, forward and backward, for memories of one and two layers.

A scan stores the chunk states of a segment in a buffer, and the reads of all its tokens use them. Only the float32
state at the start of each segment but the first is saved for the backward, which runs the scan again.
"""

import torch
from torch import Tensor, library

from memory.ops import chunked
from memory.ops.rule import Rule, Tokens
from memory.ops.serves import INTERPRET, is_hopper, uses_gluon
from memory.ops.triton import linear, mlp, mlp_hopper
from memory.ops.triton.launch import aligned
from memory.ops.triton.plan import Call, Segments, carries, held, parts_of, returned
from memory.state import FastState


def _segments(state: list[Tensor], rows: int, momentum: bool) -> Segments:
    """How a sequence of so many sequences times heads is cut; `state` is as the operator's."""
    hidden, width = state[len(state) // 2 - 1].shape[-2:]
    return linear.segments(rows, width, momentum) if len(state) == 2 else mlp.segments(rows, hidden)


def _plan(call: Call, depth: int, hidden: int, backward: bool) -> linear.Linear | mlp.Portable:
    """What runs the kernels of a call."""
    if depth == 1:
        return (linear.Exact if call.exact else linear.Anchored)(call, backward)
    q = call.tokens[0]
    on_hopper = is_hopper(q.device) and not INTERPRET
    gluon = uses_gluon(q.shape[-1], hidden, call.chunk, q.dtype, on_hopper)
    return (mlp_hopper.Hopper if gluon else mlp.Portable)(call, hidden)


@library.custom_op("titans::scan", mutates_args=())
def _scan(
    tokens: list[Tensor], state: list[Tensor], norm: list[Tensor], prior: list[Tensor], mask: Tensor | None,
    chunk: int, residual: bool, exact: bool, momentum: bool,
) -> list[Tensor]:  # fmt: skip
    """y, then the state behind it, the anchor, and the states between segments [segments - 1, parts, B, H, E, D].

    State and anchor are as kernels hold them, [B, H, E, D] per layer. The anchor is empty, [0], where there is none
    but the state itself: where the last chunk is complete or errors are exact.

    Args:
        tokens: see `plan.Call`, as for all that is not here.
        state: weights and then momentum, [B, H, d_in, d_out] per layer; [1, H, d_in, d_out] for all sequences.
    """
    depth = len(state) // 2
    hidden = state[depth - 1].shape[-2]
    call = Call(tokens, norm, prior, mask, chunk, residual, exact, momentum)
    plan = _plan(call, depth, hidden, backward=False)
    y = torch.empty_like(plan.q)
    state = as_held(state)
    shape = (plan.batch, *state[0].shape[1:])
    after = [plan.new(*shape) for _ in state]
    incomplete = plan.time % chunk and not exact
    anchor = [plan.new(*shape) if incomplete else None for _ in range(depth)]
    starts = plan.forward(state, after, anchor, y)
    anchor = [plan.new(0) if a is None else a for a in anchor]
    return [y, *after, *anchor, starts]


@_scan.register_fake
def _(tokens, state, norm, prior, mask, chunk, residual, exact, momentum):
    q = tokens[0]
    batch, time, heads, width = q.shape
    depth = len(state) // 2
    shape = (batch, heads, state[depth - 1].shape[-2], width)
    after = [q.new_empty(shape, dtype=torch.float32) for _ in state]
    anchor_shape = shape if time % chunk and not exact else (0,)
    anchor = [q.new_empty(anchor_shape, dtype=torch.float32) for _ in range(depth)]
    carried = carries(exact, momentum)
    count = _segments(state, batch * heads, carried).count(time, chunk)
    parts = parts_of(len(state), carried)
    starts = q.new_empty((count - 1, parts, *shape), dtype=torch.float32)
    return [q.new_empty(q.shape), *after, *anchor, starts]


@library.custom_op("titans::scan_backward", mutates_args=())
def _scan_backward(
    dy: Tensor, dstate: list[Tensor], danchor: list[Tensor], starts: Tensor, tokens: list[Tensor], state: list[Tensor],
    norm: list[Tensor], prior: list[Tensor], mask: Tensor | None, chunk: int, residual: bool, exact: bool,
    momentum: bool, of_weights: bool, of_momentum: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of tokens, weights and momentum where wanted, norm and prior, from those of y, state and anchor.

    Those of state and anchor are empty where nothing is learned from them. Gradients of state and prior are as kernels
    hold them.
    """
    depth = len(state) // 2
    call = Call(tokens, norm, prior, mask, chunk, residual, exact, momentum)
    plan = _plan(call, depth, state[depth - 1].shape[-2], backward=True)
    state = as_held(state)
    wanted = [of_weights] * depth + [of_momentum] * depth
    dstate = [aligned(d) for d in dstate]
    danchor = [aligned(d) for d in danchor]
    grads = plan.backward(state, starts, dy, dstate, danchor, wanted)
    dstate = grads.state
    if len(state[0]) != plan.batch:  # one row for all sequences, of which there may be none
        dstate = [d.sum(0, keepdim=True) for d in dstate]
    return [*grads.tokens, *dstate, *grads.norm, *grads.prior]


@_scan_backward.register_fake
def _(
    dy, dstate, danchor, starts, tokens, state, norm, prior, mask, chunk, residual, exact, momentum, of_weights,
    of_momentum,
):  # fmt: skip
    depth = len(state) // 2
    dstate = returned(state[:depth]) * of_weights + returned(state[depth:]) * of_momentum
    like = (*tokens, *dstate, *norm, *(returned(prior) if prior else []))
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in like]


def as_held(state: list[Tensor]) -> list[Tensor]:
    """Weights and momentum as kernels hold them."""
    depth = len(state) // 2
    return held(state[:depth]) + held(state[depth:])


def _save(ctx, inputs, output) -> None:
    tokens, state, norm, prior, mask, *ctx.options = inputs
    ctx.lengths = [len(part) for part in (tokens, state, norm, prior)]
    ctx.shapes = [x.shape for x in output[1:-1]]
    ctx.save_for_backward(output[-1], mask, *tokens, *state, *norm, *prior)
    ctx.mark_non_differentiable(output[-1])
    ctx.set_materialize_grads(False)  # or a backward fills one for all the start states


def _parts(tensors: list[Tensor], lengths: list[int]) -> list[list[Tensor]]:
    """A list cut into lists of these lengths."""
    rest = iter(tensors)
    return [[next(rest) for _ in range(length)] for length in lengths]


def _complete(grads: list[Tensor | None], shapes: list[torch.Size], like: Tensor) -> list[Tensor]:
    """The gradients with zeros for missing ones; none at all where all are missing, which takes no zeros."""
    if all(d is None for d in grads):
        return []
    return [like.new_zeros(shape) if d is None else d for d, shape in zip(grads, shapes, strict=True)]


def _backward(ctx, grads):
    starts, mask, *saved = ctx.saved_tensors
    of_tokens, of_state, of_norm, of_prior = ctx.lengths
    tokens, state, norm, prior = _parts(saved, ctx.lengths)
    depth = of_state // 2
    dy, *dstate, _ = grads
    dy = tokens[0].new_zeros(tokens[0].shape) if dy is None else dy
    danchor = _complete(dstate[of_state:], ctx.shapes[of_state:], starts)
    dstate = _complete(dstate[:of_state], ctx.shapes[:of_state], starts)
    needs = ctx.needs_input_grad[1]
    wanted = [any(needs[:depth]), any(needs[depth:])]
    out = _scan_backward(dy, dstate, danchor, starts, tokens, state, norm, prior, mask, *ctx.options, *wanted)
    of_layers = [depth * want for want in wanted]
    dtokens, *of_parts, dnorm, dprior = _parts(out, [of_tokens, *of_layers, of_norm, of_prior])
    dstate = [d for part in of_parts for d in (returned(part) if part else [None] * depth)]
    dprior = returned(dprior) if dprior else []
    return dtokens, dstate, dnorm, dprior, None, *(None for _ in ctx.options)


_scan.register_autograd(_backward, setup_context=_save)


def scan(tokens: Tokens, state: FastState, rule: Rule) -> tuple[Tensor, FastState]:
    """See `memory.ops.memory_scan`; forgetting is per head, and a chunk under way is finished by `chunked`."""
    if state.position:
        return _finish_chunk(tokens, state, rule)
    q = tokens.q
    depth = len(state.weights)
    chunk = linear.tile(rule.chunk, q.shape[-1]) if rule.exact else rule.chunk
    *others, log_keep = tokens.sequences
    sequences = [*others, log_keep.squeeze(-1)]  # an index would have zeros filled in its backward
    norm = list(rule.norm or ())
    prior = list(rule.prior or ())
    whole = [*state.weights, *state.momentum]
    switches = rule.residual, rule.exact, rule.momentum
    y, *after, _ = _scan(sequences, whole, norm, prior, tokens.mask, chunk, *switches)
    weights, momentum, anchor = _parts(after, [depth] * 3)
    weights = returned(weights)
    position = rule.position(0, q.shape[1], depth)
    anchor = returned(anchor) if position else weights
    return y, FastState(weights, returned(momentum), anchor, position)


def _finish_chunk(tokens: Tokens, state: FastState, rule: Rule) -> tuple[Tensor, FastState]:
    """`scan` for a state in the middle of a chunk, which `chunked` first brings to the chunk's end."""
    q = tokens.q
    time = q.shape[1]
    first = min(rule.chunk - state.position, time)
    head = tokens.between(0, first).to(torch.float32, tokens.theta.dtype)
    y, state = chunked.scan(head, state, rule)
    y = y.to(q.dtype)
    if first == time:
        return y, state
    rest, state = scan(tokens.between(first, time), state, rule)
    return torch.cat([y, rest], 1), state
