"""Segments of the two-layer memory on Triton kernels for NVIDIA GPUs in general, and for Triton's interpreter."""

from dataclasses import dataclass

import torch
from torch import Tensor

from memory.ops.triton import launch, streams
from memory.ops.triton.kernels.mlp_backward import (
    prior_bwd_kernel,
    read_again_kernel,
    read_bwd_kernel,
    state_bwd_kernel,
    write_bwd_kernel,
)
from memory.ops.triton.kernels.mlp_forward import read_fwd_kernel, state_fwd_kernel
from memory.ops.triton.launch import INTERPRET

TILE, SMALL_TILE = 64, 32  # hidden units of a program, and where tiles of tokens or their numbers are twice as large
SEGMENT = 2048  # (chunk, sequence, head) triples: enough programs to fill a GPU, few enough that buffers stay small
FEW = 4096  # hidden units of all heads up to which scans leave most of a GPU idle, and other segments run beside them
FEW_SEGMENT, FEW_CHUNKS = 1024, 64  # triples and chunks of a segment there, where up to three are under way
WARPS, HALF_WARPS = 8, 4  # on an H100: half at full tiles, for the reads and, at chunks of 16, for all kernels


def segments(rows: int, hidden: int) -> launch.Segments:
    """Of few heads the last segments are short: nothing runs beside their preparation for the backward scan."""
    few = rows * hidden <= FEW
    size = min(FEW_SEGMENT // max(rows, 1), FEW_CHUNKS) if few else SEGMENT // max(rows, 1)
    return launch.Segments(max(size, 4), ramp=few)


@dataclass
class Grads:
    """Where a backward pass leaves its gradients.

    q, k, v: [B, T, H, D]. gates: of theta, log eta and log(1 - alpha), [B, T, H]. slow: of LayerNorm's scale and shift
    through writes, [2, B*H, .., D], added to; read_slow: through reads, [2, B*H, chunks, D]; priors: [B*H, E, D], added
    to.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    gates: list[Tensor]
    slow: Tensor | list[None]
    read_slow: Tensor | None
    priors: list[Tensor]


class Space:
    """Buffers of a segment, as long as the longest."""

    def __init__(self, run: "Portable", backward: bool) -> None:
        def new(*shape: int, dtype: torch.dtype = run.dtype) -> Tensor:
            return run.new(run.rows, run.longest, *shape, dtype=dtype)

        token, square, hidden = (run.chunk, run.width), (run.chunk, run.chunk), (run.hidden, run.chunk)
        self.coefficients = run.new_coefficients(backward)
        self.shared, self.arrived = run.meeting()
        self.saved, self.err = [new(run.hidden, run.width) for _ in range(4)], new(*token)
        self.z2 = new(*token, dtype=torch.float32) if backward else None
        if backward:
            self.dk_read, self.derr = (new(*token, dtype=torch.float32) for _ in range(2))
            self.x, self.e1, self.slope, self.curve, self.dx, self.de1, self.xq, self.dzq1, self.dz1 = (
                new(*hidden) for _ in range(9)
            )
            self.dzq2, self.dscores, self.dweight = new(*token), new(*square), new(*square, dtype=torch.float32)
            self.dvec, self.dm_last = (torch.empty_like(part) for part in self.coefficients[2:])
            self.dsaved, self.dslow = [torch.empty_like(part) for part in self.saved], run.new_dslow()


class Portable(launch.Launch):
    """A call on the Triton kernels, of a memory with `hidden` units; priors: what forgetting leads to, or None."""

    summands = 1  # rows that the scan's programs add their gradients of scale and shift to
    space = Space

    def __init__(
        self, tokens: list[Tensor], gates: list[Tensor], slow: list[Tensor | None], priors: list[Tensor | None],
        hidden: int, chunk: int, residual: bool, mask: Tensor | None,
    ):  # fmt: skip
        # the interpreter runs one program after another: none may wait for the next
        exact = tokens[0].dtype == torch.float32
        small = exact or chunk > 64
        tile = hidden if INTERPRET else SMALL_TILE if small else TILE
        self.read_warps = WARPS if small else HALF_WARPS
        self.warps = HALF_WARPS if chunk == 16 and not small else WARPS
        flags = {"E": hidden, "BE": tile, "FAST": not (INTERPRET or exact), "RES": residual}
        flags |= {"NORM": slow[0] is not None, "PRIOR": priors[0] is not None}
        batch, _, heads, _ = tokens[0].shape
        super().__init__(tokens[0], gates, chunk, mask, segments(batch * heads, hidden), **flags)
        self.tokens, self.slow, self.priors, self.hidden, self.tiles = tokens, slow, priors, hidden, hidden // tile
        self.few = self.rows * hidden <= FEW
        apart = self.few and self.device.type == "cuda"
        self.side_streams = [streams.side_stream(self.device, i) if apart else None for i in range(2)]

    def meeting(self) -> tuple[Tensor | None, Tensor | None]:
        """Where the programs of one head add up their parts: see `sum_over_tiles`."""
        shared = self.new(self.rows, 2, self.tiles, self.chunk, self.width)
        return shared, self.new(self.rows + 1, dtype=torch.int32)

    def spaces(self, most: int, backward: bool) -> list[Space]:
        """For as many segments at once as can be under way."""
        return [self.space(self, backward) for _ in range(min(most if self.few else 1, len(self.segments)))]

    def forward(self, state: list[Tensor], y: Tensor) -> Tensor:
        """Move `state` on in place and write y; returns the segments' start states [segments, 4, ..].

        The reads of a segment run beside the scan of the next one.
        """
        starts, spaces = self.new(len(self.segments), 4, *state[0].shape), self.spaces(2, backward=False)
        scanned, late = [], len(spaces) - 1
        for i in range(len(self.segments) + late):
            if i < len(self.segments):
                segment, space = self.segments[i], spaces[i % len(spaces)]
                self.find_coefficients(*segment, space.coefficients)
                scanned.append(streams.launch_on(self.side_streams[0], self.scan, *segment, space, state, starts[i]))
            if i >= late:
                streams.join(self.device, scanned[i - late])
                self.read(*self.segments[i - late], spaces[(i - late) % len(spaces)], y)
        return starts

    def backward(self, starts: Tensor, dy: Tensor, dstate: list[Tensor], danchor: list[Tensor], grads: Grads) -> None:
        """From the gradients of y, of the state behind it and of the anchor to all others; `dstate` moves in place.

        Beside the backward scan of a segment the ones to come are prepared and the one that it left is finished.
        """
        order, spaces = list(enumerate(self.segments))[::-1], self.spaces(3, backward=True)
        late = int(len(spaces) > 1)
        ahead = len(spaces) - late
        scanned, back = [], []

        def scan_bwd(i: int, segment: tuple[int, int], space: Space) -> None:
            self.scan_bwd(*segment, space, dstate, grads)
            if i == 0 and self.time % self.chunk:
                dstate[0] += danchor[0]
                dstate[1] += danchor[1]

        for step in range(len(order) + len(spaces)):
            if 0 <= (i := step - ahead) < len(order):
                segment, space = order[i][1], spaces[i % len(spaces)]
                streams.join(self.device, scanned[i])
                self.reads_bwd(*segment, space, dy, grads)
                back.append(streams.launch_on(self.side_streams[1], scan_bwd, i, segment, space))
            if (i := step - len(spaces)) >= 0:
                streams.join(self.device, back[i])
                self.writes_bwd(*order[i][1], spaces[i % len(spaces)], grads)
            if step < len(order):
                (at, segment), space = order[step], spaces[step % len(spaces)]
                self.find_coefficients(*segment, space.coefficients)
                scanned.append(streams.launch_on(self.side_streams[0], self.scan, *segment, space, starts[at]))

    def scan(self, first: int, chunks: int, space: Space, state: list[Tensor] | Tensor, start: Tensor | None = None):
        """Chunks' start states and errors go to `space`; `state` is kept in `start` and moves on, if there is one."""
        if self.tiles > 1:
            space.arrived.zero_()
        self.launch(
            state_fwd_kernel, (self.tiles * self.rows,), *self.tokens[1:], *space.coefficients[2:], *self.slow, *state,
            start, *self.priors, *space.saved, space.z2, space.err, space.shared, space.arrived, self.time, self.heads,
            first, chunks, warps=self.warps,
        )  # fmt: skip

    def read(self, first: int, chunks: int, space: Space, y: Tensor) -> None:
        (q, k, _), coefficients = self.tokens, space.coefficients
        self.launch(
            read_fwd_kernel, (chunks, self.rows), q, k, space.err, coefficients.weight, coefficients.vec, *space.saved,
            *self.priors, *self.slow, y, self.time, self.heads, first, chunks, warps=self.read_warps,
        )  # fmt: skip

    def reads_bwd(self, first: int, chunks: int, space: Space, dy: Tensor, grads: Grads) -> None:
        """What the backward scan and the writes take from the reads."""
        s, (q, k, _), (weight, _, vec, _) = space, self.tokens, space.coefficients
        shape, grid = (self.time, self.heads, first, chunks), (chunks, self.rows)
        self.launch(
            read_again_kernel, grid, q, k, s.err, weight, vec, *s.saved, *self.priors, self.slow[0], dy, s.derr, s.x,
            s.e1, s.slope, s.curve, s.xq, s.dzq1, s.dzq2, s.dscores, s.dweight, s.dvec, *s.dslow, *shape,
            warps=self.read_warps,
        )  # fmt: skip
        self.launch(
            read_bwd_kernel, grid, q, k, weight, vec, *s.saved, *self.priors, dy, s.x, s.e1, s.xq, s.dzq2, s.dscores,
            grads.q, s.dk_read, s.dx, s.de1, s.dzq1, s.dweight, s.dvec, *shape, warps=self.read_warps,
        )  # fmt: skip

    def scan_bwd(self, first: int, chunks: int, space: Space, dstate: list[Tensor], grads: Grads) -> None:
        """`dstate` goes from the segment's end to its start in place."""
        s, (_, _, vec, m_last) = space, space.coefficients
        if self.tiles > 1:
            s.arrived.zero_()
        self.launch(
            state_bwd_kernel, (self.tiles * self.rows,), *self.tokens, s.z2, s.err, vec, m_last, *self.slow, s.saved[1],
            s.x, s.slope, s.curve, s.dx, s.de1, s.xq, s.dzq1, s.dzq2, s.derr, *dstate, *s.dsaved, s.dz1, grads.v,
            *grads.slow, s.shared, s.arrived, self.time, self.heads, first, chunks, warps=self.warps,
        )  # fmt: skip

    def writes_bwd(self, first: int, chunks: int, space: Space, grads: Grads) -> None:
        """What no other kernel waits for: gradients of keys, priors and gates."""
        s = space
        self.launch(
            write_bwd_kernel, (chunks, self.rows), self.tokens[1], s.err, s.coefficients.vec, *s.saved, *self.priors,
            *s.dsaved, s.x, s.e1, s.dz1, s.dk_read, grads.v, grads.k, s.dvec, s.dm_last, self.time, self.heads, first,
            chunks, warps=self.warps,
        )  # fmt: skip
        self.finish(first, chunks, space, s.dweight, (*s.dsaved[:2], s.xq, s.dzq1, s.dzq2), grads)

    def new_dslow(self) -> Tensor | list[None]:
        """Room for the reads' gradients of LayerNorm's scale and shift, [2, B*H * chunks, D]."""
        return self.new(2, self.rows * self.longest, self.width) if self.slow[0] is not None else [None, None]

    def finish(
        self, first: int, chunks: int, space: Space, dweight: Tensor, prior_parts: tuple[Tensor, ...], grads: Grads
    ) -> None:
        if grads.read_slow is not None:
            part = space.dslow[:, : self.rows * chunks].unflatten(1, (self.rows, chunks))
            grads.read_slow[:, :, first : first + chunks] = part
        if grads.priors:
            self.launch(
                prior_bwd_kernel, (self.tiles, self.rows), self.tokens[0], space.coefficients.vec, *prior_parts,
                *grads.priors, self.time, self.heads, first, chunks,
            )  # fmt: skip
        self.gate_gradients(first, chunks, space.coefficients, (dweight, space.dvec, space.dm_last), grads.gates)

    def new_grads(self) -> Grads:
        q, slow, priors = self.tokens[0], self.slow[0] is not None, self.priors[0] is not None
        return Grads(
            *(torch.empty_like(q) for _ in range(3)),
            [torch.empty_like(gate) for gate in self.gates],
            self.new(2, self.rows, self.summands, self.width).zero_() if slow else [None, None],
            self.new(2, self.rows, self.chunks, self.width) if slow else None,
            [torch.zeros(self.rows, self.hidden, self.width, device=q.device) for _ in range(2)] if priors else [],
        )
