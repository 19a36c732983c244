"""The memory's way out, RMSNorm per head times SiLU of a gate, on Triton kernels."""

import torch
import triton
from torch import Tensor, library

from memory.ops.kernels.gated_norm import gated_norm_bwd_kernel, gated_norm_fwd_kernel
from memory.ops.launch import aligned, direct, run

TILE = 4096  # elements of a program


def _launch(kernel: triton.JITFunction, eps: float, x: Tensor, *tensors: Tensor) -> None:
    n, width = x.numel() // x.shape[-1], x.shape[-1]
    constants, call = {"D": width, "BR": TILE // width, "EPS": eps}, (x.dtype, *(t.dtype for t in tensors))
    run(kernel, (triton.cdiv(n * width, TILE),), (x, *tensors, n), constants, call, num_warps=8)


def _gated_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    x, gate, y = aligned(x), aligned(gate), x.new_empty(x.shape)
    _launch(gated_norm_fwd_kernel, eps, x, gate, aligned(weight), y)
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
    x, gate, dy = aligned(x), aligned(gate), aligned(dy)
    dx, dgate = torch.empty_like(x), torch.empty_like(gate)
    dw = weight.new_empty(triton.cdiv(x.numel(), TILE), x.shape[-1], dtype=torch.float32)
    _launch(gated_norm_bwd_kernel, eps, x, gate, aligned(weight), dy, dx, dgate, dw)
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
