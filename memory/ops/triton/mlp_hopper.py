"""Segments of the two-layer memory on Gluon kernels, for the sizes that suit Hopper's tensor cores."""

import torch
import triton
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from memory.ops.triton.kernels.hopper.read import read_kernel
from memory.ops.triton.kernels.hopper.reads_backward import reads_bwd_kernel
from memory.ops.triton.kernels.hopper.reads_backward_wide import reads_bwd_wide_kernel
from memory.ops.triton.kernels.hopper.scan import scan_kernel
from memory.ops.triton.kernels.hopper.scan_backward import scan_bwd_kernel
from memory.ops.triton.kernels.hopper.writes_backward import writes_bwd_kernel
from memory.ops.triton.launch import INTERPRET, is_hopper
from memory.ops.triton.mlp import Grads, Portable

SIDE = 64  # tokens of a chunk, channels of a head: all tiles are [.., SIDE]
BLOCK = 128  # hidden units of a scan's program
SCAN_WARPS = BLOCK // 16  # a warp holds 16 rows of each product
WIDE = 256  # hidden units that the reads' gradient takes at once, where there are so many
READ_PROGRAMS, PRIOR_READ_PROGRAMS, WRITE_PROGRAMS = 3, 2, 2  # on an SM, where programs walk over chunks


def serves(q: Tensor, hidden: int, chunk: int) -> bool:
    """Whether these kernels take a call that the portable ones could."""
    return (
        not INTERPRET
        and is_hopper(q.device)
        and q.dtype == torch.bfloat16
        and q.shape[-1] == chunk == SIDE
        and hidden in (BLOCK, WIDE)
    )


LAYOUTS = {rows: gl.NVMMASharedLayout.get_default_for([rows, SIDE], gl.bfloat16) for rows in (SIDE, BLOCK)}


def tiles(buffer: Tensor, height: int) -> TensorDescriptor:
    """A descriptor of `buffer` [.., SIDE] in tiles of [height, SIDE]."""
    return TensorDescriptor.from_tensor(buffer.view(-1, SIDE), [height, SIDE], LAYOUTS[height])


class Space:
    """Buffers of a segment, as long as the longest, with the descriptors that kernels take.

    States and hidden activations lie in one buffer each, [parts, B*H, chunks, E, SIDE], those of the tokens in `small`.
    """

    def __init__(self, run: "Hopper", backward: bool) -> None:
        def new(*shape: int) -> Tensor:
            return run.new(*shape, dtype=run.dtype)

        self.chunks = run.rows * run.longest
        self.coefficients = run.new_coefficients(backward)
        self.shared, self.arrived = run.meeting()
        self.err, saved = new(self.chunks, SIDE, SIDE), new(4, self.chunks, run.hidden, SIDE)
        self.saved, self.saved_block = tiles(saved, SIDE), tiles(saved, BLOCK)
        if backward:
            self.hidden, self.small = new(6, self.chunks, run.hidden, SIDE), new(6, self.chunks, SIDE, SIDE)
            self.dstates, dz1 = torch.empty_like(saved), new(self.chunks, run.hidden, SIDE)
            self.dsaved, self.dsaved_block = tiles(self.dstates, SIDE), tiles(self.dstates, BLOCK)
            self.hiddens, self.hiddens_block = tiles(self.hidden, SIDE), tiles(self.hidden, BLOCK)
            self.dz1, self.dz1_block, self.smalls = tiles(dz1, SIDE), tiles(dz1, BLOCK), tiles(self.small, SIDE)
            self.dvec, self.dm_last = (torch.empty_like(part) for part in self.coefficients[2:])
            self.dslow = run.new_dslow()

    def parts(self, buffer: Tensor, chunks: int) -> tuple[Tensor, ...]:
        """The parts of `buffer` in a segment with so many chunks of all heads, which lie one behind the other."""
        return buffer.flatten(0, 1)[: len(buffer) * chunks].unflatten(0, (-1, chunks)).unbind(0)


class Hopper(Portable):
    """As `Portable`, on the kernels in `kernels/hopper`; momentum is rounded to bfloat16 at every chunk."""

    summands = 4 * SCAN_WARPS
    space = Space

    def meeting(self) -> tuple[Tensor | None, Tensor | None]:
        programs = self.hidden // BLOCK
        if programs == 1:
            return None, None
        shared = self.new(self.rows, 4, programs, self.chunk, self.width)
        return shared, self.new(self.rows + 1, dtype=torch.int32)

    def gluon(
        self, kernel: triton.JITFunction, grid: tuple[int, ...], *args: object, first: int, chunks: int, **flags: object
    ) -> None:
        """Run a kernel on a segment."""
        sizes = (self.time, self.heads, first, chunks, self.rows * chunks * self.hidden)
        self.launch(kernel, grid, *args, *sizes, **flags)

    def in_order(self, kernel: triton.JITFunction, space: Space, *args: object, first: int, chunks: int) -> None:
        """Run a scan, whose programs of one head meet."""
        if space.arrived is not None:
            space.arrived.zero_()
        grid, meeting = (self.rows * self.hidden // BLOCK,), (space.shared, space.arrived)
        self.gluon(kernel, grid, *args, *meeting, first=first, chunks=chunks, warps=SCAN_WARPS, BE=BLOCK)

    def walking(self, programs: int, chunks: int) -> tuple[int]:
        """A grid of so many programs on each SM, or one a chunk."""
        on_device = torch.cuda.get_device_properties(self.device).multi_processor_count * programs
        return (min(on_device, self.rows * chunks),)

    def scan(self, first: int, chunks: int, space: Space, state: list[Tensor] | Tensor, start: Tensor | None = None):
        self.in_order(
            scan_kernel, space, *self.tokens[1:], *space.coefficients[2:], *self.slow, *state, start, *self.priors,
            space.saved_block, space.err, first=first, chunks=chunks,
        )  # fmt: skip

    def read(self, first: int, chunks: int, space: Space, y: Tensor) -> None:
        (q, k, _), coefficients = self.tokens, space.coefficients
        to_prior = self.priors[0] is not None
        self.gluon(
            read_kernel, self.walking(PRIOR_READ_PROGRAMS if to_prior else READ_PROGRAMS, chunks), q, k, space.err,
            coefficients.weight, coefficients.vec, space.saved, *self.priors, *self.slow, y, first=first, chunks=chunks,
            BE=SIDE, registers=None if to_prior else 168,
        )  # fmt: skip

    def reads_bwd(self, first: int, chunks: int, space: Space, dy: Tensor, grads: Grads) -> None:
        (q, k, _), (weight, _, vec, _), wide = self.tokens, space.coefficients, self.hidden == WIDE
        self.launch(
            reads_bwd_wide_kernel if wide else reads_bwd_kernel, (chunks, self.rows), q, k, dy, space.err, weight, vec,
            space.saved_block, *self.priors, self.slow[0], space.hiddens_block if wide else space.hiddens, space.smalls,
            grads.q, space.dvec, *space.dslow, self.time, self.heads, first, chunks, warps=8 if wide else 4,
        )  # fmt: skip

    def scan_bwd(self, first: int, chunks: int, space: Space, dstate: list[Tensor], grads: Grads) -> None:
        (q, k, v), (_, _, vec, m_last) = self.tokens, space.coefficients
        attend, dscores, dzq2, derr, _, _ = space.parts(space.small, self.rows * chunks)
        self.in_order(
            scan_bwd_kernel, space, q, k, v, space.err, vec, m_last, *self.slow, space.saved_block,
            space.hiddens_block, dzq2, dscores, attend, derr, *dstate, space.dsaved_block, space.dz1_block, grads.v,
            *grads.slow, first=first, chunks=chunks,
        )  # fmt: skip

    def writes_bwd(self, first: int, chunks: int, space: Space, grads: Grads) -> None:
        many = self.rows * chunks
        _, _, dzq2, _, dk_read, dweight = space.parts(space.small, many)
        self.gluon(
            writes_bwd_kernel, self.walking(WRITE_PROGRAMS, chunks), self.tokens[1], space.err, space.coefficients.vec,
            space.saved, *self.priors, space.dsaved, space.hiddens, space.dz1, dk_read, grads.v, grads.k, space.dvec,
            space.dm_last, first=first, chunks=chunks, BE=SIDE,
        )  # fmt: skip
        hidden = space.parts(space.hidden, many)
        prior_parts = (*space.parts(space.dstates, many)[:2], hidden[1], hidden[2], dzq2)
        self.finish(first, chunks, space, dweight, prior_parts, grads)
