"""Reading a two-layer memory that stays as it is, on Triton kernels: `Rule.read`, one launch forward."""

import math

import torch
import triton
from torch import Tensor, library

from memory.ops.rule import EPS
from memory.ops.serves import INTERPRET
from memory.ops.triton.kernels.retrieve import retrieve_bwd_kernel, retrieve_fwd_kernel, retrieve_weights_kernel
from memory.ops.triton.launch import aligned, cdiv, direct, run

TOKENS, UNITS = 64, 64  # of a program


def _launch(kernel: triton.JITFunction, grid: tuple[int, int], args: tuple, units: int, flags: dict) -> None:
    """Run a kernel on its arguments, of which the first is the queries."""
    q = args[0]
    constants = {"D": q.shape[3], "E": units, "BE": math.gcd(units, UNITS), "BT": TOKENS, **flags}
    constants |= {"FAST": not INTERPRET and q.dtype != torch.float32}
    constants |= {"IP": "tf32x3" if q.dtype == torch.float32 else "tf32"}
    call = tuple(getattr(arg, "dtype", None) for arg in args)
    run(kernel, grid, (*args, *q.shape[1:3]), constants, call, num_warps=4)


def _flags(scale: Tensor | None, residual: bool) -> dict[str, object]:
    return {"NORM": scale is not None, "RES": residual, "EPS": EPS}


def _grid(q: Tensor) -> tuple[int, int]:
    return cdiv(q.shape[1], TOKENS), q.shape[0] * q.shape[2]


def _retrieve(q: Tensor, m1: Tensor, m2: Tensor, scale: Tensor | None, shift: Tensor | None, residual: bool) -> Tensor:
    q, m1, m2 = (aligned(t) for t in (q, m1, m2))
    scale = aligned(scale)
    shift = aligned(shift)
    y = torch.empty_like(q)
    _launch(retrieve_fwd_kernel, _grid(q), (q, m1, m2, scale, shift, y), m1.shape[2], _flags(scale, residual))
    return y


_op = library.custom_op("titans::retrieve", _retrieve, mutates_args=())


@_op.register_fake
def _(q, m1, m2, scale, shift, residual):
    return q.new_empty(q.shape)


@library.custom_op("titans::retrieve_backward", mutates_args=())
def _retrieve_backward(
    dy: Tensor, q: Tensor, m1: Tensor, m2: Tensor, scale: Tensor | None, residual: bool
) -> list[Tensor]:
    """Gradients of q, M1, M2 and, with LayerNorm, [2, H, D] of scale and shift."""
    dy, q, m1, m2 = (aligned(t) for t in (dy, q, m1, m2))
    scale = aligned(scale)
    (batch, _, heads, width), units = q.shape, m1.shape[2]
    dq, dz, dm1, dm2 = (torch.empty_like(x) for x in (q, q, m1, m2))
    dslow = None if scale is None else q.new_empty(2, batch, _grid(q)[0], heads, width, dtype=torch.float32)
    _launch(retrieve_bwd_kernel, _grid(q), (q, m1, m2, scale, dy, dq, dz, dslow), units, _flags(scale, residual))
    grid = units // math.gcd(units, UNITS), batch * heads
    _launch(retrieve_weights_kernel, grid, (q, m1, m2, dz, dm1, dm2), units, {})
    if scale is None or dslow is None:
        return [dq, dm1, dm2]
    return [dq, dm1, dm2, dslow.sum((1, 2)).to(scale.dtype)]


@_retrieve_backward.register_fake
def _(dy, q, m1, m2, scale, residual):
    slow = [] if scale is None else [scale.new_empty(2, *scale.shape)]
    return [q.new_empty(q.shape), m1.new_empty(m1.shape), m2.new_empty(m2.shape), *slow]


def _save(ctx, inputs, output) -> None:
    q, m1, m2, scale, _, ctx.residual = inputs
    ctx.save_for_backward(q, m1, m2, scale)


def _backward(ctx, dy):
    dq, dm1, dm2, *dslow = _retrieve_backward(dy, *ctx.saved_tensors, ctx.residual)
    return dq, dm1, dm2, *(dslow[0] if dslow else (None, None)), None


_op.register_autograd(_backward, setup_context=_save)


def retrieve(weights: list[Tensor], q: Tensor, scale: Tensor | None, shift: Tensor | None, residual: bool) -> Tensor:
    """M*(q) for a memory that `memory.ops.serves.retrieves` accepts.

    Products are rounded as in a scan, to the dtype of q, or bfloat16 for float16, and added up in float32.

    Args:
        weights: [B, H, D, E] and [B, H, E, D], float32.
        q: queries, [B, T, H, D].
        scale: slow LayerNorm scale, [H, D]; None for no LayerNorm.
        shift: slow LayerNorm shift, [H, D].
        residual: add q to the result.

    Returns:
        [B, T, H, D].
    """
    m1, m2 = weights
    q = q.bfloat16() if q.dtype == torch.float16 else q
    return direct(_op, _retrieve)(q, m1.mT.contiguous(), m2, scale, shift, residual)
