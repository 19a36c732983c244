"""Products with a SiLU, forward and backward each in one pass: the feed-forward's, and the gate of MAG and MAC."""

import torch
import triton
import triton.language as tl
from torch import Tensor, library
from torch.nn import functional

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.launch import aligned, cdiv, direct, run
from memory.ops.triton.rows import (
    PROGRAMS,
    TILE,
    WARP_TILE,
    load_block,
    norm_bwd,
    row_blocks,
    row_warps,
    store_block,
    unit_rows,
)
from memory.ops.triton.short_conv import silu_1

FEATURES = 512  # of SwiGLU that a program takes at most


@triton.jit
def pair_places(n, F: tl.constexpr, BF: tl.constexpr, BR: tl.constexpr):
    """Places [BR, BF] of a program among gates [n, 2 F], whose values lie F behind, and among products [n, F]."""
    row, o = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.program_id(1) * BF + tl.arange(0, BF)
    inside = (row < n)[:, None] & (o < F)[None, :]
    return row[:, None] * (2 * F) + o[None, :], row[:, None] * F + o[None, :], inside


@triton.jit(do_not_specialize=SIZES)
def swiglu_fwd_kernel(x, y, n, F: tl.constexpr, BF: tl.constexpr, BR: tl.constexpr):
    """grid (blocks of BR rows, blocks of BF features): y [n, F] of x [n, 2 F], gates and then values."""
    at, out, inside = pair_places(n, F, BF, BR)
    opened, _ = silu_1(tl.load(x + at, mask=inside, other=0.0).to(tl.float32))
    value = tl.load(x + at + F, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + out, (opened * value).to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def swiglu_bwd_kernel(x, dy, dx, y, n, F: tl.constexpr, BF: tl.constexpr, BR: tl.constexpr):
    """grid as `swiglu_fwd_kernel`: the gradient of x, and y again, as that kernel makes it."""
    at, out, inside = pair_places(n, F, BF, BR)
    opened, slope = silu_1(tl.load(x + at, mask=inside, other=0.0).to(tl.float32))
    value = tl.load(x + at + F, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(dy + out, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + at, (grad * value * slope).to(dx.dtype.element_ty), mask=inside)
    tl.store(dx + at + F, (grad * opened).to(dx.dtype.element_ty), mask=inside)
    tl.store(y + out, (opened * value).to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def gate_fwd_kernel(y, m, w, out, n, F: tl.constexpr, BF: tl.constexpr, BR: tl.constexpr, EPS: tl.constexpr):
    """grid (blocks of BR rows,): RMSNorm of y times the SiLU of RMSNorm of m, [n, F]; w [2, F] holds their scales."""
    block = tl.program_id(0)
    unit_y, _ = unit_rows(load_block(y, block, n, F, BF, BR).to(tl.float32), F, EPS)
    unit_m, _ = unit_rows(load_block(m, block, n, F, BF, BR).to(tl.float32), F, EPS)
    w_y, w_m = load_block(w, 0, 2, F, BF, 1).to(tl.float32), load_block(w, 1, 2, F, BF, 1).to(tl.float32)
    opened, _ = silu_1(unit_m * w_m)
    store_block(out, unit_y * w_y * opened, block, n, F, BF, BR)


@triton.jit(do_not_specialize=SIZES)
def gate_bwd_kernel(
    y, m, w, dout, dy, dm, dw, n, F: tl.constexpr, BF: tl.constexpr, BR: tl.constexpr, EPS: tl.constexpr
):  # fmt: skip
    """grid (programs,), which share all rows: gradients of y, m, and dw [programs, 2, F] to be added up.

    A block is loaded while the one before it is worked on, and dw is added up over rows once, behind the last.
    """
    w_y, w_m = load_block(w, 0, 2, F, BF, 1).to(tl.float32), load_block(w, 1, 2, F, BF, 1).to(tl.float32)
    real = (tl.arange(0, BF) < F)[None, :]  # lets the compiler leave out whole registers that are behind the features
    dw_y, dw_m = tl.zeros([BR, BF], tl.float32), tl.zeros([BR, BF], tl.float32)
    first, programs = tl.program_id(0), tl.num_programs(0)
    next_y, next_m = load_block(y, first, n, F, BF, BR), load_block(m, first, n, F, BF, BR)
    next_dout = load_block(dout, first, n, F, BF, BR)
    for block in range(first, tl.cdiv(n, BR), programs):
        unit_y, rstd_y = unit_rows(next_y.to(tl.float32), F, EPS)
        unit_m, rstd_m = unit_rows(next_m.to(tl.float32), F, EPS)
        grad = next_dout.to(tl.float32)
        next_y = load_block(y, block + programs, n, F, BF, BR)
        next_m = load_block(m, block + programs, n, F, BF, BR)
        next_dout = load_block(dout, block + programs, n, F, BF, BR)
        opened, slope = silu_1(tl.where(real, unit_m * w_m, 0.0))
        grad_m = grad * unit_y * w_y * slope
        grad *= opened
        dw_y += grad * unit_y
        dw_m += grad_m * unit_m
        store_block(dy, norm_bwd(unit_y, rstd_y, grad * w_y, F), block, n, F, BF, BR)
        store_block(dm, norm_bwd(unit_m, rstd_m, grad_m * w_m, F), block, n, F, BF, BR)
    store_block(dw, tl.sum(dw_y, 0)[None, :], 2 * first, 2 * programs, F, BF, 1)
    store_block(dw, tl.sum(dw_m, 0)[None, :], 2 * first + 1, 2 * programs, F, BF, 1)


def _swiglu(x: Tensor) -> Tensor:
    x, hidden = aligned(x), x.shape[-1] // 2
    y = x.new_empty(*x.shape[:-1], hidden)
    _over_pairs(swiglu_fwd_kernel, (x, y), hidden, (x.dtype,))
    return y


def _over_pairs(kernel: triton.JITFunction, tensors: tuple[Tensor, ...], hidden: int, call: tuple) -> None:
    """Run a kernel on the rows of x [..., 2 F], the first of the tensors."""
    n = tensors[0].numel() // (2 * hidden)
    block = min(1 << (hidden - 1).bit_length(), FEATURES)
    constants = {"F": hidden, "BF": block, "BR": TILE // block}
    grid = (cdiv(n, TILE // block), cdiv(hidden, block))
    run(kernel, grid, (*tensors, n), constants, call, num_warps=8)


_swiglu_op = library.custom_op("titans::swiglu", _swiglu, mutates_args=())


@_swiglu_op.register_fake
def _(x):
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


def _swiglu_backward(x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of x, and y again."""
    x, dy = aligned(x), aligned(dy)
    dx = torch.empty_like(x)
    y = torch.empty_like(dy)
    _over_pairs(swiglu_bwd_kernel, (x, dy, dx, y), dy.shape[-1], (x.dtype, dy.dtype))
    return dx, y


_swiglu_backward_op = library.custom_op("titans::swiglu_backward", _swiglu_backward, mutates_args=())


@_swiglu_backward_op.register_fake
def _(x, dy):
    return x.new_empty(x.shape), dy.new_empty(dy.shape)


class _Down(torch.autograd.Function):
    """Keeps x alone: the kernel of the backward makes what the linear map has read again, while it is at x."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.linear(direct(_swiglu_op, _swiglu)(x), weight)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor]:  # pyrefly: ignore[bad-override]
        x, weight = ctx.saved_tensors
        dx, y = direct(_swiglu_backward_op, _swiglu_backward)(x, dy @ weight)
        return dx, dy.flatten(0, -2).mT @ y.flatten(0, -2)


def swiglu_linear(x: Tensor, weight: Tensor) -> Tensor:
    """SiLU of the first half of x [..., 2 F] times the second half, times weight [dim, F] in the dtype of x."""
    return _Down.apply(x, weight)


def _gate(y: Tensor, m: Tensor, weights: Tensor, eps: float) -> Tensor:
    y, m, weights = (aligned(t) for t in (y, m, weights))
    constants = row_blocks(y, eps)
    out = torch.empty_like(y)
    n = y.numel() // y.shape[-1]
    grid = (cdiv(n, constants["BR"]),)
    call = (y.dtype, m.dtype, weights.dtype)
    run(gate_fwd_kernel, grid, (y, m, weights, out, n), constants, call, num_warps=8)
    return out


_gate_op = library.custom_op("titans::gate", _gate, mutates_args=())


@_gate_op.register_fake
def _(y, m, weights, eps):
    return y.new_empty(y.shape)


@library.custom_op("titans::gate_backward", mutates_args=())
def _gate_backward(y: Tensor, m: Tensor, weights: Tensor, dout: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y, m and the weights."""
    y, m, weights, dout = map(aligned, (y, m, weights, dout))
    constants = row_blocks(y, eps, WARP_TILE)
    n = y.numel() // y.shape[-1]
    programs = min(cdiv(n, constants["BR"]), PROGRAMS)
    dy = torch.empty_like(y)
    dm = torch.empty_like(m)
    dw = y.new_empty(programs, *weights.shape, dtype=torch.float32)
    call = (y.dtype, m.dtype, weights.dtype, dout.dtype)
    args = (y, m, weights, dout, dy, dm, dw, n)
    run(gate_bwd_kernel, (programs,), args, constants, call, num_warps=row_warps(y))
    return dy, dm, dw.sum(0).to(weights.dtype)


@_gate_backward.register_fake
def _(y, m, weights, dout, eps):
    return y.new_empty(y.shape), m.new_empty(m.shape), weights.new_empty(weights.shape)


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


_gate_op.register_autograd(
    lambda ctx, dout: (*_gate_backward(*ctx.saved_tensors, dout, ctx.eps), None), setup_context=_save
)


def gate(y: Tensor, m: Tensor, weights: Tensor, eps: float) -> Tensor:
    """RMSNorm of y times the SiLU of RMSNorm of m, all [..., F]; `weights` [2, F] are the scales of both."""
    return direct(_gate_op, _gate)(y, m, weights, eps)
