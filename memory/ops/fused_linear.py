"""The linear memory, one weight matrix a head, on Triton kernels: forward and backward as PyTorch custom operators.

As in `fused`, the sequence is worked through in segments, and only the float32 state at each segment's start is kept
for the backward, which runs the scan again. A chunk's state is small here: common sizes take one or two segments.
"""

import torch
from torch import Tensor, library

from memory.ops import launch
from memory.ops.inputs import ScanInputs
from memory.ops.kernels.linear import linear_read_kernel, linear_scan_kernel
from memory.ops.kernels.linear_backward import (
    linear_goal_bwd_kernel,
    linear_read_bwd_kernel,
    linear_scan_bwd_kernel,
    linear_write_bwd_kernel,
)
from memory.state import FastState

SEGMENT = 4096  # (chunk, sequence, head) triples of width 64: 0.4 GiB of buffers in the backward at chunk 64
# of head widths up to 64 and above: warps of a program, and how many chunks ahead each scan loads what it needs
WARPS, STAGES, STAGES_BWD = (4, 8), (3, 1), (2, 1)

refusal = launch.refusal


def segments(rows: int, width: int) -> launch.Segments:
    return launch.Segments(max(SEGMENT // max(rows * max(width // 64, 1), 1), 4))


class _Launch(launch.Launch):
    """What all kernels of one call share."""

    def __init__(self, q: Tensor, gates: list[Tensor], chunk: int, mask: Tensor | None, **flags: bool):
        batch, _, heads, width = q.shape
        super().__init__(q, gates, chunk, mask, segments(batch * heads, width), **flags)
        wide = self.width > 64
        self.warps, self.stages, self.stages_bwd = WARPS[wide], STAGES[wide], STAGES_BWD[wide]

    def left_by_scan(self, backward: bool) -> list[Tensor | None]:
        """Room for what `linear_scan_kernel` leaves of each chunk: states, errors, and for the backward LayerNorm."""
        chunks = (self.rows, self.longest)
        saved = [self.new(*chunks, self.width, self.width, dtype=self.dtype) for _ in range(2)]
        err = self.new(*chunks, self.chunk, self.width, dtype=self.dtype)
        if not (backward and self.flags["NORM"]):
            return [*saved, err, None, None]
        return [*saved, err, torch.empty_like(err), self.new(*chunks, 2, self.chunk)]

    def scan(
        self, first: int, chunks: int, tokens: tuple[Tensor, ...], slow: tuple[Tensor | None, ...],
        goal: Tensor | None, state: list[Tensor] | Tensor, start: Tensor | None, left: list[Tensor | None],
    ) -> None:  # fmt: skip
        """tokens: k, v, vec, m_last. `state` is kept in `start` and moves on, if there is one."""
        self.launch(
            linear_scan_kernel, (self.rows,), *tokens, *slow, *state, start, goal, *left, self.time, self.heads, first,
            chunks, warps=self.warps, stages=self.stages,
        )  # fmt: skip


@library.custom_op("titans::linear_scan", mutates_args=())
def _scan(
    q: Tensor, k: Tensor, v: Tensor, theta: Tensor, log_eta: Tensor, log_keep: Tensor, m: Tensor, s: Tensor,
    scale: Tensor | None, shift: Tensor | None, goal: Tensor | None, mask: Tensor | None, chunk: int, residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, M and S [B, H, D, D] after it, the anchor as in `fused`, segments' start states [segments, 2, B, H, D, D]."""
    q, k, v, theta, log_eta, log_keep, scale, shift, goal, mask = map(
        launch.aligned, (q, k, v, theta, log_eta, log_keep, scale, shift, goal, mask)
    )
    run = _Launch(q, [theta, log_eta, log_keep], chunk, mask, NORM=scale is not None, RES=residual,
                  TARGET=goal is not None)  # fmt: skip
    starts = run.new(len(run.segments), 2, *m.shape)
    state, y = [launch.own(m), launch.own(s)], torch.empty_like(q)
    coefficients, left = run.new_coefficients(backward=False), run.left_by_scan(backward=False)
    (weight, _, vec, m_last), (*saved, err, _, _) = coefficients, left
    for i, (first, chunks) in enumerate(run.segments):
        run.find_coefficients(first, chunks, coefficients)
        run.scan(first, chunks, (k, v, vec, m_last), (scale, shift), goal, state, starts[i], left)
        run.launch(
            linear_read_kernel, (chunks, run.rows), q, k, err, weight, vec, *saved, goal, scale, shift, y, run.time,
            run.heads, first, chunks, warps=run.warps,
        )  # fmt: skip
    anchor = starts[-1, 0].clone() if run.time % chunk else run.new(0)
    return y, *state, anchor, starts


@_scan.register_fake
def _(q, k, v, theta, log_eta, log_keep, m, s, scale, shift, goal, mask, chunk, residual):
    batch, time, heads, width = q.shape
    state = q.new_empty(m.shape, dtype=torch.float32)
    starts = state.new_empty(segments(batch * heads, width).count(time, chunk), 2, *m.shape)
    anchor = state.new_empty(state.shape if time % chunk else 0)
    return q.new_empty(q.shape), *(torch.empty_like(state) for _ in range(2)), anchor, starts


@library.custom_op("titans::linear_scan_backward", mutates_args=())
def _scan_backward(
    dy: Tensor, dm: Tensor, ds: Tensor, danchor: Tensor, q: Tensor, k: Tensor, v: Tensor, theta: Tensor,
    log_eta: Tensor, log_keep: Tensor, starts: Tensor, scale: Tensor | None, shift: Tensor | None, goal: Tensor | None,
    mask: Tensor | None, chunk: int, residual: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of q, k, v, theta, log_eta, log_keep, M, S, scale, shift and the goal, in this order.

    dm, ds, danchor: gradients of M, S and the anchor behind the last token, [B, H, D, D].
    """
    norm = scale is not None
    dy, q, k, v, theta, log_eta, log_keep, scale, shift, goal, mask = map(
        launch.aligned, (dy, q, k, v, theta, log_eta, log_keep, scale, shift, goal, mask)
    )
    run = _Launch(q, [theta, log_eta, log_keep], chunk, mask, NORM=norm, RES=residual, TARGET=goal is not None)
    dstate = [launch.own(dm), launch.own(ds)]
    dgoal = None if goal is None else torch.zeros_like(dstate[0])
    dq, dk, dv = (torch.empty_like(q) for _ in range(3))
    dgates = [torch.empty_like(theta) for _ in range(3)]
    dslow = [run.new(run.batch, run.heads, run.chunks, run.width) if norm else None for _ in range(2)]
    coefficients, left = run.new_coefficients(backward=True), run.left_by_scan(backward=True)
    (weight, _, vec, m_last), (*saved, err, unit, stat) = coefficients, left
    d_err, dweight, dvec, dm_last = (torch.empty_like(part) for part in (err, weight, vec, m_last))
    dz_m, dz_s = torch.empty_like(err), torch.empty_like(err)
    dz_g = None if goal is None else torch.empty_like(err)
    dsaved = [torch.empty_like(saved[0]) for _ in range(2)]
    for i, (first, chunks) in reversed(list(enumerate(run.segments))):
        run.find_coefficients(first, chunks, coefficients)
        run.scan(first, chunks, (k, v, vec, m_last), (scale, shift), goal, starts[i], None, left)
        shape, grid = (run.time, run.heads, first, chunks), (chunks, run.rows)
        run.launch(
            linear_read_bwd_kernel, grid, q, k, err, weight, vec, *saved, goal, scale, dy, dq, dk, d_err, dz_m,
            dz_s, dz_g, dweight, dvec, *dslow, *shape, warps=run.warps,
        )  # fmt: skip
        run.launch(
            linear_scan_bwd_kernel, (run.rows,), q, k, err, unit, stat, d_err, dz_m, dz_s, scale, vec, m_last,
            *dstate, *dsaved, *shape, warps=run.warps, stages=run.stages_bwd,
        )  # fmt: skip
        run.launch(
            linear_write_bwd_kernel, grid, k, v, vec, *saved, goal, *dsaved, d_err, scale, shift, dk, dv, dvec, dm_last,
            *dslow, *shape, warps=run.warps,
        )  # fmt: skip
        if goal is not None:
            run.launch(
                linear_goal_bwd_kernel, (run.rows,), q, vec, dsaved[0], dz_g, dgoal, *shape, warps=run.warps
            )  # fmt: skip
        run.gate_gradients(first, chunks, coefficients, (dweight, dvec, dm_last), dgates)
        if (first + chunks) * chunk > run.time:
            dstate[0] += danchor
    grads = [dq, dk, dv, *dgates, *dstate]
    grads += [d.sum((0, 2)) for d in dslow] if norm else []
    return grads + ([] if goal is None else [dgoal.sum(0)])


@_scan_backward.register_fake
def _(dy, dm, ds, danchor, q, k, v, theta, log_eta, log_keep, starts, scale, shift, goal, mask, chunk, residual):
    like = [q, k, v, theta, theta, theta, dm, ds, *(x for x in (scale, shift, goal) if x is not None)]
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in like]


def _save(ctx, inputs, output) -> None:
    q, k, v, theta, log_eta, log_keep, *_, scale, shift, goal, mask, chunk, residual = inputs
    ctx.save_for_backward(q, k, v, theta, log_eta, log_keep, output[-1], scale, shift, goal, mask)
    ctx.options, ctx.shapes = (chunk, residual), [x.shape for x in output[1:-1]]
    ctx.mark_non_differentiable(output[-1])
    ctx.set_materialize_grads(False)  # as in `fused`


def _backward(ctx, dy, dm, ds, danchor, _):
    saved = ctx.saved_tensors
    q, starts = saved[0], saved[6]
    dy = q.new_zeros(q.shape) if dy is None else dy
    dstate = [starts.new_zeros(s) if d is None else d for d, s in zip((dm, ds, danchor), ctx.shapes, strict=True)]
    grads = iter(_scan_backward(dy, *dstate, *saved, *ctx.options))
    return (
        *(next(grads) for _ in range(8)),
        *(None if x is None else next(grads) for x in saved[7:10]),
        None,
        None,
        None,
    )


_scan.register_autograd(_backward, setup_context=_save)


def scan(x: ScanInputs, state: FastState) -> tuple[Tensor, FastState]:
    """See `memory.ops.memory_scan`; log_keep is [B, T, H, 1], and a chunk under way is finished by `chunked`."""
    if state.position:
        return launch.finish_chunk(scan, x, state)
    tokens = (x.q, x.k, x.v, x.theta, x.log_eta, x.log_keep[..., 0])
    goal = None if x.target is None else x.target[0]
    y, m, s, anchor, _ = _scan(
        *tokens, state.weights[0], state.momentum[0], x.scale, x.shift, goal, x.mask, x.chunk, x.residual
    )
    position = x.q.shape[1] % x.chunk
    return y, FastState([m], [s], [anchor if position else m], position)
