"""Queries, keys and values behind their linear map, on Triton kernels: see `memory.layers.ConvProjection`."""

import torch
import triton
from torch import Tensor, library

from memory.ops.kernels.short_conv import conv_bwd_kernel, conv_dx_kernel, conv_fwd_kernel
from memory.ops.launch import aligned, direct, run

TILE = 4096  # elements of a program
EPS = 1e-6  # of the normalisation


def _launch(
    kernel: triton.JITFunction, x: Tensor, weight: Tensor, parts: list[Tensor], *out: Tensor,
    width: int, lengths: list[float], silu: bool,
) -> None:  # fmt: skip
    """Run a kernel over neighbouring features that lie apart in `parts`, [B, T, ..], each with a length of its own."""
    first, block = 0, TILE // width
    for part, length in zip(parts, lengths, strict=True):
        batch, time, features = part.shape
        if features:
            constants = {"F": x.shape[2], "first": first, "width": features, "D": width, "BT": block}
            constants |= {"K": weight.shape[2], "UNIT": length > 0, "LENGTH": length / width**0.5, "EPS": EPS}
            constants |= {"SILU": silu}
            grid = (batch * triton.cdiv(time, block), features // width)
            run(
                kernel, grid, (x, weight, part, *out, x.shape[1], time), constants, (x.dtype, weight.dtype), num_warps=8
            )
        first += features


def _short_conv(
    x: Tensor, weight: Tensor, first: int, past: int, width: int, lengths: list[float], silu: bool
) -> tuple[Tensor, Tensor]:
    x, parts = aligned(x), _parts(x, first, past)
    _launch(conv_fwd_kernel, x, aligned(weight), parts, width=width, lengths=lengths, silu=silu)
    return tuple(parts)


def _parts(x: Tensor, first: int, past: int) -> list[Tensor]:
    return [x.new_empty(x.shape[0], x.shape[1] - past, n) for n in (first, x.shape[2] - first)]


_op = library.custom_op("titans::short_conv", _short_conv, mutates_args=())


@_op.register_fake
def _(x, weight, first, past, width, lengths, silu):
    return tuple(_parts(x, first, past))


@library.custom_op("titans::short_conv_backward", mutates_args=())
def _short_conv_backward(
    x: Tensor, weight: Tensor, dfirst: Tensor, drest: Tensor, width: int, lengths: list[float], silu: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    x, weight, dfirst, drest = map(aligned, (x, weight, dfirst, drest))
    (batch, rows, features), time, block = x.shape, dfirst.shape[1], TILE // width
    dz, dx = x.new_empty(batch, time, features), torch.empty_like(x)
    dw = x.new_empty(batch * triton.cdiv(time, block), weight.shape[2], features, dtype=torch.float32)
    _launch(conv_bwd_kernel, x, weight, [dfirst, drest], dz, dw, width=width, lengths=lengths, silu=silu)
    grid = (batch * triton.cdiv(rows, block), features // width)
    constants = {"F": features, "D": width, "BT": block, "K": weight.shape[2]}
    run(conv_dx_kernel, grid, (dz, weight, dx, rows, time), constants, (x.dtype, weight.dtype), num_warps=8)
    return dx, dw.sum(0).mT[:, None].to(weight.dtype).contiguous()


@_short_conv_backward.register_fake
def _(x, weight, dfirst, drest, width, lengths, silu):
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _save(ctx, inputs, output) -> None:
    x, weight, _, _, *ctx.options = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, dfirst, drest):
    dx, dw = _short_conv_backward(*ctx.saved_tensors, dfirst, drest, *ctx.options)
    return dx, dw, *(None,) * 5


_op.register_autograd(_backward, setup_context=_save)


def short_conv(
    x: Tensor, weight: Tensor, first: int, past: int, width: int, lengths: list[float], silu: bool = True
) -> tuple[Tensor, Tensor]:
    """Convolve, activate, and bring heads to a length.

    Args:
        x: the linear map's outputs, [B, past + T, features].
        weight: taps of the convolution, [features, 1, K].
        first: how many features come first and lie apart from the rest.
        past: rows of x before the first token, K - 1, or 0 for zeros.
        width: features of a head.
        lengths: of a head among the first features and among the rest; 0 leaves them as they are.
        silu: whether SiLU follows the convolution.

    Returns:
        [B, T, first] and [B, T, features - first].
    """
    return direct(_op, _short_conv)(x, weight, first, past, width, lengths, silu)
