"""Segments of the two-layer memory on Triton kernels for NVIDIA GPUs in general, and for Triton's interpreter."""

from dataclasses import dataclass

import torch
from torch import Tensor

from memory.ops import launch
from memory.ops.kernels.backward import (
    goal_bwd_kernel,
    read_again_kernel,
    read_bwd_kernel,
    state_bwd_kernel,
    write_bwd_kernel,
)
from memory.ops.kernels.forward import read_fwd_kernel, state_fwd_kernel
from memory.ops.launch import INTERPRET

TILE = 64  # hidden units of a program
SEGMENT = 2048  # enough programs to fill a GPU, few enough that buffers stay small
WARPS = {"state_fwd": 8, "read_fwd": 4, "read_again": 4, "read_bwd": 4, "state_bwd": 8, "write_bwd": 8}  # on an H100


def segment(rows: int) -> int:
    """Chunks of a segment."""
    return max(SEGMENT // max(rows, 1), 4)


@dataclass
class Grads:
    """Where a backward pass leaves its gradients.

    q, k, v: [B, T, H, D]. gates: of theta, log eta and log(1 - alpha), [B, T, H]. slow: of LayerNorm's scale and shift
    through writes, [B*H, .., D], added to; read_slow: through reads, [B*H, chunks, D]; goals: [B, H, E, D], added to.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    gates: list[Tensor]
    slow: list[Tensor | None]
    read_slow: list[Tensor | None]
    goals: list[Tensor]


class Portable(launch.Launch):
    """Segments on the Triton kernels, of a memory with `hidden` units; goals: what forgetting leads to, or None."""

    summands = 1  # rows that the scan's programs add their gradients of scale and shift to

    def __init__(
        self, tokens: list[Tensor], gates: list[Tensor], slow: list[Tensor | None], goals: list[Tensor | None],
        hidden: int, chunk: int, residual: bool, mask: Tensor | None,
    ):  # fmt: skip
        # the interpreter runs one program after another: none may wait for the next
        tile = hidden if INTERPRET else TILE
        flags = {"E": hidden, "BE": tile, "FAST": not INTERPRET, "RES": residual}
        flags |= {"NORM": slow[0] is not None, "TARGET": goals[0] is not None}
        batch, _, heads, _ = tokens[0].shape
        super().__init__(tokens[0], gates, chunk, mask, segment(batch * heads), **flags)
        self.tokens, self.slow, self.goals, self.hidden, self.tiles = tokens, slow, goals, hidden, hidden // tile

    def meeting(self) -> tuple[Tensor, Tensor]:
        """Where the programs of one head add up their parts: see `sum_over_tiles`."""
        shared = self.new(self.rows, 2, self.tiles, self.chunk, self.width)
        return shared, torch.zeros(self.rows + 1, dtype=torch.int32, device=self.device)

    def advance(
        self, first: int, chunks: int, coefficients: tuple, state: list[Tensor], backward: bool = False
    ) -> tuple[list[Tensor], Tensor | None, Tensor]:
        """Scan a segment: `state` moves on in place; returns chunks' start states, outputs (if backward) and errors."""
        saved = [self.new(self.rows, chunks, self.hidden, self.width, dtype=self.dtype) for _ in range(4)]
        of_chunk = (self.rows, chunks, self.chunk, self.width)
        z2, err = self.new(*of_chunk) if backward else None, self.new(*of_chunk, dtype=self.dtype)
        self.launch(
            state_fwd_kernel, (self.tiles * self.rows,), *self.tokens[1:], *coefficients[2:], *self.slow, *state,
            *self.goals, *saved, z2, err, *self.meeting(), self.time, self.heads, first, chunks,
            warps=WARPS["state_fwd"],
        )  # fmt: skip
        return saved, z2, err

    def forward(self, first: int, chunks: int, state: list[Tensor], y: Tensor) -> None:
        """Take a segment: `state` moves on in place, its tokens' part of y is written."""
        coefficients = self.coefficients(first, chunks)
        saved, _, err = self.advance(first, chunks, coefficients, state)
        q, k, _ = self.tokens
        self.launch(
            read_fwd_kernel, (chunks, self.rows), q, k, err, coefficients[0], coefficients[2], *saved, *self.goals,
            *self.slow, y, self.time, self.heads, first, chunks, warps=WARPS["read_fwd"],
        )  # fmt: skip

    def backward(self, first: int, chunks: int, state: Tensor, dy: Tensor, dstate: list[Tensor], grads: Grads):
        """Take a segment back: `state` is that at its start, `dstate` goes from its end to its start in place."""
        coefficients = self.coefficients(first, chunks, backward=True)
        weight, _, vec, m_last = coefficients
        saved, z2, err = self.advance(first, chunks, coefficients, list(state.clone()), backward=True)
        (q, k, v), rows, of_chunk = self.tokens, (self.rows, chunks), (self.chunk, self.width)
        dk_read, derr = (self.new(*rows, *of_chunk) for _ in range(2))
        x, e1, slope, curve, dx, de1, xq, dzq1, dz1 = (
            self.new(*rows, self.hidden, self.chunk, dtype=self.dtype) for _ in range(9)
        )
        dzq2 = self.new(*rows, *of_chunk, dtype=self.dtype)
        dweight, dvec, dm_last = (
            self.new(*rows, self.chunk, self.chunk),
            self.new(*rows, 4, self.chunk),
            self.new(*rows),
        )
        dslow = [None if slow is None else self.new(*rows, self.width) for slow in self.slow]
        dscores, dsaved = torch.empty_like(weight), [torch.empty_like(part) for part in saved]
        shape, grid = (self.time, self.heads, first, chunks), (chunks, self.rows)
        self.launch(
            read_again_kernel, grid, q, k, err, weight, vec, *saved, *self.goals, self.slow[0], dy, derr, x, e1, slope,
            curve, xq, dzq1, dzq2, dscores, dweight, dvec, *dslow, *shape, warps=WARPS["read_again"],
        )  # fmt: skip
        self.launch(
            read_bwd_kernel, grid, q, k, weight, vec, *saved, *self.goals, dy, x, e1, xq, dzq2, dscores, grads.q,
            dk_read, dx, de1, dzq1, dweight, dvec, *shape, warps=WARPS["read_bwd"],
        )  # fmt: skip
        self.launch(
            state_bwd_kernel, (self.tiles * self.rows,), q, k, v, z2, err, vec, m_last, *self.slow, saved[1], x, slope,
            curve, dx, de1, xq, dzq1, dzq2, derr, *dstate, *dsaved, dz1, grads.v, *grads.slow, *self.meeting(), *shape,
            warps=WARPS["state_bwd"],
        )  # fmt: skip
        self.launch(
            write_bwd_kernel, grid, k, err, vec, *saved, *self.goals, *dsaved, x, e1, dz1, dk_read, grads.v, grads.k,
            dvec, dm_last, *shape, warps=WARPS["write_bwd"],
        )  # fmt: skip
        self.finish(first, chunks, coefficients, (dweight, dvec, dm_last), dslow, (*dsaved[:2], xq, dzq1, dzq2), grads)

    def new_grads(self) -> Grads:
        q, slow, goals = self.tokens[0], self.slow[0] is not None, self.goals[0] is not None
        return Grads(
            *(torch.empty_like(q) for _ in range(3)),
            [torch.empty_like(gate) for gate in self.gates],
            [torch.zeros(self.rows, self.summands, self.width, device=q.device) if slow else None for _ in range(2)],
            [self.new(self.rows, self.chunks, self.width) if slow else None for _ in range(2)],
            [torch.zeros(self.rows, self.hidden, self.width, device=q.device) for _ in range(2)] if goals else [],
        )

    def finish(
        self, first: int, chunks: int, coefficients: tuple, dcoefficients: tuple, dslow: list, goal_parts: tuple,
        grads: Grads,
    ) -> None:  # fmt: skip
        """What no other kernel waits for: gradients of goals, slow LayerNorm (the reads' part) and gates."""
        if grads.goals:
            self.launch(
                goal_bwd_kernel, (self.tiles, self.rows), self.tokens[0], coefficients[2], *goal_parts,
                *grads.goals, self.time, self.heads, first, chunks,
            )  # fmt: skip
        for total, part in zip(grads.read_slow, dslow, strict=True):
            if part is not None:
                total[:, first : first + chunks] = part
        self.gate_gradients(first, chunks, coefficients, dcoefficients, grads.gates)
