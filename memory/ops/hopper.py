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

BLOCK = 128  # hidden units of a program
SIDE = 64  # tokens of a chunk, channels of a head: every descriptor has tiles of [BLOCK, SIDE]
WARPS = BLOCK // 16  # of the scans: a warp holds 16 rows of each product
LAYOUT = gl.NVMMASharedLayout.get_default_for([BLOCK, SIDE], gl.bfloat16)


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


def tiles(buffer: Tensor) -> TensorDescriptor:
    """A descriptor of `buffer` [.., SIDE]."""
    return TensorDescriptor.from_tensor(buffer.view(-1, SIDE), [BLOCK, SIDE], LAYOUT)


class Hopper(Portable):
    """As `Portable`; states and hidden activations lie in one buffer each, [parts, B*H, chunks, E, SIDE]."""

    summands = 4 * WARPS

    def gluon(
        self, kernel: triton.JITFunction, grid: tuple[int, ...], *args: object, first: int, chunks: int, warps: int
    ) -> None:
        """Run a kernel on a segment."""
        sizes = (self.time, self.heads, first, chunks, self.rows * chunks * self.hidden)
        self.launch(kernel, grid, *args, *sizes, warps=warps, BE=BLOCK)

    def scan(self, kernel: triton.JITFunction, sums: int, *args: object, first: int, chunks: int) -> None:
        """Run a scan, whose programs of one head meet to add up `sums` products."""
        programs = self.hidden // BLOCK
        shared = self.new(self.rows, 2, sums, programs, self.chunk, self.width)
        arrived = torch.zeros(self.rows + 1, dtype=torch.int32, device=self.device)
        grid = (self.rows * programs,)
        self.gluon(kernel, grid, *args, shared, arrived, first=first, chunks=chunks, warps=WARPS)

    def advance(self, first: int, chunks: int, coefficients: tuple, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Scan a segment: `state` moves on in place; returns the chunks' start states and the loss's gradients."""
        saved = self.new(4, self.rows, chunks, self.hidden, self.width, dtype=self.dtype)
        err = self.new(self.rows, chunks, self.chunk, self.width, dtype=self.dtype)
        self.scan(
            scan_kernel, 1, *self.tokens[1:], *coefficients[2:], *self.slow, *state, *self.goals, tiles(saved), err,
            first=first, chunks=chunks,
        )  # fmt: skip
        return saved, err

    def forward(self, first: int, chunks: int, state: list[Tensor], y: Tensor) -> None:
        coefficients = self.coefficients(first, chunks)
        saved, err = self.advance(first, chunks, coefficients, state)
        q, k, _ = self.tokens
        self.gluon(
            read_kernel, (chunks, self.rows), q, k, err, coefficients[0], coefficients[2], tiles(saved), *self.goals,
            *self.slow, y, first=first, chunks=chunks, warps=READ_WARPS,
        )  # fmt: skip

    def backward(
        self, first: int, chunks: int, state: list[Tensor], dy: Tensor, dstate: list[Tensor], grads: Grads
    ) -> None:
        coefficients = self.coefficients(first, chunks, backward=True)
        weight, _, vec, m_last = coefficients
        saved, err = self.advance(first, chunks, coefficients, [part.clone() for part in state])
        (q, k, v), rows = self.tokens, (self.rows, chunks)
        hidden = self.new(6, *rows, self.hidden, self.chunk, dtype=self.dtype)
        attend, dscores, dweight = (torch.empty_like(weight) for _ in range(3))
        dzq2, derr, dk_read = (torch.empty_like(err) for _ in range(3))
        dvec, dm_last = torch.empty_like(vec), torch.empty_like(m_last)
        dslow = [None if slow is None else self.new(*rows, self.width) for slow in self.slow]
        dsaved, dz1 = torch.empty_like(saved), torch.empty_like(hidden[0])
        segment = {"first": first, "chunks": chunks}
        self.gluon(
            reads_bwd_kernel, (chunks, self.rows), q, k, dy, err, weight, vec, tiles(saved), *self.goals, self.slow[0],
            tiles(hidden), attend, dscores, dzq2, derr, grads.q, dk_read, dweight, dvec, *dslow, **segment,
            warps=READS_BWD_WARPS,
        )  # fmt: skip
        self.scan(
            scan_bwd_kernel, 2, q, k, v, err, vec, m_last, *self.slow, tiles(saved), tiles(hidden), dzq2, dscores,
            attend, derr, *dstate, tiles(dsaved), tiles(dz1), grads.v, *grads.slow, **segment,
        )  # fmt: skip
        self.gluon(
            writes_bwd_kernel, (chunks, self.rows), k, err, vec, tiles(saved), tiles(dsaved), tiles(hidden), tiles(dz1),
            dk_read, grads.v, *self.goals, grads.k, dvec, dm_last, **segment, warps=WRITES_BWD_WARPS,
        )  # fmt: skip
        goal_parts = (dsaved[0], dsaved[1], hidden[1], hidden[2], dzq2)
        self.finish(first, chunks, coefficients, (dweight, dvec, dm_last), dslow, goal_parts, grads)
