"""Segments of the two-layer memory on Triton kernels for NVIDIA GPUs in general, and for Triton's interpreter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from memory.ops.serves import HIDDEN_TILE, INTERPRET
from memory.ops.triton import streams
from memory.ops.triton.kernels.mlp_backward import (
    prior_bwd_kernel,
    read_again_kernel,
    read_bwd_kernel,
    state_bwd_kernel,
    write_bwd_kernel,
)
from memory.ops.triton.kernels.mlp_forward import read_fwd_kernel, state_fwd_kernel
from memory.ops.triton.launch import aligned
from memory.ops.triton.plan import Call, Coefficients, Gradients, Plan, Segments, held

SMALL_TILE = 32  # hidden units of a program where tiles of tokens or their numbers are twice as large
LEAST = 8  # chunks of a segment, so that short sequences are one: every cut costs a state written and read
SEGMENT = 2048  # (chunk, sequence, head) triples: enough programs to fill a GPU, few enough that buffers stay small
FEW = 4096  # hidden units of all heads up to which scans occupy little of a GPU, and other segments run beside them
FEW_SEGMENT = 1024  # triples of a segment there, where up to three are under way
FEW_CHUNKS = 64  # chunks of a segment there
WARPS = 8
NOTHING = (None,) * 4  # in the place of a state that nobody wants
HALF_WARPS = 4  # on an H100: at full tiles for the reads and, at chunks of 16, for all kernels


def segments(rows: int, hidden: int) -> Segments:
    """Of few heads the last segments are short: nothing runs beside their preparation for the backward scan."""
    few = rows * hidden <= FEW
    size = min(FEW_SEGMENT // max(rows, 1), FEW_CHUNKS) if few else SEGMENT // max(rows, 1)
    return Segments(max(size, LEAST), ramp=few)


@dataclass
class Results:
    """Where a backward pass stores its gradients.

    Args:
        q: of queries, [B, T, H, D].
        k: of keys, [B, T, H, D].
        v: of values, [B, T, H, D].
        gates: theirs of theta, log eta and log(1 - alpha), [B, T, H].
        norm: theirs of LayerNorm's scale and shift through writes, [2, B*H, .., D], added to.
        read_norm: the same through reads, [2, B*H, chunks, D].
        prior: both layers', see `Plan.new_dprior`; empty for zero.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    gates: list[Tensor]
    norm: Tensor | list[None]
    read_norm: Tensor | None
    prior: list[Tensor]


class Finishable(Protocol):
    """What `Portable.finish` needs of a segment's buffers."""

    coefficients: Coefficients
    dvec: Tensor
    dm_last: Tensor
    dnorm: Tensor | list[None]


class Space:
    """Buffers of a segment, as long as the longest."""

    def __init__(self, plan: "Portable", backward: bool) -> None:
        def new(*shape: int, dtype: torch.dtype = plan.dtype) -> Tensor:
            return plan.new(plan.rows, plan.longest, *shape, dtype=dtype)

        token = (plan.chunk, plan.width)
        square = (plan.chunk, plan.chunk)
        hidden = (plan.hidden, plan.chunk)
        self.coefficients = plan.new_coefficients(backward)
        self.shared, self.arrived = plan.meeting()
        self.saved = [new(plan.hidden, plan.width) for _ in range(4)]
        self.err = new(*token)
        self.z2 = new(*token, dtype=torch.float32) if backward else None
        if not backward:
            return
        self.dk_read = new(*token, dtype=torch.float32)
        self.derr = new(*token, dtype=torch.float32)
        self.x = new(*hidden)
        self.e1 = new(*hidden)
        self.slope = new(*hidden)
        self.curve = new(*hidden)
        self.dx = new(*hidden)
        self.de1 = new(*hidden)
        self.xq = new(*hidden)
        self.dzq1 = new(*hidden)
        self.dz1 = new(*hidden)
        self.dzq2 = new(*token)
        self.dscores = new(*square)
        self.dweight = new(*square, dtype=torch.float32)
        self.dvec = torch.empty_like(self.coefficients.vec)
        self.dm_last = torch.empty_like(self.coefficients.m_last)
        self.dsaved = [torch.empty_like(part) for part in self.saved]
        self.dnorm = plan.new_dnorm()


class Portable(Plan):
    """A call on the Triton kernels, of a memory with `hidden` units."""

    summands = 1  # rows that the scan's programs add their gradients of scale and shift to
    space = Space

    def __init__(self, call: Call, hidden: int) -> None:
        batch, _, heads, _ = call.tokens[0].shape
        single = call.tokens[0].dtype == torch.float32
        small = single or call.chunk > 64
        # the interpreter runs one program after another: none may wait for the next
        tile = hidden if INTERPRET else SMALL_TILE if small else HIDDEN_TILE
        flags = {"E": hidden, "BE": tile, "FAST": not (INTERPRET or single)}
        prior = held(call.prior) if call.prior else []
        super().__init__(call, segments(batch * heads, hidden), prior, **flags)
        self.hidden = hidden
        self.tiles = hidden // tile
        self.read_warps = WARPS if small else HALF_WARPS
        self.warps = HALF_WARPS if call.chunk == 16 and not small else WARPS
        self.under_way = self.at_once() if len(self.segments) > 1 else 1
        apart = self.under_way > 1 and self.device.type == "cuda"
        self.side_streams = [streams.side_stream(self.device, i) if apart else None for i in range(3)]

    def at_once(self) -> int:
        """How many segments are to be under way: three where scans occupy little of a GPU."""
        return 3 if self.rows * self.hidden <= FEW else 1

    def meeting(self) -> tuple[Tensor | None, Tensor | None]:
        """Where the programs of one head add up their parts: see `sum_over_tiles`."""
        shared = self.new(self.rows, 2, self.tiles, self.chunk, self.width)
        return shared, self.new(self.rows + 1, dtype=torch.int32)

    def spaces(self, most: int, backward: bool) -> list[Space]:
        """For as many segments at once as can be under way."""
        count = min(most, self.under_way, len(self.segments))
        return [self.space(self, backward) for _ in range(count)]

    def forward(self, state: list[Tensor], after: list[Tensor], anchor: list[Tensor | None], y: Tensor) -> Tensor:
        """From the state before the tokens write that `after` them, the anchor, where it has a place, and y.

        Returns the states between segments [segments - 1, 4, B, H, E, D]. The reads of a segment run beside the scan of
        the next one.
        """
        starts = self.new_starts(state)
        states = [state, *map(list, starts), after]
        spaces = self.spaces(2, backward=False)
        side = self.side_streams[0]
        scanned = []
        late = len(spaces) - 1
        for i in range(len(self.segments) + late):
            if i < len(self.segments):
                segment = self.segments[i]
                space = spaces[i % len(spaces)]
                self.find_coefficients(*segment, space.coefficients)
                anchors = anchor if i == self.last else NOTHING[:2]
                scan = (self.scan, *segment, space, states[i], states[i + 1], anchors)
                scanned.append(streams.launch_on(side, *scan))
            if i >= late:
                streams.join(self.device, scanned[i - late])
                self.read(*self.segments[i - late], spaces[(i - late) % len(spaces)], y)
        return starts

    def backward(
        self, state: list[Tensor], starts: Tensor, dy: Tensor, dstate: list[Tensor], danchor: list[Tensor],
        wanted: list[bool],
    ) -> Gradients:  # fmt: skip
        """From the gradients of y, of the state behind it and of the anchor, if any, to all others that are wanted.

        Beside the backward scan of a segment the next ones are prepared and the one before it is finished.
        """
        dy = aligned(dy)
        results = self.new_results()
        states = [state, *map(list, starts)]
        dstates = self.new_dstates(state, dstate, wanted)
        order = list(enumerate(self.segments))[::-1]
        spaces = self.spaces(3, backward=True)
        ahead = len(spaces) - int(len(spaces) > 1)
        scanned = []
        back = []

        for step in range(len(order) + len(spaces)):
            reads = step - ahead
            if 0 <= reads < len(order):
                at, segment = order[reads]
                space = spaces[reads % len(spaces)]
                streams.join(self.device, scanned[reads])
                self.reads_bwd(*segment, space, dy, results)
                grads = [*dstates[at], *dstates[at + 1], *(danchor if danchor and not reads else NOTHING[:2])]
                back.append(streams.launch_on(self.side_streams[2], self.scan_bwd, *segment, space, grads, results))
            writes = step - len(spaces)
            if writes >= 0:
                streams.join(self.device, back[writes])
                self.writes_bwd(*order[writes][1], spaces[writes % len(spaces)], results)
            if step < len(order):
                at, segment = order[step]
                space = spaces[step % len(spaces)]
                self.find_coefficients(*segment, space.coefficients)
                side = self.side_streams[step % 2]  # the last segments are short: two scans prepare for one backward
                scanned.append(streams.launch_on(side, self.scan, *segment, space, states[at]))
        return self.gradients(results, [d for d in dstates[0] if d is not None])

    def scan(
        self, first: int, chunks: int, space: Space, state: Sequence[Tensor], after: Sequence[Tensor | None] = NOTHING,
        anchor: Sequence[Tensor | None] = NOTHING[:2],
    ) -> None:  # fmt: skip
        """Chunks' start states and errors go to `space`, what is `after` them and the anchor to places of theirs."""
        if self.tiles > 1 and space.arrived is not None:
            space.arrived.zero_()
        self.launch(
            state_fwd_kernel, (self.tiles * self.rows,), self.k, self.v, *space.coefficients[2:], *self.norm, *state,
            *after, *anchor, *self.prior, *space.saved, space.z2, space.err, space.shared, space.arrived,
            len(state[0]) * self.heads, self.time, self.heads, first, chunks, warps=self.warps,
        )  # fmt: skip

    def read(self, first: int, chunks: int, space: Space, y: Tensor) -> None:
        """All reads of a segment whose scan has run."""
        weight, _, vec, _ = space.coefficients
        self.launch(
            read_fwd_kernel, (chunks, self.rows), self.q, self.k, space.err, weight, vec, *space.saved, *self.prior,
            *self.norm, y, self.time, self.heads, first, chunks, warps=self.read_warps,
        )  # fmt: skip

    def reads_bwd(self, first: int, chunks: int, space: Space, dy: Tensor, results: Results) -> None:
        """What the backward scan and the writes take from the reads."""
        s = space
        weight, _, vec, _ = s.coefficients
        shape = (self.time, self.heads, first, chunks)
        grid = (chunks, self.rows)
        self.launch(
            read_again_kernel, grid, self.q, self.k, s.err, weight, vec, *s.saved, *self.prior, self.norm[0], dy,
            s.derr, s.x, s.e1, s.slope, s.curve, s.xq, s.dzq1, s.dzq2, s.dscores, s.dweight, s.dvec, *s.dnorm, *shape,
            warps=self.read_warps,
        )  # fmt: skip
        self.launch(
            read_bwd_kernel, grid, self.q, self.k, weight, vec, *s.saved, *self.prior, dy, s.x, s.e1, s.xq, s.dzq2,
            s.dscores, results.q, s.dk_read, s.dx, s.de1, s.dzq1, s.dweight, s.dvec, *shape, warps=self.read_warps,
        )  # fmt: skip

    def scan_bwd(
        self, first: int, chunks: int, space: Space, dstate: Sequence[Tensor | None], results: Results
    ) -> None:
        """`dstate`: gradients of the state before the segment, to be written, behind it, and of the anchor."""
        s = space
        _, _, vec, m_last = s.coefficients
        if self.tiles > 1 and s.arrived is not None:
            s.arrived.zero_()
        self.launch(
            state_bwd_kernel, (self.tiles * self.rows,), self.q, self.k, self.v, s.z2, s.err, vec, m_last, *self.norm,
            s.saved[1], s.x, s.slope, s.curve, s.dx, s.de1, s.xq, s.dzq1, s.dzq2, s.derr, *dstate, *s.dsaved, s.dz1,
            results.v, *results.norm, s.shared, s.arrived, self.time, self.heads, first, chunks, warps=self.warps,
        )  # fmt: skip

    def writes_bwd(self, first: int, chunks: int, space: Space, results: Results) -> None:
        """What no other kernel waits for: gradients of keys, prior and gates."""
        s = space
        self.launch(
            write_bwd_kernel, (chunks, self.rows), self.k, s.err, s.coefficients.vec, *s.saved, *self.prior, *s.dsaved,
            s.x, s.e1, s.dz1, s.dk_read, results.v, results.k, s.dvec, s.dm_last, self.time, self.heads, first, chunks,
            warps=self.warps,
        )  # fmt: skip
        prior_parts = (*s.dsaved[:2], s.xq, s.dzq1, s.dzq2)
        self.finish(first, chunks, space, s.dweight, prior_parts, results)

    def new_dnorm(self) -> Tensor | list[None]:
        """Room for the reads' gradients of LayerNorm's scale and shift, [2, B*H * chunks, D]."""
        return self.new(2, self.rows * self.longest, self.width) if self.flags["NORM"] else [None, None]

    def finish(
        self,
        first: int,
        chunks: int,
        space: Finishable,
        dweight: Tensor,
        prior_parts: tuple[Tensor, ...],
        results: Results,
    ) -> None:
        """The gradients of a segment that are summed over its chunks, and those of its gates."""
        if results.read_norm is not None and isinstance(space.dnorm, Tensor):
            part = space.dnorm[:, : self.rows * chunks].unflatten(1, (self.rows, chunks))
            results.read_norm[:, :, first : first + chunks] = part
        if results.prior:
            self.launch(
                prior_bwd_kernel, (self.tiles, len(results.prior[0]) * self.heads), self.q, space.coefficients.vec,
                *prior_parts, *results.prior, self.batch, self.time, self.heads, first, chunks,
            )  # fmt: skip
        dcoefficients = (dweight, space.dvec, space.dm_last)
        self.gate_gradients(first, chunks, space.coefficients, dcoefficients, results.gates)

    def new_results(self) -> Results:
        """Room for the gradients of all inputs but the state."""
        norm = self.flags["NORM"]
        return Results(
            q=torch.empty_like(self.q),
            k=torch.empty_like(self.q),
            v=torch.empty_like(self.q),
            gates=[torch.empty_like(gate) for gate in self.gates],
            norm=self.new(2, self.rows, self.summands, self.width).zero_() if norm else [None, None],
            read_norm=self.new(2, self.rows, self.chunks, self.width) if norm else None,
            prior=[self.new_dprior(self.tiles, self.hidden) for _ in range(2)] if self.flags["PRIOR"] else [],
        )

    def gradients(self, results: Results, dstate: list[Tensor]) -> Gradients:
        """The sums over sequences of what all heads of a batch have stored."""
        norm = []
        if results.read_norm is not None and isinstance(results.norm, Tensor):
            both = results.read_norm.sum(2) + results.norm.sum(2)
            norm = [d.view(self.batch, self.heads, self.width).sum(0) for d in both]
        prior = [d.sum(0) for d in results.prior]
        return Gradients([results.q, results.k, results.v, *results.gates], dstate, norm, prior)
