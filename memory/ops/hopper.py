"""Segments of the two-layer memory on Gluon kernels, for the sizes that suit Hopper's tensor cores."""

import torch
import triton
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from memory.ops.kernels.hopper.read import read_kernel
from memory.ops.kernels.hopper.reads_backward import reads_bwd_kernel
from memory.ops.kernels.hopper.reads_backward_wide import reads_bwd_wide_kernel
from memory.ops.kernels.hopper.scan import scan_kernel
from memory.ops.kernels.hopper.scan_backward import scan_bwd_kernel
from memory.ops.kernels.hopper.writes_backward import writes_bwd_kernel
from memory.ops.launch import INTERPRET
from memory.ops.portable import Grads, Portable

SIDE = 64  # tokens of a chunk, channels of a head: all tiles are [.., SIDE]
BLOCK = 128  # hidden units of a scan's program
SCAN_WARPS = BLOCK // 16  # a warp holds 16 rows of each product
WIDE = 256  # hidden units that the reads' gradient takes at once, where there are so many
READ_PROGRAMS, GOAL_READ_PROGRAMS, WRITE_PROGRAMS = 3, 2, 2  # on an SM, where programs walk over chunks


def serves(q: Tensor, hidden: int, chunk: int) -> bool:
    """Whether these kernels take a call that the portable ones could."""
    return (
        q.is_cuda
        and not INTERPRET
        and torch.cuda.get_device_capability(q.device)[0] == 9
        and q.dtype == torch.bfloat16
        and q.shape[-1] == chunk == SIDE
        and hidden in (BLOCK, WIDE)
    )


LAYOUTS = {rows: gl.NVMMASharedLayout.get_default_for([rows, SIDE], gl.bfloat16) for rows in (SIDE, BLOCK)}


def tiles(buffer: Tensor, height: int) -> TensorDescriptor:
    """A descriptor of `buffer` [.., SIDE] in tiles of [height, SIDE]."""
    return TensorDescriptor.from_tensor(buffer.view(-1, SIDE), [height, SIDE], LAYOUTS[height])


class Space:
    """Buffers of a segment with the descriptors that kernels take, made once for all segments of a length.

    States and hidden activations lie in one buffer each, [parts, B*H, chunks, E, SIDE].
    """

    def __init__(self, run: "Hopper", chunks: int, backward: bool) -> None:
        def new(*shape: int) -> Tensor:
            return run.new(*shape, dtype=run.dtype)

        rows = (run.rows, chunks)
        self.err, saved = new(*rows, SIDE, SIDE), new(4, *rows, run.hidden, SIDE)
        self.saved, self.saved_block = tiles(saved, SIDE), tiles(saved, BLOCK)
        if backward:
            self.hidden, self.small = new(6, *rows, run.hidden, SIDE), new(6, *rows, SIDE, SIDE)
            self.dstates, dz1 = torch.empty_like(saved), torch.empty_like(self.hidden[0])
            self.dsaved, self.dsaved_block = tiles(self.dstates, SIDE), tiles(self.dstates, BLOCK)
            self.hiddens, self.hiddens_block = tiles(self.hidden, SIDE), tiles(self.hidden, BLOCK)
            self.dz1, self.dz1_block, self.smalls = tiles(dz1, SIDE), tiles(dz1, BLOCK), tiles(self.small, SIDE)


class Hopper(Portable):
    """As `Portable`, on the kernels in `kernels/hopper`; momentum is rounded to bfloat16 at every chunk."""

    summands = 4 * SCAN_WARPS

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        programs = self.hidden // BLOCK
        self.shared = self.new(self.rows, 4, programs, self.chunk, self.width) if programs > 1 else None
        self.spaces: dict[tuple[int, bool], Space] = {}

    def space(self, chunks: int, backward: bool) -> Space:
        if (chunks, backward) not in self.spaces:
            self.spaces[chunks, backward] = Space(self, chunks, backward)
        return self.spaces[chunks, backward]

    def gluon(
        self, kernel: triton.JITFunction, grid: tuple[int, ...], *args: object, first: int, chunks: int, **flags: object
    ) -> None:
        """Run a kernel on a segment."""
        sizes = (self.time, self.heads, first, chunks, self.rows * chunks * self.hidden)
        self.launch(kernel, grid, *args, *sizes, **flags)

    def scan(self, kernel: triton.JITFunction, *args: object, first: int, chunks: int) -> None:
        """Run a scan, whose programs of one head meet."""
        meets = self.shared is not None
        arrived = torch.zeros(self.rows + 1, dtype=torch.int32, device=self.device) if meets else None
        grid = (self.rows * self.hidden // BLOCK,)
        self.gluon(kernel, grid, *args, self.shared, arrived, first=first, chunks=chunks, warps=SCAN_WARPS, BE=BLOCK)

    def walking(self, programs: int, chunks: int) -> tuple[int]:
        """A grid of so many programs on each SM, or one a chunk."""
        on_device = torch.cuda.get_device_properties(self.device).multi_processor_count * programs
        return (min(on_device, self.rows * chunks),)

    def advance(self, first: int, chunks: int, coefficients: tuple, state: list[Tensor], space: Space) -> None:
        """Scan a segment: `state` moves on in place, chunks' start states and the loss's gradients go to `space`."""
        self.scan(
            scan_kernel, *self.tokens[1:], *coefficients[2:], *self.slow, *state, *self.goals, space.saved_block,
            space.err, first=first, chunks=chunks,
        )  # fmt: skip

    def forward(self, first: int, chunks: int, state: list[Tensor], y: Tensor) -> None:
        coefficients, space = self.coefficients(first, chunks), self.space(chunks, False)
        self.advance(first, chunks, coefficients, state, space)
        q, k, _ = self.tokens
        to_goal = self.goals[0] is not None
        self.gluon(
            read_kernel, self.walking(GOAL_READ_PROGRAMS if to_goal else READ_PROGRAMS, chunks), q, k, space.err,
            coefficients[0], coefficients[2], space.saved, *self.goals, *self.slow, y, first=first, chunks=chunks,
            BE=SIDE, registers=None if to_goal else 168,
        )  # fmt: skip

    def backward(self, first: int, chunks: int, state: Tensor, dy: Tensor, dstate: list[Tensor], grads: Grads) -> None:
        coefficients, space = self.coefficients(first, chunks, backward=True), self.space(chunks, True)
        weight, _, vec, m_last = coefficients
        self.advance(first, chunks, coefficients, list(state.clone()), space)
        (q, k, v), err, segment = self.tokens, space.err, {"first": first, "chunks": chunks}
        attend, dscores, dzq2, derr, dk_read, dweight = space.small
        dvec, dm_last = torch.empty_like(vec), torch.empty_like(m_last)
        dslow = [None if slow is None else self.new(self.rows, chunks, self.width) for slow in self.slow]
        wide = self.hidden == WIDE
        self.launch(
            reads_bwd_wide_kernel if wide else reads_bwd_kernel, (chunks, self.rows), q, k, dy, err, weight, vec,
            space.saved_block, *self.goals, self.slow[0], space.hiddens_block if wide else space.hiddens, space.smalls,
            grads.q, dvec, *dslow, self.time, self.heads, first, chunks, warps=8 if wide else 4,
        )  # fmt: skip
        self.scan(
            scan_bwd_kernel, q, k, v, err, vec, m_last, *self.slow, space.saved_block, space.hiddens_block, dzq2,
            dscores, attend, derr, *dstate, space.dsaved_block, space.dz1_block, grads.v, *grads.slow, **segment,
        )  # fmt: skip
        self.gluon(
            writes_bwd_kernel, self.walking(WRITE_PROGRAMS, chunks), k, err, vec, space.saved, *self.goals,
            space.dsaved, space.hiddens, space.dz1, dk_read, grads.v, grads.k, dvec, dm_last, **segment, BE=SIDE,
        )  # fmt: skip
        goal_parts = (*space.dstates[:2], space.hidden[1], space.hidden[2], dzq2)
        self.finish(first, chunks, coefficients, (dweight, dvec, dm_last), dslow, goal_parts, grads)
