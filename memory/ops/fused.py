"""The two-layer memory on Triton kernels: forward and backward as PyTorch custom operators.

The sequence is worked through in segments of `SEGMENT` (chunk, sequence, head) triples: a scan leaves the segment's
chunk states in a buffer, and the reads of all its tokens use them. Only the float32 state at each segment's start is
kept for the backward, which runs the scan again; so buffers do not grow with the sequence.
"""

import torch
import triton
from torch import Tensor

from memory.ops import launch
from memory.ops.inputs import ScanInputs
from memory.ops.kernels.backward import (
    goal_bwd_kernel,
    read_again_kernel,
    read_bwd_kernel,
    state_bwd_kernel,
    write_bwd_kernel,
)
from memory.ops.kernels.forward import read_fwd_kernel, state_fwd_kernel
from memory.ops.launch import INTERPRET
from memory.state import FastState

TILE = 64  # hidden units of a program
SEGMENT = 2048  # enough programs to fill a GPU, few enough that buffers stay small
WARPS = {"state_fwd": 8, "read_fwd": 4, "read_again": 4, "read_bwd": 4, "state_bwd": 8, "write_bwd": 8}  # on an H100


def refusal(q: Tensor, state: FastState, log_keep: Tensor, chunk: int) -> str | None:
    """What about a call these kernels cannot serve, in words; None where they can."""
    hidden = state.weights[0].shape[-1]
    general = launch.refusal(q, state, log_keep, chunk)
    if general is None and hidden % TILE and not INTERPRET:
        return f"{hidden} hidden units"
    return general


def segment(rows: int) -> int:
    """Chunks of a segment."""
    return max(SEGMENT // rows, 4)


class _Launch(launch.Launch):
    """What all kernels of one call share, of a memory with `hidden` units."""

    def __init__(self, q: Tensor, gates: list[Tensor], hidden: int, chunk: int, mask: Tensor | None, **flags: bool):
        # the interpreter runs one program after another: none may wait for the next
        tile = hidden if INTERPRET else TILE
        flags |= {"E": hidden, "BE": tile, "FAST": not INTERPRET}
        super().__init__(q, gates, chunk, mask, segment(q.shape[0] * q.shape[2]), **flags)
        self.hidden, self.tiles = hidden, hidden // tile

    def meeting(self) -> tuple[Tensor, Tensor]:
        """Where the programs of one head add up their parts: see `sum_over_tiles`."""
        shared = self.new(self.rows, 2, self.tiles, self.chunk, self.width)
        return shared, torch.zeros(self.rows + 1, dtype=torch.int32, device=self.device)

    def advance(
        self, first: int, chunks: int, inputs: tuple, coefficients: tuple, slow: tuple, state: list, goals: list,
        anchor: list,
    ) -> tuple[list[Tensor], Tensor, Tensor]:  # fmt: skip
        """Scan a segment: `state` moves on in place; returns the chunks' start states, the MLP's outputs and errors."""
        saved = [self.new(self.rows, chunks, self.hidden, self.width, dtype=self.dtype) for _ in range(4)]
        z2 = self.new(self.rows, chunks, self.chunk, self.width)
        err = torch.empty_like(z2, dtype=self.dtype)
        self.launch(
            state_fwd_kernel, (self.tiles * self.rows,), *inputs, *coefficients, *slow, *state, *goals, *anchor, *saved,
            z2, err, *self.meeting(), self.time, self.heads, first, chunks, warps=WARPS["state_fwd"],
        )  # fmt: skip
        return saved, z2, err


def _tiled(weights: list[Tensor]) -> list[Tensor]:
    """Both layers' weights as the kernels hold them, fresh float32 [.., E, D]."""
    return [
        torch.empty_like(w, dtype=torch.float32, memory_format=torch.contiguous_format).copy_(w)
        for w in (weights[0].mT, weights[1])
    ]


@torch.library.custom_op("titans::scan", mutates_args=())
def _scan(
    q: Tensor, k: Tensor, v: Tensor, theta: Tensor, log_eta: Tensor, log_keep: Tensor,
    m1: Tensor, m2: Tensor, s1: Tensor, s2: Tensor,
    scale: Tensor | None, shift: Tensor | None, g1: Tensor | None, g2: Tensor | None, mask: Tensor | None,
    chunk: int, residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, the state [B, H, E, D] x 4 after it, the anchor x 2, the segments' start states [segments, 4, B*H, E, D]."""
    run = _Launch(q, [theta, log_eta, log_keep], m1.shape[-1], chunk, mask, NORM=scale is not None, RES=residual,
                  TARGET=g1 is not None)  # fmt: skip
    state = [*_tiled([m1, m2]), *_tiled([s1, s2])]
    goals = [None, None] if g1 is None else _tiled([g1, g2])
    anchor, y = [torch.empty_like(w) for w in state[:2]], torch.empty_like(q)
    starts = run.new(len(run.segments), 4, run.rows, run.hidden, run.width)
    for i, (first, chunks) in enumerate(run.segments):
        for part, tensor in zip(starts[i], state, strict=True):
            part.copy_(tensor.view(part.shape))
        weight, _, vec, m_last = run.coefficients(first, chunks)
        saved, _, err = run.advance(first, chunks, (k, v), (vec, m_last), (scale, shift), state, goals, anchor)
        run.launch(
            read_fwd_kernel, (chunks, run.rows), q, k, err, weight, vec, *saved, *goals, scale, shift, y, run.time,
            run.heads, first, chunks, warps=WARPS["read_fwd"],
        )  # fmt: skip
    return y, *state, *anchor, starts


@_scan.register_fake
def _(q, k, v, theta, log_eta, log_keep, m1, m2, s1, s2, scale, shift, g1, g2, mask, chunk, residual):
    batch, time, heads, width = q.shape
    state = q.new_empty(batch, heads, m1.shape[-1], width, dtype=torch.float32)
    segments = triton.cdiv(triton.cdiv(time, chunk), segment(batch * heads))
    starts = state.new_empty(segments, 4, batch * heads, *state.shape[2:])
    return torch.empty_like(q), *(torch.empty_like(state) for _ in range(6)), starts


@torch.library.custom_op("titans::scan_backward", mutates_args=())
def _scan_backward(
    dy: Tensor, dstate: list[Tensor], q: Tensor, k: Tensor, v: Tensor, theta: Tensor, log_eta: Tensor,
    log_keep: Tensor, starts: Tensor, scale: Tensor | None, shift: Tensor | None, g1: Tensor | None, g2: Tensor | None,
    mask: Tensor | None, chunk: int, residual: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of q, k, v, theta, log_eta, log_keep, M1, M2, S1, S2, scale, shift and both goals, in this order.

    dstate: gradients of M1, M2, S1, S2 [B, H, E, D] and of the anchor x 2.
    """
    run = _Launch(q, [theta, log_eta, log_keep], starts.shape[-2], chunk, mask, NORM=scale is not None, RES=residual,
                  TARGET=g1 is not None)  # fmt: skip
    goals = [None, None] if g1 is None else _tiled([g1, g2])
    dstate = [d.contiguous().clone() for d in dstate]
    dgoals = [None, None] if g1 is None else [torch.zeros_like(d) for d in dstate[:2]]
    dq, dk, dv = (torch.empty_like(q) for _ in range(3))
    dgates = [torch.empty_like(theta) for _ in range(3)]
    per_chunk = (run.rows, run.chunks, run.width)
    dread = [run.new(*per_chunk) for _ in range(2)] if scale is not None else [None, None]
    dwrite = [torch.zeros(run.rows, run.width, device=q.device) for _ in range(2)] if scale is not None else [None] * 2
    for i, (first, chunks) in reversed(list(enumerate(run.segments))):
        coefficients = run.coefficients(first, chunks, backward=True)
        weight, _, vec, m_last = coefficients
        state = [part.clone() for part in starts[i]]
        unused = [torch.empty_like(w) for w in state[:2]]  # the anchor, once more
        saved, z2, err = run.advance(first, chunks, (k, v), (vec, m_last), (scale, shift), state, goals, unused)
        rows, of_chunk = (run.rows, chunks), (run.chunk, run.width)
        dk_read, derr, dgoal = (run.new(*rows, *of_chunk) for _ in range(3))
        x, e1, slope, curve, dx, de1, xq, dzq1, dz1 = (
            run.new(*rows, run.hidden, run.chunk, dtype=run.dtype) for _ in range(9)
        )
        dzq2 = run.new(*rows, *of_chunk, dtype=run.dtype)
        dweight, dvec, dm_last = run.new(*rows, run.chunk, run.chunk), run.new(*rows, 4, run.chunk), run.new(*rows)
        dslow = [run.new(*rows, run.width) for _ in range(2)] if scale is not None else [None, None]
        dsaved = [torch.empty_like(part) for part in saved]
        shape, grid = (run.time, run.heads, first, chunks), (chunks, run.rows)
        dscores = torch.empty_like(weight)
        run.launch(
            read_again_kernel, grid, q, k, err, weight, vec, *saved, *goals, scale, dy, derr, x, e1, slope, curve, xq,
            dzq1, dzq2, dscores, dweight, dvec, *dslow, *shape, warps=WARPS["read_again"],
        )  # fmt: skip
        run.launch(
            read_bwd_kernel, grid, q, k, weight, vec, *saved, *goals, dy, x, e1, xq, dzq2, dscores, dq, dk_read, dx,
            de1, dzq1, dweight, dvec, *shape, warps=WARPS["read_bwd"],
        )  # fmt: skip
        run.launch(
            state_bwd_kernel, (run.tiles * run.rows,), q, k, v, z2, err, vec, m_last, scale, shift, saved[1], x, slope,
            curve, dx, de1, xq, dzq1, dzq2, derr, *dstate[4:], *dstate[:4], *dsaved, dz1, dgoal, dv, *dwrite,
            *run.meeting(), *shape, warps=WARPS["state_bwd"],
        )  # fmt: skip
        run.launch(
            write_bwd_kernel, grid, k, err, vec, *saved, *goals, *dsaved, x, e1, dz1, dgoal, dk_read, dk, dvec, dm_last,
            *shape, warps=WARPS["write_bwd"],
        )  # fmt: skip
        if g1 is not None:
            run.launch(
                goal_bwd_kernel, (run.tiles, run.rows), q, vec, *dsaved[:2], xq, dzq1, dzq2, *dgoals, *shape,
            )  # fmt: skip
        if scale is not None:
            for whole, part in zip(dread, dslow, strict=True):
                whole[:, first : first + chunks] = part
        run.gate_gradients(first, chunks, coefficients, (dweight, dvec, dm_last), dgates)
    grads = [dq, dk, dv, *dgates, dstate[0].mT.contiguous(), dstate[1], dstate[2].mT.contiguous(), dstate[3]]
    if scale is not None:
        both = [(read.sum(1) + write).view(run.batch, run.heads, -1) for read, write in zip(dread, dwrite, strict=True)]
        grads += [d.sum(0) for d in both]
    if g1 is not None:
        grads += [dgoals[0].sum(0).mT.contiguous(), dgoals[1].sum(0)]
    return grads


@_scan_backward.register_fake
def _(dy, dstate, q, k, v, theta, log_eta, log_keep, starts, scale, shift, g1, g2, mask, chunk, residual):
    w1, w2 = dstate[0].mT, dstate[1]
    like = [q, k, v, theta, theta, theta, w1, w2, w1, w2]
    like += [] if scale is None else [scale, shift]
    like += [] if g1 is None else [g1, g2]
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in like]


def _save(ctx, inputs, output) -> None:
    q, k, v, theta, log_eta, log_keep, *_, scale, shift, g1, g2, mask, chunk, residual = inputs
    ctx.save_for_backward(q, k, v, theta, log_eta, log_keep, output[-1], scale, shift, g1, g2, mask)
    ctx.options = (chunk, residual)
    ctx.mark_non_differentiable(output[-1])


def _backward(ctx, dy, *dstate):
    saved = ctx.saved_tensors
    grads = _scan_backward(dy.contiguous(), list(dstate[:-1]), *saved, *ctx.options)
    scale, g1 = saved[7], saved[9]
    grads, rest = grads[:10], grads[10:]
    dslow, dgoals = (rest[:2], rest[2:]) if scale is not None else ([None, None], rest)
    return *grads, *dslow, *(dgoals if g1 is not None else [None, None]), None, None, None


_scan.register_autograd(_backward, setup_context=_save)


def scan(x: ScanInputs, state: FastState) -> tuple[Tensor, FastState]:
    """See `memory.ops.memory_scan`; log_keep is [B, T, H, 1], and a chunk under way is finished by `chunked`."""
    if state.position % x.chunk:
        return launch.finish_chunk(scan, x, state)
    tokens = [t.contiguous() for t in (x.q, x.k, x.v, x.theta, x.log_eta, x.log_keep[..., 0])]
    mask = None if x.mask is None else x.mask.contiguous()
    goals = [None, None] if x.target is None else x.target
    y, m1, m2, s1, s2, a1, a2, _ = _scan(
        *tokens, *state.weights, *state.momentum, x.scale, x.shift, *goals, mask, x.chunk, x.residual
    )
    weights, position = [m1.mT, m2], state.position + x.q.shape[1]
    anchor = weights if position % x.chunk == 0 else [a1.mT, a2]
    return y, FastState(weights, [s1.mT, s2], anchor, position)
