"""Queries, keys and values behind their linear map, on Triton kernels: see `memory.layers.ConvProjection`."""

import torch
import triton
from torch import Tensor, library

from memory.ops.kernels.short_conv import conv_bwd_kernel, conv_dx_kernel, conv_fwd_kernel
from memory.ops.launch import aligned, run

TILE = 4096  # elements of a program
EPS = 1e-6  # of the normalisation


def _launch(
    kernel: triton.JITFunction, x: Tensor, taps: Tensor, parts: list[Tensor], *out: Tensor, width: int, length: float
) -> None:
    """Run a kernel over features to normalise, [B, T, ..] first of `parts`, and over those that stay, its second."""
    first, block = 0, TILE // width
    for part, unit in zip(parts, (True, False), strict=True):
        batch, time, features = part.shape
        if features:
            constants = {"F": x.shape[2], "first": first, "width": features, "D": width, "BT": block, "K": len(taps)}
            constants |= {"UNIT": unit, "LENGTH": length / width**0.5, "EPS": EPS}
            grid = (batch * triton.cdiv(time, block), features // width)
            run(kernel, grid, (x, taps, part, *out, x.shape[1], time), constants, (x.dtype, taps.dtype), num_warps=8)
        first += features


def _taps(weight: Tensor) -> Tensor:
    return aligned(weight[:, 0].mT)  # [K, features]: neighbouring features are loaded together


@library.custom_op("titans::short_conv", mutates_args=())
def short_conv(x: Tensor, weight: Tensor, unit: int, past: int, width: int, length: float) -> tuple[Tensor, Tensor]:
    """Convolve, SiLU, and bring the first `unit` features to one length per head.

    Args:
        x: the linear map's outputs, [B, past + T, features].
        weight: taps of the convolution, [features, 1, K].
        unit: how many features to normalise.
        past: rows of x before the first token, K - 1, or 0 for zeros.
        width: features of a head.
        length: of a normalised head.

    Returns:
        [B, T, unit] and [B, T, features - unit].
    """
    x, parts = aligned(x), _parts(x, unit, past)
    _launch(conv_fwd_kernel, x, _taps(weight), parts, width=width, length=length)
    return tuple(parts)


def _parts(x: Tensor, unit: int, past: int) -> list[Tensor]:
    return [x.new_empty(x.shape[0], x.shape[1] - past, n) for n in (unit, x.shape[2] - unit)]


@short_conv.register_fake
def _(x, weight, unit, past, width, length):
    return tuple(_parts(x, unit, past))


@library.custom_op("titans::short_conv_backward", mutates_args=())
def _short_conv_backward(
    x: Tensor, weight: Tensor, dunit: Tensor, drest: Tensor, width: int, length: float
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    x, dunit, drest = aligned(x), aligned(dunit), aligned(drest)
    (batch, rows, features), time, taps, block = x.shape, dunit.shape[1], _taps(weight), TILE // width
    dz, dx = x.new_empty(batch, time, features), torch.empty_like(x)
    dw = x.new_empty(batch * triton.cdiv(time, block), *taps.shape, dtype=torch.float32)
    _launch(conv_bwd_kernel, x, taps, [dunit, drest], dz, dw, width=width, length=length)
    grid = (batch * triton.cdiv(rows, block), features // width)
    constants = {"F": features, "D": width, "BT": block, "K": len(taps)}
    run(conv_dx_kernel, grid, (dz, taps, dx, rows, time), constants, (x.dtype, taps.dtype), num_warps=8)
    return dx, dw.sum(0).mT[:, None].to(weight.dtype).contiguous()


@_short_conv_backward.register_fake
def _(x, weight, dunit, drest, width, length):
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _save(ctx, inputs, output) -> None:
    x, weight, _, _, *ctx.options = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, dunit, drest):
    dx, dw = _short_conv_backward(*ctx.saved_tensors, dunit, drest, *ctx.options)
    return dx, dw, None, None, None, None


short_conv.register_autograd(_backward, setup_context=_save)
