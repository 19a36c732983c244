"""The memory's way out: RMSNorm of each head times the SiLU of a gate, in one pass forward and one backward."""

import torch
import triton
import triton.language as tl
from torch import Tensor, library

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.launch import aligned, cdiv, direct, run
from memory.ops.triton.short_conv import silu_1

TILE = 4096  # elements of a program


@triton.jit(do_not_specialize=SIZES)
def gated_norm_fwd_kernel(x, gate, w, y, n, D: tl.constexpr, BR: tl.constexpr, EPS: tl.constexpr):
    """grid (blocks of BR rows,): y = x / rms(x) * w * SiLU(gate); x, gate, y [n, D], w [D]."""
    row, o = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.arange(0, D)
    at, inside = row[:, None] * D + o[None, :], (row < n)[:, None]
    b_x = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    opened, _ = silu_1(tl.load(gate + at, mask=inside, other=0.0).to(tl.float32))
    unit = b_x * tl.rsqrt(tl.sum(b_x * b_x, 1) / D + EPS)[:, None]
    tl.store(y + at, (unit * tl.load(w + o).to(tl.float32)[None, :] * opened).to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def gated_norm_bwd_kernel(x, gate, w, dy, dx, dgate, dw, n, D: tl.constexpr, BR: tl.constexpr, EPS: tl.constexpr):
    """grid (blocks of BR rows,): gradients of x and gate, and dw [programs, D] to be added up."""
    row, o = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.arange(0, D)
    at, inside = row[:, None] * D + o[None, :], (row < n)[:, None]
    b_x = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    b_dy = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
    opened, slope = silu_1(tl.load(gate + at, mask=inside, other=0.0).to(tl.float32))
    rms = tl.rsqrt(tl.sum(b_x * b_x, 1) / D + EPS)[:, None]
    unit, b_w = b_x * rms, tl.load(w + o).to(tl.float32)[None, :]
    tl.store(dw + tl.program_id(0) * D + o, tl.sum(b_dy * unit * opened, 0))
    tl.store(dgate + at, (b_dy * unit * b_w * slope).to(dgate.dtype.element_ty), mask=inside)
    b_dy *= b_w * opened
    b_dx = rms * (b_dy - unit * (tl.sum(b_dy * unit, 1) / D)[:, None])
    tl.store(dx + at, b_dx.to(dx.dtype.element_ty), mask=inside)


def _launch(kernel: triton.JITFunction, eps: float, x: Tensor, *tensors: Tensor) -> None:
    width = x.shape[-1]
    grid = (cdiv(x.numel(), TILE),)
    constants = {"D": width, "BR": TILE // width, "EPS": eps}
    call = (x.dtype, *(t.dtype for t in tensors))
    run(kernel, grid, (x, *tensors, x.numel() // width), constants, call, num_warps=8)


def _gated_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    y = x.new_empty(x.shape)
    _launch(gated_norm_fwd_kernel, eps, aligned(x), aligned(gate), aligned(weight), y)
    return y


_op = library.custom_op("titans::gated_norm", _gated_norm, mutates_args=())


@_op.register_fake
def _(x, gate, weight, eps):
    return x.new_empty(x.shape)


@library.custom_op("titans::gated_norm_backward", mutates_args=())
def _gated_norm_backward(
    x: Tensor, gate: Tensor, weight: Tensor, eps: float, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, gate and weight."""
    inputs = [aligned(t) for t in (x, gate, weight, dy)]
    dx = torch.empty_like(inputs[0])
    dgate = torch.empty_like(inputs[1])
    programs = cdiv(x.numel(), TILE)
    dw = weight.new_empty(programs, x.shape[-1], dtype=torch.float32)
    _launch(gated_norm_bwd_kernel, eps, *inputs, dx, dgate, dw)
    return dx, dgate, dw.sum(0).to(weight.dtype)


@_gated_norm_backward.register_fake
def _(x, gate, weight, eps, dy):
    return x.new_empty(x.shape), gate.new_empty(gate.shape), torch.empty_like(weight)


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, dy):
    return *_gated_norm_backward(*ctx.saved_tensors, ctx.eps, dy), None


_op.register_autograd(_backward, setup_context=_save)


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight * SiLU(gate) over the last dimension: x [..., D], gate of as many elements, weight [D]."""
    return direct(_op, _gated_norm)(x, gate, weight, eps)
