"""Rows [n, F] that a kernel normalises: loads and stores of blocks of them, their norm, and its gradient."""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from memory.ops.triton.launch import cdiv

TILE = 4096  # elements of a program
PROGRAMS = 1024  # that share all rows, where each leaves a part of a weight's gradient
WARP_TILE = 512  # elements that such a program has in hand, or a row
WARP_ROW = 768  # elements of a row that a warp has registers for


@triton.jit
def load_block(x, block, n, F: tl.constexpr, BF: tl.constexpr, BR: tl.constexpr):
    """Rows [BR, BF] of a block of x [n, F], with zeros behind the last and behind the features."""
    row, o = (block * BR + tl.arange(0, BR)).to(tl.int64), tl.arange(0, BF)
    return tl.load(x + row[:, None] * F + o[None, :], mask=(row < n)[:, None] & (o < F)[None, :], other=0.0)


@triton.jit
def store_block(x, b_x, block, n, F: tl.constexpr, BF: tl.constexpr, BR: tl.constexpr):
    """As `load_block`."""
    row, o = (block * BR + tl.arange(0, BR)).to(tl.int64), tl.arange(0, BF)
    inside = (row < n)[:, None] & (o < F)[None, :]
    tl.store(x + row[:, None] * F + o[None, :], b_x.to(x.dtype.element_ty), mask=inside)


@triton.jit
def unit_rows(b_x, F: tl.constexpr, EPS: tl.constexpr):
    """Rows in float32 over their root mean square, and the reciprocals of that."""
    rstd = tl.rsqrt(tl.sum(b_x * b_x, 1) / F + EPS)[:, None]
    return b_x * rstd, rstd


@triton.jit
def norm_bwd(unit, rstd, grad, F: tl.constexpr):
    """Gradient of rows from that of their `unit_rows`."""
    return rstd * (grad - unit * (tl.sum(grad * unit, 1) / F)[:, None])


def row_blocks(x: Tensor, eps: float, tile: int = TILE) -> dict[str, Any]:
    """Constants of kernels that normalise rows of x [..., F], as many at a time as make a tile."""
    block = triton.next_power_of_2(x.shape[-1])
    return {"F": x.shape[-1], "BF": block, "BR": max(tile // block, 1), "EPS": eps}


def row_warps(x: Tensor) -> int:
    """Warps of a program that has `WARP_TILE` elements of x in hand: one, which waits for no other, where it can."""
    return min(1 << (cdiv(x.shape[-1], WARP_ROW) - 1).bit_length(), 8)
