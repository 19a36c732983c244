"""Rotary positions in one pass, read from where the projection left queries or keys."""

import torch
import triton
import triton.language as tl
from torch import Tensor, library

from memory.ops.triton.launch import aligned, cdiv, direct, run

TILE = 4096  # elements of a program


@triton.jit(do_not_specialize=["n", "T", "stride"])
def rotary_kernel(x, cos, sin, y, n, T, stride, H: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
                  BACK: tl.constexpr, BR: tl.constexpr):  # fmt: skip
    """grid (blocks of BR rows,): the first 2 HALF features of y [n, D] rotated, or rotated back; others are copied.

    A row is a head of a token; tokens of x lie `stride` apart, its heads side by side. cos and sin are [T, HALF].
    """
    row, o = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.arange(0, D)
    inside, turned = (row < n)[:, None], (o < 2 * HALF)[None, :]
    token = row // H
    start = (token * stride + row % H * D)[:, None]
    other = tl.where(o < HALF, o + HALF, tl.where(o < 2 * HALF, o - HALF, o))
    angle = (token % T * HALF)[:, None] + (o % HALF)[None, :]
    b_x = tl.load(x + start + o[None, :], mask=inside, other=0.0).to(tl.float32)
    b_other = tl.load(x + start + other[None, :], mask=inside & turned, other=0.0).to(tl.float32)
    b_cos = tl.load(cos + angle, mask=inside & turned, other=1.0).to(tl.float32)
    b_sin = tl.load(sin + angle, mask=inside & turned, other=0.0).to(tl.float32)
    minus = (o < HALF)[None, :] != BACK
    b_y = b_x * b_cos + tl.where(minus, -b_sin, b_sin) * b_other
    tl.store(y + row[:, None] * D + o[None, :], b_y.to(y.dtype.element_ty), mask=inside)


def _rows_alike(x: Tensor) -> bool:
    """Whether heads lie side by side, and tokens at equal distances over the whole batch."""
    batch, time, heads, width = x.shape
    side_by_side = x.stride(3) == 1 and (heads == 1 or x.stride(2) == width)
    return side_by_side and (batch == 1 or time == 1 or x.stride(0) == time * x.stride(1))


def _rotary(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    batch, time, heads, width = x.shape
    if not _rows_alike(x):
        x = x.contiguous()
    x = x if x.data_ptr() % 16 == 0 else x.clone(memory_format=torch.contiguous_format)
    stride = x.stride(1) if time > 1 else x.stride(0)
    y, n = x.new_empty(x.shape), x.numel() // width
    constants = {"H": heads, "D": width, "HALF": cos.shape[1], "BACK": back, "BR": TILE // width}
    args = (x, aligned(cos), aligned(sin), y, n, time, stride)
    run(rotary_kernel, (cdiv(x.numel(), TILE),), args, constants, (x.dtype, cos.dtype), num_warps=8)
    return y


_op = library.custom_op("titans::rotary", _rotary, mutates_args=())


@_op.register_fake
def _(x, cos, sin, back):
    return x.new_empty(x.shape)


def _save(ctx, inputs, output) -> None:
    _, cos, sin, ctx.back = inputs
    ctx.save_for_backward(cos, sin)


def _backward(ctx, dy):
    return _op(dy, *ctx.saved_tensors, not ctx.back), None, None, None


_op.register_autograd(_backward, setup_context=_save)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, T, H, D] with its first features rotated by angles [T, features / 2], to a contiguous [B, T, H, D]."""
    return direct(_op, _rotary)(x, cos, sin, False)
