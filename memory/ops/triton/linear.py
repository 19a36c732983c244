"""The linear memory, one weight matrix a head, on Triton kernels: forward and backward as PyTorch custom operators.

Both rules share segments, coefficients and reads; `_Anchored` and `_Exact` are what differs: how errors are found.

As in `fused`, the sequence is worked through in segments, and only the float32 state at each segment's start is kept
for the backward, which runs the scan again. A chunk's state is small here: common sizes take one or two segments.
"""

from typing import NamedTuple

import torch
from torch import Tensor, library

from memory.ops.inputs import ScanInputs
from memory.ops.triton import launch
from memory.ops.triton.kernels.delta import delta_scan_kernel, delta_solve_kernel
from memory.ops.triton.kernels.delta_backward import (
    delta_prior_bwd_kernel,
    delta_scan_bwd_kernel,
    delta_write_bwd_kernel,
)
from memory.ops.triton.kernels.linear_backward import (
    linear_prior_bwd_kernel,
    linear_read_bwd_kernel,
    linear_scan_bwd_kernel,
    linear_write_bwd_kernel,
)
from memory.ops.triton.kernels.linear_forward import linear_read_kernel, linear_scan_kernel
from memory.state import FastState

SEGMENT = 4096  # (chunk, sequence, head) triples of width 64: 0.4 GiB of buffers in the backward at chunk 64
# of head widths up to 64 and above: warps of a program, and how many chunks ahead each scan loads what it needs
WARPS, STAGES, STAGES_BWD = (4, 8), (3, 1), (2, 1)

refusal = launch.refusal


def tile(chunk: int, width: int) -> int:
    """Tokens that the kernels of exact errors take at once for a chunk of this size.

    Where the errors are exact the size is free. Triton 3.6 compiles the kernels wrongly for 64 tokens of heads of 32.
    """
    return min(chunk, 32 if width <= 32 else 64)


def segments(rows: int, width: int) -> launch.Segments:
    return launch.Segments(max(SEGMENT // max(rows * max(width // 64, 1), 1), 4))


class Gradients(NamedTuple):
    """Room for what the backward leaves: of all tokens, of the state that moves on, and of a segment's chunks.

    Args:
        q, k, v: of the tokens, [B, T, H, D].
        state: of M and S behind the segment, [B, H, D, D] float32.
        slow: of scale and shift, [B, H, chunks of the sequence, D]; None without LayerNorm.
        prior: of what forgetting leads to, [B, H, D, D]; None for zero.
        err: of the errors.
        reads: of q M and q S.
        prior_reads: of q times the prior.
        saved: of the states at the end of each chunk.
        coefficients: of PN, vec and m_C.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    state: list[Tensor]
    slow: list[Tensor | None]
    prior: Tensor | None
    err: Tensor
    reads: tuple[Tensor, Tensor]
    prior_reads: Tensor | None
    saved: list[Tensor]
    coefficients: tuple[Tensor, Tensor, Tensor]


class _Launch(launch.Launch):
    """What all kernels of one call share: its inputs, and room for what the scan leaves of each chunk of a segment.

    Args:
        tokens: q, k, v.
        gates: theta, log eta, log(1 - alpha).
        slow: scale and shift of the LayerNorm, or None for both.
        prior: what forgetting leads to, [H, D, D], or None for zero.
        backward: whether to leave what the backward needs.
    """

    def __init__(
        self, tokens: list[Tensor], gates: list[Tensor], slow: list[Tensor | None], prior: Tensor | None, chunk: int,
        mask: Tensor | None, residual: bool, backward: bool,
    ):  # fmt: skip
        tokens, gates, slow = ([launch.aligned(x) for x in part] for part in (tokens, gates, slow))
        self.q, self.k, self.v = tokens
        self.slow, self.prior = slow, launch.aligned(prior)
        batch, _, heads, width = self.q.shape
        flags = {"NORM": slow[0] is not None, "RES": residual, "PRIOR": prior is not None}
        super().__init__(self.q, gates, chunk, launch.aligned(mask), segments(batch * heads, width), **flags)
        wide = self.width > 64
        self.warps, self.stages, self.stages_bwd = WARPS[wide], STAGES[wide], STAGES_BWD[wide]
        self.coefficients = self.new_coefficients(backward)
        self.saved = [self.new_squares(self.width) for _ in range(2)]  # M and S at the start of each chunk
        self.err = self.new_tokens()

    def new_tokens(self) -> Tensor:
        """Room for a head's features of each token of a segment, [B*H, chunks, C, D]."""
        return self.new(self.rows, self.longest, self.chunk, self.width, dtype=self.dtype)

    def new_squares(self, size: int) -> Tensor:
        """Room for a square matrix a chunk, [B*H, chunks, size, size]."""
        return self.new(self.rows, self.longest, size, size, dtype=self.dtype)

    def new_gradients(self, dm: Tensor, ds: Tensor) -> Gradients:
        """Those of a call, whose state's are dm and ds behind the last token."""
        weight, _, vec, m_last = self.coefficients
        state = [launch.own(dm), launch.own(ds)]
        aimed = self.prior is not None
        return Gradients(
            *(torch.empty_like(self.q) for _ in range(3)),
            state=state,
            slow=[None if x is None else self.new(self.batch, self.heads, self.chunks, self.width) for x in self.slow],
            prior=torch.zeros_like(state[0]) if aimed else None,
            err=self.new_tokens(),
            reads=(self.new_tokens(), self.new_tokens()),
            prior_reads=self.new_tokens() if aimed else None,
            saved=[self.new_squares(self.width) for _ in range(2)],
            coefficients=(torch.empty_like(weight), torch.empty_like(vec), torch.empty_like(m_last)),
        )

    def read_back(self, first: int, chunks: int, dy: Tensor, d: Gradients) -> None:
        """The backward of a segment's reads."""
        weight, _, vec, _ = self.coefficients
        self.launch(
            linear_read_bwd_kernel, (chunks, self.rows), self.q, self.k, self.err, weight, vec, *self.saved, self.prior,
            self.slow[0], dy, d.q, d.k, d.err, *d.reads, d.prior_reads, *d.coefficients[:2], *d.slow, self.time,
            self.heads, first, chunks, warps=self.warps,
        )  # fmt: skip

    def prior_back(self, first: int, chunks: int, d: Gradients) -> None:
        """What a segment's reads and forgetting want of the prior, if there is one."""
        if d.prior is None:
            return
        self.launch(
            linear_prior_bwd_kernel, (self.rows,), self.q, self.coefficients.vec, d.saved[0], d.prior_reads, d.prior,
            self.time, self.heads, first, chunks, warps=self.warps,
        )  # fmt: skip

    def read(self, first: int, chunks: int, y: Tensor) -> None:
        """All reads of a segment whose scan has run."""
        weight, _, vec, _ = self.coefficients
        self.launch(
            linear_read_kernel, (chunks, self.rows), self.q, self.k, self.err, weight, vec, *self.saved, self.prior,
            *self.slow, y, self.time, self.heads, first, chunks, warps=self.warps,
        )  # fmt: skip


class _Anchored(_Launch):
    """Gradients at the chunk's start, with or without LayerNorm."""

    def __init__(self, *args: object, backward: bool):
        super().__init__(*args, backward=backward)
        kept = backward and self.flags["NORM"]
        self.unit = self.new_tokens() if kept else None
        self.stat = self.new(self.rows, self.longest, 2, self.chunk) if kept else None

    def scan(self, first: int, chunks: int, state: list[Tensor] | Tensor, start: Tensor | None) -> None:
        """Leave states and errors of a segment; `state` is kept in `start` and moves on, if there is one."""
        _, _, vec, m_last = self.coefficients
        self.launch(
            linear_scan_kernel, (self.rows,), self.k, self.v, vec, m_last, *self.slow, *state, start, self.prior,
            *self.saved, self.err, self.unit, self.stat, self.time, self.heads, first, chunks, warps=self.warps,
            stages=self.stages,
        )  # fmt: skip

    def scan_back(self, first: int, chunks: int, d: Gradients) -> None:
        """The backward of a segment's scan and writes, of whose reads all gradients are there."""
        _, _, vec, m_last = self.coefficients
        shape = (self.time, self.heads, first, chunks)
        self.launch(
            linear_scan_bwd_kernel, (self.rows,), self.q, self.k, self.err, self.unit, self.stat, d.err, *d.reads,
            self.slow[0], vec, m_last, *d.state, *d.saved, *shape, warps=self.warps, stages=self.stages_bwd,
        )  # fmt: skip
        self.launch(
            linear_write_bwd_kernel, (chunks, self.rows), self.k, self.v, vec, *self.saved, self.prior, *d.saved, d.err,
            *self.slow, d.k, d.v, *d.coefficients[1:], *d.slow, *shape, warps=self.warps,
        )  # fmt: skip


class _Exact(_Launch):
    """Every token's gradient at the memory before it; no LayerNorm."""

    def __init__(self, *args: object, backward: bool):
        super().__init__(*args, backward=backward)
        self.inverse = self.new_squares(self.chunk)
        self.by_state = [self.new_tokens() for _ in range(2)]  # what M and S at a chunk's start are multiplied by

    def scan(self, first: int, chunks: int, state: list[Tensor] | Tensor, start: Tensor | None) -> None:
        """Leave states and errors of a segment; `state` is kept in `start` and moves on, if there is one."""
        weight, _, vec, m_last = self.coefficients
        shape = (self.time, self.heads, first, chunks)
        self.launch(
            delta_solve_kernel, (chunks, self.rows), self.k, self.v, weight, vec, self.prior, self.inverse,
            *self.by_state, self.err, *shape, warps=self.warps,
        )  # fmt: skip
        self.launch(
            delta_scan_kernel, (self.rows,), self.k, vec, m_last, *self.by_state, self.err, *state, start, self.prior,
            *self.saved, self.err, *shape, warps=self.warps, stages=self.stages,
        )  # fmt: skip

    def scan_back(self, first: int, chunks: int, d: Gradients) -> None:
        """The backward of a segment's scan and writes, of whose reads all gradients are there."""
        weight, _, vec, m_last = self.coefficients
        shape = (self.time, self.heads, first, chunks)
        self.launch(
            delta_scan_bwd_kernel, (self.rows,), self.q, self.k, *self.by_state, d.err, *d.reads, vec, m_last, *d.state,
            *d.saved, *shape, warps=self.warps, stages=self.stages_bwd,
        )  # fmt: skip
        dz_k = None if d.prior is None else self.by_state[0]  # nobody needs it any more
        self.launch(
            delta_write_bwd_kernel, (chunks, self.rows), self.k, vec, weight, self.inverse, self.err, *self.saved,
            self.prior, *d.saved, d.err, d.k, d.v, dz_k, *d.coefficients, *shape, warps=self.warps,
        )  # fmt: skip
        if d.prior is not None:
            self.launch(delta_prior_bwd_kernel, (self.rows,), self.k, dz_k, d.prior, *shape, warps=self.warps)


@library.custom_op("titans::linear_scan", mutates_args=())
def _scan(
    q: Tensor, k: Tensor, v: Tensor, theta: Tensor, log_eta: Tensor, log_keep: Tensor, m: Tensor, s: Tensor,
    scale: Tensor | None, shift: Tensor | None, prior: Tensor | None, mask: Tensor | None, chunk: int, residual: bool,
    exact: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, M and S [B, H, D, D] after it, the anchor as in `fused`, segments' start states [segments, 2, B, H, D, D]."""
    kernels = _Exact if exact else _Anchored
    gates, slow = [theta, log_eta, log_keep], [scale, shift]
    run = kernels([q, k, v], gates, slow, prior, chunk, mask, residual, backward=False)
    starts = run.new(len(run.segments), 2, *m.shape)
    state, y = [launch.own(m), launch.own(s)], torch.empty_like(run.q)
    for i, (first, chunks) in enumerate(run.segments):
        run.find_coefficients(first, chunks, run.coefficients)
        run.scan(first, chunks, state, starts[i])
        run.read(first, chunks, y)
    anchor = starts[-1, 0].clone() if run.time % chunk and not exact else run.new(0)
    return y, *state, anchor, starts


@_scan.register_fake
def _(q, k, v, theta, log_eta, log_keep, m, s, scale, shift, prior, mask, chunk, residual, exact):
    batch, time, heads, width = q.shape
    state = q.new_empty(m.shape, dtype=torch.float32)
    starts = state.new_empty(segments(batch * heads, width).count(time, chunk), 2, *m.shape)
    anchor = state.new_empty(state.shape if time % chunk and not exact else 0)
    return q.new_empty(q.shape), *(torch.empty_like(state) for _ in range(2)), anchor, starts


@library.custom_op("titans::linear_scan_backward", mutates_args=())
def _scan_backward(
    dy: Tensor, dm: Tensor, ds: Tensor, danchor: Tensor, q: Tensor, k: Tensor, v: Tensor, theta: Tensor,
    log_eta: Tensor, log_keep: Tensor, starts: Tensor, scale: Tensor | None, shift: Tensor | None, prior: Tensor | None,
    mask: Tensor | None, chunk: int, residual: bool, exact: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of q, k, v, theta, log_eta, log_keep, M, S, scale, shift and the prior, in this order.

    dm, ds, danchor: gradients of M, S and the anchor behind the last token, [B, H, D, D].
    """
    kernels = _Exact if exact else _Anchored
    gates, slow, dy = [theta, log_eta, log_keep], [scale, shift], launch.aligned(dy)
    run = kernels([q, k, v], gates, slow, prior, chunk, mask, residual, backward=True)
    d = run.new_gradients(dm, ds)
    dgates = [torch.empty_like(gate) for gate in run.gates]
    for i, (first, chunks) in reversed(list(enumerate(run.segments))):
        run.find_coefficients(first, chunks, run.coefficients)
        run.scan(first, chunks, starts[i], None)
        run.read_back(first, chunks, dy, d)
        run.scan_back(first, chunks, d)
        run.prior_back(first, chunks, d)
        run.gate_gradients(first, chunks, run.coefficients, d.coefficients, dgates)
        if (first + chunks) * chunk > run.time and not exact:
            d.state[0].add_(danchor)
    grads = [d.q, d.k, d.v, *dgates, *d.state]
    grads += [x.sum((0, 2)) for x in d.slow if x is not None]
    return grads + ([] if d.prior is None else [d.prior.sum(0)])


@_scan_backward.register_fake
def _(
    dy, dm, ds, danchor, q, k, v, theta, log_eta, log_keep, starts, scale, shift, prior, mask, chunk, residual, exact
):
    like = [q, k, v, theta, theta, theta, dm, ds, *(x for x in (scale, shift, prior) if x is not None)]
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in like]


def _save(ctx, inputs, output) -> None:
    q, k, v, theta, log_eta, log_keep, *_, scale, shift, prior, mask, chunk, residual, exact = inputs
    ctx.save_for_backward(q, k, v, theta, log_eta, log_keep, output[-1], scale, shift, prior, mask)
    ctx.options, ctx.shapes = (chunk, residual, exact), [x.shape for x in output[1:-1]]
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
        *(None,) * 4,
    )


_scan.register_autograd(_backward, setup_context=_save)


def scan(x: ScanInputs, state: FastState) -> tuple[Tensor, FastState]:
    """See `memory.ops.memory_scan`; log_keep is [B, T, H, 1], and a chunk under way is finished by `chunked`."""
    if state.position:
        return launch.finish_chunk(scan, x, state)
    tokens = (x.q, x.k, x.v, x.theta, x.log_eta, x.log_keep[..., 0])
    prior = None if x.prior is None else x.prior[0]
    chunk = tile(x.chunk, x.q.shape[-1]) if x.exact else x.chunk
    y, m, s, anchor, _ = _scan(
        *tokens, state.weights[0], state.momentum[0], x.scale, x.shift, prior, x.mask, chunk, x.residual, x.exact
    )
    position = 0 if x.exact else x.q.shape[1] % x.chunk
    return y, FastState([m], [s], [anchor if position else m], position)
