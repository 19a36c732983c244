"""Rotary positions in one pass, read from where the projection left queries, or keys and values."""

import torch
import triton
import triton.language as tl
from torch import Tensor, library

from memory.ops.triton.launch import aligned, cdiv, direct, run

TILE = 4096  # elements of a program


@triton.jit(do_not_specialize=["n", "T", "stride", "v_stride"])
def rotary_kernel(x, v, cos, sin, y, n, T, stride, v_stride, H: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
                  BACK: tl.constexpr, BR: tl.constexpr):  # fmt: skip
    """grid (blocks of BR rows,): y [n, D] holds the heads of x, their first 2 HALF features rotated, or rotated back.

    A row is a head of a token; tokens of x lie 8 `stride` apart, its heads side by side. cos and sin are [T, HALF].
    Where there is v, its H heads follow those of x in every token of y, as they are.
    """
    row, o = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.arange(0, D)
    heads: tl.constexpr = H if v is None else 2 * H
    token, head = row // heads, row % heads
    # the compiler drops hints at arguments, and without knowing it would load one element at a time
    stride, v_stride = stride * 8, v_stride * 8
    own, turned = ((row < n) & (head < H))[:, None], (o < 2 * HALF)[None, :]
    start = (token * stride + head * D)[:, None]
    other = tl.where(o < HALF, o + HALF, tl.where(o < 2 * HALF, o - HALF, o))
    angle = (token % T * HALF)[:, None] + (o % HALF)[None, :]
    b_x = tl.load(x + start + o[None, :], mask=own, other=0.0).to(tl.float32)
    b_other = tl.load(x + start + other[None, :], mask=own & turned, other=0.0).to(tl.float32)
    b_cos = tl.load(cos + angle, mask=own & turned, other=1.0).to(tl.float32)
    b_sin = tl.load(sin + angle, mask=own & turned, other=0.0).to(tl.float32)
    minus = (o < HALF)[None, :] != BACK
    b_y = b_x * b_cos + tl.where(minus, -b_sin, b_sin) * b_other
    if v is not None:
        place = v + (token * v_stride + (head - H) * D)[:, None] + o[None, :]
        b_y += tl.load(place, mask=((row < n) & (head >= H))[:, None], other=0.0).to(tl.float32)
    tl.store(y + row[:, None] * D + o[None, :], b_y.to(y.dtype.element_ty), mask=(row < n)[:, None])


def _rows_alike(x: Tensor) -> bool:
    """Whether heads lie side by side, and tokens at equal distances over the whole batch, multiples of 8."""
    batch, time, heads, width = x.shape
    side_by_side = x.stride(3) == 1 and (heads == 1 or x.stride(2) == width)
    even = x.stride(0) % 8 == 0 and x.stride(1) % 8 == 0
    return side_by_side and even and (batch == 1 or time == 1 or x.stride(0) == time * x.stride(1))


def _readable(x: Tensor) -> tuple[Tensor, int]:
    """x [B, T, H, D] as the kernel reads it, and how far apart its tokens lie."""
    if not _rows_alike(x):
        x = x.contiguous()
    x = x if x.data_ptr() % 16 == 0 else x.clone(memory_format=torch.contiguous_format)
    return x, x.stride(1) if x.shape[1] > 1 else x.stride(0)


def _rotary(x: Tensor, v: Tensor | None, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    """x rotated, and behind its heads those of v as they are."""
    time, heads, width = x.shape[1:]
    y = _result(x, v, cos, sin, back)
    x, stride = _readable(x)
    v, v_stride = (None, 0) if v is None else _readable(v)
    constants = {"H": heads, "D": width, "HALF": cos.shape[1], "BACK": back, "BR": TILE // width}
    args = (x, v, aligned(cos), aligned(sin), y, y.numel() // width, time, stride // 8, v_stride // 8)
    run(rotary_kernel, (cdiv(y.numel(), TILE),), args, constants, (x.dtype, cos.dtype), num_warps=8)
    return y


def _result(x, v, cos, sin, back):
    batch, time, heads, width = x.shape
    return x.new_empty(batch, time, heads if v is None else 2 * heads, width)


_op = library.custom_op("titans::rotary", _rotary, mutates_args=())
_op.register_fake(_result)


def _save(ctx, inputs, output) -> None:
    _, _, cos, sin, ctx.back = inputs
    ctx.save_for_backward(cos, sin)


def _backward(ctx, dy):  # of queries or keys alone: `_Pair` has a backward of its own
    return _op(dy, None, *ctx.saved_tensors, not ctx.back), None, None, None, None


_op.register_autograd(_backward, setup_context=_save)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, T, H, D] with its first features rotated by angles [T, features / 2], to a contiguous [B, T, H, D]."""
    return direct(_op, _rotary)(x, None, cos, sin, False)


class _Pair(torch.autograd.Function):
    """Takes keys and values as one tensor: autograd would copy the gradients of two parts into that of the whole."""

    @staticmethod
    def forward(ctx, pair: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        k, v = direct(_op, _rotary)(*pair.unbind(2), cos, sin, False).chunk(2, 2)
        return k, v

    @staticmethod
    def backward(ctx, dk: Tensor, dv: Tensor) -> tuple[Tensor, None, None]:  # pyrefly: ignore[bad-override]
        return direct(_op, _rotary)(dk, dv, *ctx.saved_tensors, True).unflatten(2, (2, -1)), None, None


def rotary_pair(pair: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Keys, rotated as `rotary` does it, and values, [B, T, H, D] each, of both in one tensor [B, T, 2, H, D].

    They are copied together into a new one, so that no values keep unrotated keys in memory.
    """
    return _Pair.apply(pair, cos, sin)
