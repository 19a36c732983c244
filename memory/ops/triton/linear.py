"""Segments of the linear memory, one weight matrix a head, on Triton kernels.

Both rules share segments, coefficients and reads; `Anchored` and `Exact` are what differs: how errors are computed. A
chunk's state is small here: common sizes take one or two segments.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from memory.ops.triton.kernels.delta import delta_carry_kernel, delta_scan_kernel, delta_solve_kernel
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
from memory.ops.triton.launch import aligned, cdiv
from memory.ops.triton.plan import Call, Gradients, Plan, Segments, carries

LEAST = 8  # chunks of a segment, so that short sequences are one: every cut costs a state written and read
SEGMENT = 4096  # (chunk, sequence, head) triples of width 64: 0.4 GiB of buffers in the backward at chunk 64
# each for head widths up to 64 and above
WARPS = (4, 8)  # of a program
STAGES = (3, 1)  # chunks ahead of which the scan loads what it needs
STAGES_BWD = (2, 1)  # the same in the backward scan
STAGES_EXACT = (3, 2)  # the same in both scans with exact errors
COLUMNS = 32  # of a head's values, that a program of these holds
ENOUGH = 256  # programs of a scan, for which a segment is cut into spans where momentum is not carried
SHORTEST = 16  # chunks of a span: fewer cost more in going from span to span than they save
FEWEST = 4  # spans that pay: all are walked through twice


def tile(chunk: int, width: int) -> int:
    """Tokens that the kernels of exact errors take at once for a chunk of this size.

    Where the errors are exact the size is free. Triton 3.6 compiles the kernels wrongly for 64 tokens of heads of 32.
    """
    return min(chunk, 32 if width <= 32 else 64)


def segments(rows: int, width: int, momentum: bool) -> Segments:
    """How a sequence of so many sequences times heads is cut; without momentum a chunk takes half of the room."""
    return Segments(max(SEGMENT * (1 if momentum else 2) // max(rows * max(width // 64, 1), 1), LEAST))


class Space(NamedTuple):
    """Room for a backward pass: gradients of all tokens, of the state that moves on, and of a segment's chunks.

    Args:
        q: gradient of queries, [B, T, H, D].
        k: gradient of keys, [B, T, H, D].
        v: gradient of values, [B, T, H, D].
        norm: gradients of scale and shift, [B, H, chunks of the sequence, D]; None without LayerNorm.
        prior: gradient of the prior, see `Plan.new_dprior`; None for zero.
        err: gradient of the errors.
        reads: gradients of q M and q S; or None, None and what reads want of M and S at the start of each chunk.
        prior_reads: gradient of q times the prior.
        saved: gradients of the states at the end of each chunk, see `Linear.new_states`.
        coefficients: gradients of PN, vec and m_C.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    norm: list[Tensor | None]
    prior: Tensor | None
    err: Tensor
    reads: list[Tensor | None]
    prior_reads: Tensor | None
    saved: list[Tensor | None]
    coefficients: tuple[Tensor, Tensor, Tensor]


class Linear(Plan, ABC):
    """A call, with room for what the scan stores of each chunk of a segment; `backward`: and for what that needs."""

    def __init__(self, call: Call, backward: bool) -> None:
        batch, _, heads, width = call.tokens[0].shape
        cut = segments(batch * heads, width, carries(call.exact, call.momentum))
        super().__init__(call, cut, [aligned(w) for w in call.prior])
        self.exact = call.exact
        wide = self.width > 64
        self.warps = WARPS[wide]
        self.stages = STAGES[wide]
        self.stages_bwd = STAGES_BWD[wide]
        self.coefficients = self.new_coefficients(backward)
        self.saved = self.new_states()  # M and S at the start of each chunk
        self.err = self.new_tokens()

    def new_tokens(self) -> Tensor:
        """Room for a head's features of each token of a segment, [B*H, chunks, C, D]."""
        return self.new(self.rows, self.longest, self.chunk, self.width, dtype=self.dtype)

    def new_squares(self, size: int) -> Tensor:
        """Room for a square matrix a chunk, [B*H, chunks, size, size]."""
        return self.new(self.rows, self.longest, size, size, dtype=self.dtype)

    def new_states(self) -> list[Tensor | None]:
        """Room for M and, with momentum, S of each chunk of a segment."""
        return [self.new_squares(self.width), self.new_squares(self.width) if self.flags["MOMENTUM"] else None]

    def new_norm(self) -> Tensor | None:
        """Room for the gradient of LayerNorm's scale or shift, chunk by chunk."""
        return self.new(self.batch, self.heads, self.chunks, self.width) if self.flags["NORM"] else None

    def new_space(self) -> Space:
        """Room for the backward of a call."""
        weight, _, vec, m_last = self.coefficients
        prior = self.flags["PRIOR"]
        return Space(
            q=torch.empty_like(self.q),
            k=torch.empty_like(self.q),
            v=torch.empty_like(self.q),
            norm=[self.new_norm(), self.new_norm()],
            prior=self.new_dprior(1, self.width) if prior else None,
            err=self.new_tokens(),
            reads=self.new_reads(),
            prior_reads=self.new_tokens() if prior else None,
            saved=self.new_states(),
            coefficients=(torch.empty_like(weight), torch.empty_like(vec), torch.empty_like(m_last)),
        )

    def forward(self, state: list[Tensor], after: list[Tensor], anchor: list[Tensor | None], y: Tensor) -> Tensor:
        """From the state before the tokens write that `after` them, the anchor, where it has a place, and y.

        Returns the states between segments, see `Plan.new_starts`.
        """
        starts = self.new_starts(state)
        states = [self.carried([*part]) for part in (state, *starts, after)]
        for i, (first, chunks) in enumerate(self.segments):
            self.find_coefficients(first, chunks, self.coefficients)
            self.scan(first, chunks, states[i], states[i + 1], anchor[0] if i == self.last else None)
            self.read(first, chunks, y)
        if not self.flags["MOMENTUM"]:
            after[1].copy_(state[1])
        return starts

    def backward(
        self, state: list[Tensor], starts: Tensor, dy: Tensor, dstate: list[Tensor], danchor: list[Tensor],
        wanted: list[bool],
    ) -> Gradients:  # fmt: skip
        """From the gradients of y, of the state behind it and of the anchor, if any, to all others that are wanted."""
        dy = aligned(dy)
        d = self.new_space()
        states = [self.carried([*part]) for part in (state, *starts)]
        dstates = self.new_dstates(state, dstate, wanted)
        dgates = [torch.empty_like(gate) for gate in self.gates]
        for i, (first, chunks) in reversed(list(enumerate(self.segments))):
            self.find_coefficients(first, chunks, self.coefficients)
            self.scan(first, chunks, states[i])
            self.read_back(first, chunks, dy, d)
            of_anchor = danchor[0] if danchor and i == self.last else None
            self.scan_back(first, chunks, [*dstates[i], *dstates[i + 1], of_anchor], d)
            self.prior_back(first, chunks, d)
            self.gate_gradients(first, chunks, self.coefficients, d.coefficients, dgates)
        norm = [x.sum((0, 2)) for x in d.norm if x is not None]
        prior = [] if d.prior is None else [d.prior.sum(0)]
        if not self.flags["MOMENTUM"] and dstates[0][1] is not None:
            dstates[0][1].copy_(dstate[1]) if dstate else dstates[0][1].zero_()
        dstate = [x for x in dstates[0] if x is not None]
        return Gradients([d.q, d.k, d.v, *dgates], dstate, norm, prior)

    def carried(self, state: list[Tensor]) -> list[Tensor | None]:
        """M and, with momentum, S of a state."""
        return [*state] if self.flags["MOMENTUM"] else [state[0], None]

    def rows_of(self, state: Sequence[Tensor | None]) -> int:
        """Sequences times heads of a state, which may be one sequence that stands for all."""
        return len(cast(Tensor, state[0])) * self.heads

    @abstractmethod
    def new_reads(self) -> list[Tensor | None]:
        """Room for what reads want of the state: gradients of q M and q S, and of M and S."""

    @abstractmethod
    def scan(
        self, first: int, chunks: int, state: Sequence[Tensor | None], after: Sequence[Tensor | None] = (None, None),
        anchor: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Store states and errors of a segment, and the state behind it and the anchor where they have a place."""

    @abstractmethod
    def scan_back(self, first: int, chunks: int, dstate: Sequence[Tensor | None], d: Space) -> None:
        """The backward of a segment's scan and writes, all of whose reads' gradients are there.

        Args:
            first: its first chunk.
            chunks: how many it has.
            dstate: gradients of the state before the segment, to be written, behind it, and of the anchor.
            d: room for all other gradients.
        """

    def read(self, first: int, chunks: int, y: Tensor) -> None:
        """All reads of a segment whose scan has run."""
        weight, _, vec, _ = self.coefficients
        self.launch(
            linear_read_kernel, (chunks, self.rows), self.q, self.k, self.err, weight, vec, *self.saved, self.prior[0],
            *self.norm, y, self.time, self.heads, first, chunks, warps=self.warps,
        )  # fmt: skip

    def read_back(self, first: int, chunks: int, dy: Tensor, d: Space) -> None:
        """The backward of a segment's reads."""
        weight, _, vec, _ = self.coefficients
        self.launch(
            linear_read_bwd_kernel, (chunks, self.rows), self.q, self.k, self.err, weight, vec, *self.saved,
            self.prior[0], self.norm[0], dy, d.q, d.k, d.err, *d.reads, d.prior_reads, *d.coefficients[:2], *d.norm,
            self.time, self.heads, first, chunks, warps=self.warps,
        )  # fmt: skip

    def prior_back(self, first: int, chunks: int, d: Space) -> None:
        """The prior's gradient through a segment's reads and forgetting, if there is a prior."""
        if d.prior is None:
            return
        self.launch(
            linear_prior_bwd_kernel, (len(d.prior) * self.heads,), self.q, self.coefficients.vec, d.saved[0],
            d.prior_reads, d.prior, self.batch, self.time, self.heads, first, chunks, warps=self.warps,
        )  # fmt: skip


class Anchored(Linear):
    """Gradients at the chunk's start, with or without LayerNorm."""

    def __init__(self, call: Call, backward: bool) -> None:
        super().__init__(call, backward)
        through_norm = backward and self.flags["NORM"]
        self.unit = self.new_tokens() if through_norm else None
        self.stat = self.new(self.rows, self.longest, 2, self.chunk) if through_norm else None

    def new_reads(self) -> list[Tensor | None]:
        return [self.new_tokens(), self.new_tokens(), None, None]

    def scan(
        self, first: int, chunks: int, state: Sequence[Tensor | None], after: Sequence[Tensor | None] = (None, None),
        anchor: Tensor | None = None,
    ) -> None:  # fmt: skip
        _, _, vec, m_last = self.coefficients
        self.launch(
            linear_scan_kernel, (self.rows,), self.k, self.v, vec, m_last, *self.norm, *state, *after, anchor,
            self.prior[0], *self.saved, self.err, self.unit, self.stat, self.rows_of(state), self.time, self.heads,
            first, chunks, warps=self.warps, stages=self.stages,
        )  # fmt: skip

    def scan_back(self, first: int, chunks: int, dstate: Sequence[Tensor | None], d: Space) -> None:
        _, _, vec, m_last = self.coefficients
        shape = (self.time, self.heads, first, chunks)
        self.launch(
            linear_scan_bwd_kernel, (self.rows,), self.q, self.k, self.err, self.unit, self.stat, d.err, *d.reads[:2],
            self.norm[0], vec, m_last, *dstate, *d.saved, *shape, warps=self.warps, stages=self.stages_bwd,
        )  # fmt: skip
        self.launch(
            linear_write_bwd_kernel, (chunks, self.rows), self.k, self.v, vec, *self.saved, self.prior[0], *d.saved,
            d.err, *self.norm, d.k, d.v, *d.coefficients[1:], *d.norm, *shape, warps=self.warps,
        )  # fmt: skip


class Exact(Linear):
    """Every token's gradient at the memory before it; no LayerNorm."""

    def __init__(self, call: Call, backward: bool) -> None:
        super().__init__(call, backward)
        self.columns = min(COLUMNS, self.width)
        self.stages_exact = STAGES_EXACT[self.width > 64]
        self.inverse = self.new_squares(self.chunk)
        self.tiles = self.width // self.columns
        self.through: Tensor | None = None  # U of spans, where a segment's scan has run in some

    def new_reads(self) -> list[Tensor | None]:
        return [None, None, *self.new_states()]

    def span(self, chunks: int) -> int:
        """How many chunks of so many a program takes: all of them, or with few heads a part of them."""
        spans = min(ENOUGH // max(self.tiles * self.rows, 1), chunks // SHORTEST)
        return chunks if self.flags["MOMENTUM"] or spans < FEWEST else cdiv(chunks, spans)

    def scan(
        self, first: int, chunks: int, state: Sequence[Tensor | None], after: Sequence[Tensor | None] = (None, None),
        anchor: Tensor | None = None,
    ) -> None:  # fmt: skip
        weight, _, vec, m_last = self.coefficients
        self.launch(
            delta_solve_kernel, (chunks, self.rows), self.k, weight, self.inverse, self.time, self.heads, first, chunks,
            warps=self.warps,
        )  # fmt: skip
        span = self.span(chunks)
        spans = cdiv(chunks, span)
        inputs = self.k, self.v, self.inverse, vec, m_last
        outputs = self.prior[0], *self.saved, self.err
        sizes = self.time, self.heads, first, chunks, span
        options = {"BV": self.columns, "warps": self.warps, "stages": self.stages_exact}
        rows = self.rows_of(state)
        grid = self.tiles, self.rows * spans
        if spans == 1:
            self.launch(delta_scan_kernel, grid, *inputs, *state, *after, *outputs, rows, *sizes, **options)
            return
        ends = self.new(2, grid[1], self.width, self.width)
        given = None, None, ends, None
        twice = 2 * grid[0], grid[1]
        self.launch(delta_scan_kernel, twice, *inputs, *given, *outputs, grid[1], *sizes, **options)
        own, self.through = ends
        starts = self.from_span_to_span(own, (self.through, None), state[0], after[0], rows)
        given = starts, None, None, None
        self.launch(delta_scan_kernel, grid, *inputs, *given, *outputs, grid[1], *sizes, **options)

    def from_span_to_span(
        self, ends: Tensor, through: tuple[Tensor | None, ...], state: Tensor | None, after: Tensor | None, rows: int
    ) -> Tensor:
        """Where each span starts, from what it ends with for its own part; see `delta_carry_kernel`.

        Args:
            ends: Z of each span.
            through: U of each and None, or on the way back None and U.
            state: what is before all, of so many `rows` of sequences times heads.
            after: room for what is behind all.
            rows: see `state`.
        """
        starts = torch.empty_like(ends)
        self.launch(
            delta_carry_kernel, (self.tiles, self.rows), ends, *through, state, starts, after, rows,
            len(ends) // self.rows, BV=self.columns, warps=self.warps,
        )  # fmt: skip
        return starts

    def scan_back(self, first: int, chunks: int, dstate: Sequence[Tensor | None], d: Space) -> None:
        weight, _, vec, m_last = self.coefficients
        shape = (self.time, self.heads, first, chunks)
        span = self.span(chunks)
        grid = self.tiles, self.rows * cdiv(chunks, span)
        inputs = self.k, self.inverse, d.err, *d.reads[2:], vec, m_last
        options = {"BV": self.columns, "warps": self.warps, "stages": self.stages_exact}
        before, behind = dstate[:2], dstate[2:4]
        if self.through is not None:
            ends = torch.empty_like(self.through)
            given = (ends, *(None,) * 6)
            self.launch(delta_scan_bwd_kernel, grid, *inputs, *given, *shape, span, **options)
            starts = self.from_span_to_span(ends, (None, self.through), behind[0], before[0], self.rows)
            self.through = None
            before, behind = (None, None), (starts, None)
        self.launch(
            delta_scan_bwd_kernel, grid, *inputs, *before, *behind, d.err, *d.saved, *shape, span, **options
        )  # fmt: skip
        dz_k = None if d.prior is None else self.new_tokens()
        self.launch(
            delta_write_bwd_kernel, (chunks, self.rows), self.k, vec, weight, self.err, *self.saved, self.prior[0],
            *d.saved, d.err, d.k, d.v, dz_k, *d.coefficients, *shape, warps=self.warps,
        )  # fmt: skip
        if d.prior is not None:
            grid = (len(d.prior) * self.heads,)
            self.launch(delta_prior_bwd_kernel, grid, self.k, dz_k, d.prior, self.batch, *shape, warps=self.warps)
