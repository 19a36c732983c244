"""Segments of the two-layer memory on Gluon kernels, for the sizes that suit Hopper's tensor cores."""

import torch
import triton
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from memory.ops.kernels.hopper.read import read_kernel
from memory.ops.kernels.hopper.reads_backward import reads_bwd_kernel
from memory.ops.kernels.hopper.scan import scan_kernel
from memory.ops.kernels.hopper.scan_backward import scan_bwd_kernel
from memory.ops.kernels.hopper.writes_backward import writes_bwd_kernel
from memory.ops.launch import INTERPRET
from memory.ops.portable import Grads, Portable

SIDE = 64  # tokens of a chunk, channels of a head: all tiles are [.., SIDE]
BLOCK = 128  # hidden units of a scan's program
SCAN_WARPS = BLOCK // 16  # a warp holds 16 rows of each product
READ_PROGRAMS, GOAL_READ_PROGRAMS, WRITE_PROGRAMS = 3, 2, 2  # on an SM, where programs walk over chunks


def serves(q: Tensor, hidden: int, chunk: int) -> bool:
    """Whether these kernels take a call that the portable ones could."""
    return (
        q.is_cuda
        and not INTERPRET
        and torch.cuda.get_device_capability(q.device)[0] == 9
        and q.dtype == torch.bfloat16
        and q.shape[-1] == chunk == SIDE
        and hidden % BLOCK == 0
    )


def tiles(buffer: Tensor, height: int) -> TensorDescriptor:
    """A descriptor of `buffer` [.., SIDE] in tiles of [height, SIDE]."""
    layout = gl.NVMMASharedLayout.get_default_for([height, SIDE], gl.bfloat16)
    return TensorDescriptor.from_tensor(buffer.view(-1, SIDE), [height, SIDE], layout)


class Hopper(Portable):
    """As `Portable`; states and hidden activations lie in one buffer each, [parts, B*H, chunks, E, SIDE]."""

    summands = 4 * SCAN_WARPS

    def gluon(
        self, kernel: triton.JITFunction, grid: tuple[int, ...], *args: object, first: int, chunks: int, **flags: object
    ) -> None:
        """Run a kernel on a segment."""
        sizes = (self.time, self.heads, first, chunks, self.rows * chunks * self.hidden)
        self.launch(kernel, grid, *args, *sizes, **flags)

    def scan(self, kernel: triton.JITFunction, sums: int, *args: object, first: int, chunks: int) -> None:
        """Run a scan, whose programs of one head meet to add up `sums` products."""
        programs = self.hidden // BLOCK
        shared = self.new(self.rows, 2, sums, programs, self.chunk, self.width)
        arrived = torch.zeros(self.rows + 1, dtype=torch.int32, device=self.device)
        grid = (self.rows * programs,)
        self.gluon(kernel, grid, *args, shared, arrived, first=first, chunks=chunks, warps=SCAN_WARPS, BE=BLOCK)

    def walking(self, programs: int, chunks: int) -> tuple[int]:
        """A grid of so many programs on each SM, or one a chunk."""
        return (
            min(programs * torch.cuda.get_device_properties(self.device).multi_processor_count, self.rows * chunks),
        )

    def advance(self, first: int, chunks: int, coefficients: tuple, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Scan a segment: `state` moves on in place; returns the chunks' start states and the loss's gradients."""
        saved = self.new(4, self.rows, chunks, self.hidden, self.width, dtype=self.dtype)
        err = self.new(self.rows, chunks, self.chunk, self.width, dtype=self.dtype)
        self.scan(
            scan_kernel, 1, *self.tokens[1:], *coefficients[2:], *self.slow, *state, *self.goals, tiles(saved, BLOCK),
            err, first=first, chunks=chunks,
        )  # fmt: skip
        return saved, err

    def forward(self, first: int, chunks: int, state: list[Tensor], y: Tensor) -> None:
        coefficients = self.coefficients(first, chunks)
        saved, err = self.advance(first, chunks, coefficients, state)
        q, k, _ = self.tokens
        forgets_to_goal = self.goals[0] is not None
        grid = self.walking(GOAL_READ_PROGRAMS if forgets_to_goal else READ_PROGRAMS, chunks)
        self.gluon(
            read_kernel, grid, q, k, err, coefficients[0], coefficients[2], tiles(saved, SIDE), *self.goals, *self.slow,
            y, first=first, chunks=chunks, BE=SIDE, registers=None if forgets_to_goal else 168,
        )  # fmt: skip

    def backward(
        self, first: int, chunks: int, state: list[Tensor], dy: Tensor, dstate: list[Tensor], grads: Grads
    ) -> None:
        coefficients = self.coefficients(first, chunks, backward=True)
        weight, _, vec, m_last = coefficients
        saved, err = self.advance(first, chunks, coefficients, [part.clone() for part in state])
        (q, k, v), rows = self.tokens, (self.rows, chunks)
        hidden = self.new(6, *rows, self.hidden, self.chunk, dtype=self.dtype)
        small = self.new(6, *rows, self.chunk, self.width, dtype=self.dtype)
        attend, dscores, dzq2, derr, dk_read, dweight = small
        dvec, dm_last = torch.empty_like(vec), torch.empty_like(m_last)
        dslow = [None if slow is None else self.new(*rows, self.width) for slow in self.slow]
        dsaved, dz1 = torch.empty_like(saved), torch.empty_like(hidden[0])
        segment = {"first": first, "chunks": chunks}
        self.launch(
            reads_bwd_kernel, (chunks, self.rows), q, k, dy, err, weight, vec, tiles(saved, BLOCK), *self.goals,
            self.slow[0], tiles(hidden, SIDE), tiles(small, SIDE), grads.q, dvec, *dslow, self.time, self.heads, first,
            chunks,
        )  # fmt: skip
        self.scan(
            scan_bwd_kernel, 2, q, k, v, err, vec, m_last, *self.slow, tiles(saved, BLOCK), tiles(hidden, BLOCK), dzq2,
            dscores, attend, derr, *dstate, tiles(dsaved, BLOCK), tiles(dz1, BLOCK), grads.v, *grads.slow, **segment,
        )  # fmt: skip
        self.gluon(
            writes_bwd_kernel, self.walking(WRITE_PROGRAMS, chunks), k, err, vec, tiles(saved, SIDE), *self.goals,
            tiles(dsaved, SIDE), tiles(hidden, SIDE), tiles(dz1, SIDE), dk_read, grads.v, grads.k, dvec, dm_last,
            **segment, BE=SIDE,
        )  # fmt: skip
        goal_parts = (dsaved[0], dsaved[1], hidden[1], hidden[2], dzq2)
        self.finish(first, chunks, coefficients, (dweight, dvec, dm_last), dslow, goal_parts, grads)
