"""The memory's way out: RMSNorm of each head times the SiLU of a gate, in one pass forward and one backward."""

import torch
import triton
import triton.language as tl
from torch import Tensor, library
from torch.nn import functional

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.launch import aligned, cdiv, direct, run
from memory.ops.triton.short_conv import silu_1

TILE = 4096  # elements of a program


@triton.jit
def places(n, S, P, D: tl.constexpr, BR: tl.constexpr):
    """Places [BR, D] of a program's rows among x and among the results, which of them x has, and which have a result.

    Of every S rows of x the first P have none.
    """
    row, o = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.arange(0, D)
    answered = row - (row // S + 1) * P
    real = row < n
    asked = real & (row % S >= P)
    return row[:, None] * D + o[None, :], answered[:, None] * D + o[None, :], real[:, None], asked[:, None]


@triton.jit(do_not_specialize=[*SIZES, "S", "P"])
def gated_norm_fwd_kernel(x, gate, w, y, n, S, P, D: tl.constexpr, BR: tl.constexpr, EPS: tl.constexpr):
    """grid (blocks of BR rows,): y = x / rms(x) * w * SiLU(gate); x [n, D], w [D], gate and y [n (S - P) / S, D]."""
    at, out, _, asked = places(n, S, P, D, BR)
    b_x = tl.load(x + at, mask=asked, other=0.0).to(tl.float32)
    opened, _ = silu_1(tl.load(gate + out, mask=asked, other=0.0).to(tl.float32))
    unit = b_x * tl.rsqrt(tl.sum(b_x * b_x, 1) / D + EPS)[:, None]
    b_w = tl.load(w + tl.arange(0, D)).to(tl.float32)[None, :]
    tl.store(y + out, (unit * b_w * opened).to(y.dtype.element_ty), mask=asked)


@triton.jit(do_not_specialize=[*SIZES, "S", "P"])
def gated_norm_bwd_kernel(
    x, gate, w, dy, dx, dgate, dw, y, n, S, P, D: tl.constexpr, BR: tl.constexpr, EPS: tl.constexpr
):  # fmt: skip
    """grid (blocks of BR rows,): gradients of x and gate, dw [programs, D] to be added up, and if asked for y again."""
    at, out, real, asked = places(n, S, P, D, BR)
    o = tl.arange(0, D)
    b_x = tl.load(x + at, mask=asked, other=0.0).to(tl.float32)
    b_dy = tl.load(dy + out, mask=asked, other=0.0).to(tl.float32)
    opened, slope = silu_1(tl.load(gate + out, mask=asked, other=0.0).to(tl.float32))
    rms = tl.rsqrt(tl.sum(b_x * b_x, 1) / D + EPS)[:, None]
    unit, b_w = b_x * rms, tl.load(w + o).to(tl.float32)[None, :]
    if y is not None:
        tl.store(y + out, (unit * b_w * opened).to(y.dtype.element_ty), mask=asked)
    tl.store(dw + tl.program_id(0) * D + o, tl.sum(b_dy * unit * opened, 0))
    tl.store(dgate + out, (b_dy * unit * b_w * slope).to(dgate.dtype.element_ty), mask=asked)
    b_dy *= b_w * opened
    b_dx = rms * (b_dy - unit * (tl.sum(b_dy * unit, 1) / D)[:, None])
    tl.store(dx + at, b_dx.to(dx.dtype.element_ty), mask=real)  # zero in rows without a result


def _launch(kernel: triton.JITFunction, eps: float, x: Tensor, gate: Tensor, *tensors: Tensor | None) -> None:
    time, heads, width = x.shape[1:]
    rows = time * heads  # of a sequence
    skipped = (time - gate.shape[1]) * heads
    grid = (cdiv(x.numel(), TILE),)
    constants = {"D": width, "BR": TILE // width, "EPS": eps}
    call = (x.dtype, gate.dtype, *(None if t is None else t.dtype for t in tensors))
    run(kernel, grid, (x, gate, *tensors, x.numel() // width, rows, skipped), constants, call, num_warps=8)


def _gated_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    y = x.new_empty(gate.shape)
    _launch(gated_norm_fwd_kernel, eps, aligned(x), aligned(gate), aligned(weight), y)
    return y


_op = library.custom_op("titans::gated_norm", _gated_norm, mutates_args=())


@_op.register_fake
def _(x, gate, weight, eps):
    return x.new_empty(gate.shape)


def _gated_norm_backward(
    x: Tensor, gate: Tensor, weight: Tensor, eps: float, dy: Tensor, again: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, gate and weight, and the forward's result `again`, which is empty where nobody asks for it."""
    inputs = [aligned(t) for t in (x, gate, weight, dy)]
    dx = torch.empty_like(inputs[0])
    dgate = torch.empty_like(inputs[1])
    y = x.new_empty(gate.shape if again else 0)
    programs = cdiv(x.numel(), TILE)
    dw = weight.new_empty(programs, x.shape[-1], dtype=torch.float32)
    _launch(gated_norm_bwd_kernel, eps, *inputs, dx, dgate, dw, y if again else None)
    return dx, dgate, dw.sum(0).to(weight.dtype), y


_op_backward = library.custom_op("titans::gated_norm_backward", _gated_norm_backward, mutates_args=())


@_op_backward.register_fake
def _(x, gate, weight, eps, dy, again):
    y = x.new_empty(gate.shape if again else 0)
    return x.new_empty(x.shape), gate.new_empty(gate.shape), torch.empty_like(weight), y


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, dy):
    return *_op_backward(*ctx.saved_tensors, ctx.eps, dy, False)[:3], None


_op.register_autograd(_backward, setup_context=_save)


class _Out(torch.autograd.Function):
    """Keeps what the norm takes: the kernel of its backward makes what the linear map has read again."""

    @staticmethod
    def forward(ctx, x: Tensor, gate: Tensor, scale: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.eps = eps
        ctx.save_for_backward(x, gate, scale, weight)
        return functional.linear(direct(_op, _gated_norm)(x, gate, scale, eps), weight)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        x, gate, scale, weight = ctx.saved_tensors
        launch = direct(_op_backward, _gated_norm_backward)
        dx, dgate, dscale, read = launch(x, gate, scale, ctx.eps, dy @ weight, True)
        return dx, dgate, dscale, dy.flatten(0, -2).mT @ read.flatten(0, -2), None


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight * SiLU(gate), with the norm over D: [B, T, H * D].

    Args:
        x: heads, [B, before + T, H, D]; what comes before has no result.
        gate: [B, T, H * D].
        weight: [D].
        eps: of the norm.
    """
    return direct(_op, _gated_norm)(x, gate, weight, eps)


def gated_norm_linear(x: Tensor, gate: Tensor, scale: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`gated_norm` with a scale, times weight [dim, H * D] in the dtype of x: [B, T, dim]."""
    return _Out.apply(x, gate, scale, weight, eps)
