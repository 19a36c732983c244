"""The recurrence on Triton kernels as one PyTorch operator, forward and backward, for memories of one and two layers.

A scan stores the chunk states of a segment in a buffer, and the reads of all its tokens use them. Only the float32
state at each segment's start is saved for the backward, which runs the scan again.
"""

import torch
from torch import Tensor, library

from memory.ops import chunked
from memory.ops.rule import Rule, Tokens
from memory.ops.serves import INTERPRET, is_hopper, uses_gluon
from memory.ops.triton import linear, mlp, mlp_hopper
from memory.ops.triton.launch import own
from memory.ops.triton.plan import Call, Segments, held, returned
from memory.state import FastState


def _segments(state: list[Tensor], rows: int) -> Segments:
    """How a sequence of so many sequences times heads is cut; `state` is as the operator's."""
    hidden, width = state[len(state) // 2 - 1].shape[-2:]
    return linear.segments(rows, width) if len(state) == 2 else mlp.segments(rows, hidden)


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
    chunk: int, residual: bool, exact: bool,
) -> list[Tensor]:  # fmt: skip
    """y, then the state behind it, the anchor, and the segments' start states [segments, 2 depth, B, H, E, D].

    State and anchor are as kernels hold them, [B, H, E, D] per layer. The anchor is empty, [0], where there is none
    but the state itself: where the last chunk is complete or errors are exact.

    Args:
        tokens: see `plan.Call`, as for all that is not here.
        state: weights and then momentum, [B, H, d_in, d_out] per layer.
    """
    depth = len(state) // 2
    hidden = state[depth - 1].shape[-2]
    call = Call(tokens, norm, prior, mask, chunk, residual, exact)
    plan = _plan(call, depth, hidden, backward=False)
    after = held(state[:depth]) + held(state[depth:])
    y = torch.empty_like(plan.q)
    starts = plan.forward(after, y)
    incomplete = plan.time % chunk and not exact
    anchor = [starts[-1, i].clone() if incomplete else plan.new(0) for i in range(depth)]
    return [y, *after, *anchor, starts]


@_scan.register_fake
def _(tokens, state, norm, prior, mask, chunk, residual, exact):
    q = tokens[0]
    batch, time, heads, width = q.shape
    depth = len(state) // 2
    shape = (batch, heads, state[depth - 1].shape[-2], width)
    after = [q.new_empty(shape, dtype=torch.float32) for _ in state]
    anchor_shape = shape if time % chunk and not exact else (0,)
    anchor = [q.new_empty(anchor_shape, dtype=torch.float32) for _ in range(depth)]
    count = _segments(state, batch * heads).count(time, chunk)
    starts = q.new_empty((count, len(state), *shape), dtype=torch.float32)
    return [q.new_empty(q.shape), *after, *anchor, starts]


@library.custom_op("titans::scan_backward", mutates_args=())
def _scan_backward(
    dy: Tensor, dstate: list[Tensor], danchor: list[Tensor], starts: Tensor, tokens: list[Tensor], norm: list[Tensor],
    prior: list[Tensor], mask: Tensor | None, chunk: int, residual: bool, exact: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of all tensors of `_scan` but the mask, in their order, from those of y, state and anchor."""
    depth = len(danchor)
    call = Call(tokens, norm, prior, mask, chunk, residual, exact)
    plan = _plan(call, depth, starts.shape[-2], backward=True)
    dstate = [own(d) for d in dstate]
    grads = plan.backward(starts, dy, dstate, danchor)
    dstate = returned(dstate[:depth]) + returned(dstate[depth:])
    dprior = returned(grads.prior) if prior else []
    out = (*grads.tokens, *dstate, *grads.norm, *dprior)
    return [d.contiguous() for d in out]


@_scan_backward.register_fake
def _(dy, dstate, danchor, starts, tokens, norm, prior, mask, chunk, residual, exact):
    depth = len(danchor)
    state = returned(dstate[:depth]) + returned(dstate[depth:])
    like = (*tokens, *state, *norm, *prior)
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in like]


def _save(ctx, inputs, output) -> None:
    tokens, state, norm, prior, mask, *ctx.options = inputs
    ctx.lengths = [len(part) for part in (tokens, state, norm, prior)]
    ctx.shapes = [x.shape for x in output[1:-1]]
    ctx.save_for_backward(output[-1], mask, *tokens, *norm, *prior)
    ctx.mark_non_differentiable(output[-1])
    ctx.set_materialize_grads(False)  # or a backward fills one for all the start states


def _parts(tensors: list[Tensor], lengths: list[int]) -> list[list[Tensor]]:
    """A list cut into lists of these lengths."""
    rest = iter(tensors)
    return [[next(rest) for _ in range(length)] for length in lengths]


def _backward(ctx, grads):
    starts, mask, *saved = ctx.saved_tensors
    of_tokens, of_state, of_norm, of_prior = ctx.lengths
    tokens, norm, prior = _parts(saved, [of_tokens, of_norm, of_prior])
    dy, *dstate, _ = grads
    dy = tokens[0].new_zeros(tokens[0].shape) if dy is None else dy
    with_shapes = zip(dstate, ctx.shapes, strict=True)
    dstate = [starts.new_zeros(shape) if d is None else d for d, shape in with_shapes]
    saved = (starts, tokens, norm, prior, mask)
    out = _scan_backward(dy, dstate[:of_state], dstate[of_state:], *saved, *ctx.options)
    return *_parts(out, ctx.lengths), None, *(None for _ in ctx.options)


_scan.register_autograd(_backward, setup_context=_save)


def scan(tokens: Tokens, state: FastState, rule: Rule) -> tuple[Tensor, FastState]:
    """See `memory.ops.memory_scan`; forgetting is per head, and a chunk under way is finished by `chunked`."""
    if state.position:
        return _finish_chunk(tokens, state, rule)
    q = tokens.q
    depth = len(state.weights)
    chunk = linear.tile(rule.chunk, q.shape[-1]) if rule.exact else rule.chunk
    *others, log_keep = tokens.sequences
    sequences = [*others, log_keep[..., 0]]
    norm = list(rule.norm or ())
    prior = list(rule.prior or ())
    whole = [*state.weights, *state.momentum]
    y, *after, _ = _scan(sequences, whole, norm, prior, tokens.mask, chunk, rule.residual, rule.exact)
    weights, momentum, anchor = (returned(part) for part in _parts(after, [depth] * 3))
    position = rule.position(0, q.shape[1], len(state.weights))
    return y, FastState(weights, momentum, anchor if position else weights, position)


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
