"""The two-layer memory on Triton kernels: forward and backward as PyTorch custom operators.

The sequence is worked through in segments (`portable.segments`): a scan leaves the segment's chunk states in a buffer,
and the reads of all its tokens use them. Only the float32 state at each segment's start is kept for the backward, which
runs the scan again; so buffers do not grow with the sequence.
"""

import torch
from torch import Tensor, library

from memory.ops.inputs import ScanInputs
from memory.ops.triton import launch, mlp_hopper
from memory.ops.triton.launch import INTERPRET
from memory.ops.triton.mlp import TILE, Portable, segments
from memory.state import FastState


def refusal(q: Tensor, state: FastState, log_keep: Tensor, chunk: int) -> str | None:
    """What about a call these kernels cannot serve, in words; None where they can."""
    width, hidden = state.weights[0].shape[-2:]
    general = launch.refusal(q, state, log_keep, chunk)
    if general is not None or INTERPRET:
        return general
    if width == 32 and chunk > 32:  # Triton 3.6 compiles read_bwd_kernel wrongly: wrong results, or a fault
        return f"a chunk of {chunk} with a head width of {width} and depth 2"
    return f"{hidden} hidden units" if hidden % TILE else None


def _run(
    tokens: list[Tensor], gates: list[Tensor], slow: list[Tensor | None], priors: list[Tensor | None], hidden: int,
    chunk: int, residual: bool, mask: Tensor | None,
) -> Portable:  # fmt: skip
    """What runs the kernels of a call."""
    tokens, gates, slow = ([launch.aligned(x) for x in part] for part in (tokens, gates, slow))
    priors, mask = priors if priors[0] is None else _tiled(priors), launch.aligned(mask)
    kernels = mlp_hopper.Hopper if mlp_hopper.serves(tokens[0], hidden, chunk) else Portable
    return kernels(tokens, gates, slow, priors, hidden, chunk, residual, mask)


def _tiled(weights: list[Tensor]) -> list[Tensor]:
    """Both layers' weights as the kernels hold them, fresh float32 [.., E, D]."""
    return [launch.own(weights[0].mT), launch.own(weights[1])]


@library.custom_op("titans::scan", mutates_args=())
def _scan(
    q: Tensor, k: Tensor, v: Tensor, theta: Tensor, log_eta: Tensor, log_keep: Tensor,
    m1: Tensor, m2: Tensor, s1: Tensor, s2: Tensor,
    scale: Tensor | None, shift: Tensor | None, p1: Tensor | None, p2: Tensor | None, mask: Tensor | None,
    chunk: int, residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, the state [B, H, E, D] x 4 after it, the anchor x 2, the segments' start states [segments, 4, B, H, E, D].

    The anchor is empty, [0], where the last chunk is complete: the state itself is one.
    """
    run = _run([q, k, v], [theta, log_eta, log_keep], [scale, shift], [p1, p2], m1.shape[-1], chunk, residual, mask)
    state, y = [*_tiled([m1, m2]), *_tiled([s1, s2])], q.new_empty(q.shape)
    starts = run.forward(state, y)
    anchor = [starts[-1, i].clone() if run.time % chunk else run.new(0) for i in range(2)]
    return y, *state, *anchor, starts


@_scan.register_fake
def _(q, k, v, theta, log_eta, log_keep, m1, m2, s1, s2, scale, shift, p1, p2, mask, chunk, residual):
    batch, time, heads, width = q.shape
    state = q.new_empty(batch, heads, m1.shape[-1], width, dtype=torch.float32)
    starts = state.new_empty(segments(batch * heads, m1.shape[-1]).count(time, chunk), 4, *state.shape)
    anchor = [state.new_empty(state.shape if time % chunk else 0) for _ in range(2)]
    return q.new_empty(q.shape), *(torch.empty_like(state) for _ in range(4)), *anchor, starts


@library.custom_op("titans::scan_backward", mutates_args=())
def _scan_backward(
    dy: Tensor, dstate: list[Tensor], q: Tensor, k: Tensor, v: Tensor, theta: Tensor, log_eta: Tensor,
    log_keep: Tensor, starts: Tensor, scale: Tensor | None, shift: Tensor | None, p1: Tensor | None, p2: Tensor | None,
    mask: Tensor | None, chunk: int, residual: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of q, k, v, theta, log_eta, log_keep, M1, M2, S1, S2, scale, shift and both priors, in this order.

    dstate: gradients of M1, M2, S1, S2 [B, H, E, D] and of the anchor x 2, as `_scan` returns them.
    """
    hidden = starts.shape[-2]
    run = _run([q, k, v], [theta, log_eta, log_keep], [scale, shift], [p1, p2], hidden, chunk, residual, mask)
    *dstate, da1, da2 = dstate
    dstate = [launch.own(d) for d in dstate]
    dy, grads = launch.aligned(dy), run.new_grads()
    run.backward(starts, dy, dstate, [da1, da2], grads)
    out = [grads.q, grads.k, grads.v, *grads.gates]
    out += [dstate[0].mT.contiguous(), dstate[1], dstate[2].mT.contiguous(), dstate[3]]
    if scale is not None:
        both = grads.read_slow.sum(2) + grads.slow.sum(2)
        out += [d.view(run.batch, run.heads, -1).sum(0) for d in both]
    if p1 is not None:
        by_head = [d.view(run.batch, run.heads, hidden, -1).sum(0) for d in grads.priors]
        out += [by_head[0].mT.contiguous(), by_head[1]]
    return out


@_scan_backward.register_fake
def _(dy, dstate, q, k, v, theta, log_eta, log_keep, starts, scale, shift, p1, p2, mask, chunk, residual):
    w1, w2 = dstate[0].mT, dstate[1]
    like = [q, k, v, theta, theta, theta, w1, w2, w1, w2]
    like += [] if scale is None else [scale, shift]
    like += [] if p1 is None else [p1, p2]
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in like]


def _save(ctx, inputs, output) -> None:
    q, k, v, theta, log_eta, log_keep, *_, scale, shift, p1, p2, mask, chunk, residual = inputs
    ctx.save_for_backward(q, k, v, theta, log_eta, log_keep, output[-1], scale, shift, p1, p2, mask)
    ctx.options, ctx.shapes = (chunk, residual), [x.shape for x in output[1:-1]]
    ctx.mark_non_differentiable(output[-1])
    ctx.set_materialize_grads(False)  # or a backward fills one for all the start states


def _backward(ctx, dy, *dstate):
    saved = ctx.saved_tensors
    q, starts = saved[0], saved[6]
    dy = q.new_zeros(q.shape) if dy is None else dy
    dstate = [starts.new_zeros(s) if d is None else d for d, s in zip(dstate[:-1], ctx.shapes, strict=True)]
    grads = _scan_backward(dy, dstate, *saved, *ctx.options)
    scale, p1 = saved[7], saved[9]
    grads, rest = grads[:10], grads[10:]
    dslow, dpriors = (rest[:2], rest[2:]) if scale is not None else ([None, None], rest)
    return *grads, *dslow, *(dpriors if p1 is not None else [None, None]), None, None, None


_scan.register_autograd(_backward, setup_context=_save)


def scan(x: ScanInputs, state: FastState) -> tuple[Tensor, FastState]:
    """See `memory.ops.memory_scan`; log_keep is [B, T, H, 1], and a chunk under way is finished by `chunked`."""
    if state.position:
        return launch.finish_chunk(scan, x, state)
    tokens = (x.q, x.k, x.v, x.theta, x.log_eta, x.log_keep[..., 0])
    priors = [None, None] if x.prior is None else x.prior
    y, m1, m2, s1, s2, a1, a2, _ = _scan(
        *tokens, *state.weights, *state.momentum, x.scale, x.shift, *priors, x.mask, x.chunk, x.residual
    )
    weights, position = [m1.mT, m2], x.q.shape[1] % x.chunk
    anchor = [a1.mT, a2] if position else weights
    return y, FastState(weights, [s1.mT, s2], anchor, position)
