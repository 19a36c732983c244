"""Segments of the two-layer memory on Gluon kernels, for the sizes that suit Hopper's tensor cores."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import triton
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from memory.ops.serves import GLUON_SIDE as SIDE  # tokens of a chunk, channels of a head: all tiles are [.., SIDE]
from memory.ops.triton.kernels.hopper.read import read_kernel
from memory.ops.triton.kernels.hopper.reads_backward import reads_bwd_kernel
from memory.ops.triton.kernels.hopper.reads_backward_wide import reads_bwd_wide_kernel
from memory.ops.triton.kernels.hopper.scan import scan_kernel
from memory.ops.triton.kernels.hopper.scan_backward import scan_bwd_kernel
from memory.ops.triton.kernels.hopper.writes_backward import writes_bwd_kernel
from memory.ops.triton.mlp import NOTHING, Portable, Results
from memory.ops.triton.plan import idle_share

BLOCK = 128  # hidden units of a scan's program
SCAN_WARPS = BLOCK // 16  # a warp holds 16 rows of each product
WIDE = 256  # hidden units that the reads' gradient takes at once, where there are so many
READ_PROGRAMS = 3  # on an SM, where programs walk over chunks
PRIOR_READ_PROGRAMS = 2  # the same where forgetting leads to M_0
WRITE_PROGRAMS = 2
MOST_IDLE = 0.2  # share of the SMs' time that a scan may leave unused; where it is more, other kernels run beside it

LAYOUTS = {rows: gl.NVMMASharedLayout.get_default_for([rows, SIDE], gl.bfloat16) for rows in (SIDE, BLOCK)}


def tiles(buffer: Tensor, height: int) -> TensorDescriptor:
    """A descriptor of `buffer` [.., SIDE] in tiles of [height, SIDE]."""
    layout = cast(gl.NVMMASharedLayout, LAYOUTS[height])
    return TensorDescriptor.from_tensor(buffer.view(-1, SIDE), [height, SIDE], layout)


def multiprocessors(device: torch.device) -> int:
    """How many SMs a GPU has."""
    return torch.cuda.get_device_properties(device).multi_processor_count


class Space:
    """Buffers of a segment, as long as the longest, with the descriptors that kernels take.

    States and hidden activations lie in one buffer each, [parts, B*H, chunks, E, SIDE], those of the tokens in `small`.
    """

    def __init__(self, plan: "Hopper", backward: bool) -> None:
        def new(*shape: int) -> Tensor:
            return plan.new(*shape, dtype=plan.dtype)

        self.chunks = plan.rows * plan.longest
        self.coefficients = plan.new_coefficients(backward)
        self.shared, self.arrived = plan.meeting()
        self.err = new(self.chunks, SIDE, SIDE)
        saved = new(4, self.chunks, plan.hidden, SIDE)
        self.saved = tiles(saved, SIDE)
        self.saved_block = tiles(saved, BLOCK)
        if not backward:
            return
        self.hidden = new(6, self.chunks, plan.hidden, SIDE)
        self.small = new(6, self.chunks, SIDE, SIDE)
        self.dstates = torch.empty_like(saved)
        dz1 = new(self.chunks, plan.hidden, SIDE)
        self.dsaved = tiles(self.dstates, SIDE)
        self.dsaved_block = tiles(self.dstates, BLOCK)
        self.hiddens = tiles(self.hidden, SIDE)
        self.hiddens_block = tiles(self.hidden, BLOCK)
        self.dz1 = tiles(dz1, SIDE)
        self.dz1_block = tiles(dz1, BLOCK)
        self.smalls = tiles(self.small, SIDE)
        self.dvec = torch.empty_like(self.coefficients.vec)
        self.dm_last = torch.empty_like(self.coefficients.m_last)
        self.dnorm = plan.new_dnorm()

    def parts(self, buffer: Tensor, chunks: int) -> tuple[Tensor, ...]:
        """The parts of `buffer` in a segment with so many chunks of all heads, which lie one behind the other."""
        return buffer.flatten(0, 1)[: len(buffer) * chunks].unflatten(0, (-1, chunks)).unbind(0)


class Hopper(Portable):
    """`Portable` on the kernels in `kernels/hopper`; momentum is rounded to bfloat16 at every chunk."""

    summands = 4 * SCAN_WARPS
    space = Space

    def at_once(self) -> int:
        """Two segments also where a scan, of which an SM holds one program, leaves many SMs idle in its last round."""
        idle = idle_share(self.rows * self.hidden // BLOCK, multiprocessors(self.device))
        return max(super().at_once(), 2 if idle > MOST_IDLE else 1)

    def meeting(self) -> tuple[Tensor | None, Tensor | None]:
        """Where the programs of one head add up their parts; a head of one program meets nobody."""
        programs = self.hidden // BLOCK
        if programs == 1:
            return None, None
        shared = self.new(self.rows, 4, programs, self.chunk, self.width)
        return shared, self.new(self.rows + 1, dtype=torch.int32)

    def gluon(
        self, kernel: triton.JITFunction, grid: tuple[int, ...], *args: object, first: int, chunks: int, **flags: Any
    ) -> None:
        """Run a kernel on a segment."""
        sizes = (self.time, self.heads, first, chunks, self.rows * chunks * self.hidden)
        self.launch(kernel, grid, *args, *sizes, **flags)

    def in_order(self, kernel: triton.JITFunction, space: Space, *args: object, first: int, chunks: int) -> None:
        """Run a scan, whose programs of one head meet."""
        if space.arrived is not None:
            space.arrived.zero_()
        grid = (self.rows * self.hidden // BLOCK,)
        self.gluon(kernel, grid, *args, first=first, chunks=chunks, warps=SCAN_WARPS, BE=BLOCK)

    def walking(self, programs: int, chunks: int) -> tuple[int]:
        """A grid of so many programs on each SM, or one a chunk."""
        on_device = multiprocessors(self.device) * programs
        return (min(on_device, self.rows * chunks),)

    def scan(
        self, first: int, chunks: int, space: Space, state: Sequence[Tensor], after: Sequence[Tensor | None] = NOTHING,
        anchor: Sequence[Tensor | None] = NOTHING[:2],
    ) -> None:  # fmt: skip
        meeting = (space.shared, space.arrived, len(state[0]) * self.heads)
        self.in_order(
            scan_kernel, space, self.k, self.v, *space.coefficients[2:], *self.norm, *state, *after, *anchor,
            *self.prior, space.saved_block, space.err, *meeting, first=first, chunks=chunks,
        )  # fmt: skip

    def read(self, first: int, chunks: int, space: Space, y: Tensor) -> None:
        weight, _, vec, _ = space.coefficients
        prior = self.flags["PRIOR"]
        grid = self.walking(PRIOR_READ_PROGRAMS if prior else READ_PROGRAMS, chunks)
        self.gluon(
            read_kernel, grid, self.q, self.k, space.err, weight, vec, space.saved, *self.prior, *self.norm, y,
            first=first, chunks=chunks, BE=SIDE, registers=None if prior else 168,
        )  # fmt: skip

    def reads_bwd(self, first: int, chunks: int, space: Space, dy: Tensor, results: Results) -> None:
        weight, _, vec, _ = space.coefficients
        wide = self.hidden == WIDE
        kernel = reads_bwd_wide_kernel if wide else reads_bwd_kernel
        hiddens = space.hiddens_block if wide else space.hiddens
        self.launch(
            kernel, (chunks, self.rows), self.q, self.k, dy, space.err, weight, vec, space.saved_block, *self.prior,
            self.norm[0], hiddens, space.smalls, results.q, space.dvec, *space.dnorm, self.time, self.heads, first,
            chunks, warps=8 if wide else 4,
        )  # fmt: skip

    def scan_bwd(
        self, first: int, chunks: int, space: Space, dstate: Sequence[Tensor | None], results: Results
    ) -> None:
        _, _, vec, m_last = space.coefficients
        attend, dscores, dzq2, derr, _, _ = space.parts(space.small, self.rows * chunks)
        self.in_order(
            scan_bwd_kernel, space, self.q, self.k, self.v, space.err, vec, m_last, *self.norm, space.saved_block,
            space.hiddens_block, dzq2, dscores, attend, derr, *dstate, space.dsaved_block, space.dz1_block, results.v,
            *results.norm, space.shared, space.arrived, first=first, chunks=chunks,
        )  # fmt: skip

    def writes_bwd(self, first: int, chunks: int, space: Space, results: Results) -> None:
        count = self.rows * chunks
        _, _, dzq2, _, dk_read, dweight = space.parts(space.small, count)
        self.gluon(
            writes_bwd_kernel, self.walking(WRITE_PROGRAMS, chunks), self.k, space.err, space.coefficients.vec,
            space.saved, *self.prior, space.dsaved, space.hiddens, space.dz1, dk_read, results.v, results.k, space.dvec,
            space.dm_last, first=first, chunks=chunks, BE=SIDE,
        )  # fmt: skip
        hidden = space.parts(space.hidden, count)
        prior_parts = (*space.parts(space.dstates, count)[:2], hidden[1], hidden[2], dzq2)
        self.finish(first, chunks, space, dweight, prior_parts, results)
