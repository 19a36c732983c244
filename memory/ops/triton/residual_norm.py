"""A residual sum and the RMSNorm behind it, in one pass forward and one backward, which adds up both gradients."""

import torch
import triton
import triton.language as tl
from torch import Tensor, library

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.launch import aligned, cdiv, direct, run
from memory.ops.triton.rows import (
    PROGRAMS,
    WARP_TILE,
    load_block,
    norm_bwd,
    row_blocks,
    row_warps,
    store_block,
    unit_rows,
)


@triton.jit(do_not_specialize=SIZES)
def residual_norm_fwd_kernel(
    x, y, w, total, h, n, F: tl.constexpr, BF: tl.constexpr, BR: tl.constexpr, EPS: tl.constexpr
):  # fmt: skip
    """grid (blocks of BR rows,): total = x + y, all [n, F], and h = total / rms(total) * w; without y, x is the sum."""
    block = tl.program_id(0)
    b_x = load_block(x, block, n, F, BF, BR).to(tl.float32)
    if y is not None:
        b_x += load_block(y, block, n, F, BF, BR).to(tl.float32)
        rounded = b_x.to(total.dtype.element_ty)
        store_block(total, rounded, block, n, F, BF, BR)
        b_x = rounded.to(tl.float32)  # the backward normalises what was stored
    unit, _ = unit_rows(b_x, F, EPS)
    store_block(h, unit * load_block(w, 0, 1, F, BF, 1).to(tl.float32), block, n, F, BF, BR)


@triton.jit(do_not_specialize=SIZES)
def residual_norm_bwd_kernel(
    total, w, dtotal, dh, dx, dw, n, F: tl.constexpr, BF: tl.constexpr, BR: tl.constexpr, EPS: tl.constexpr
):  # fmt: skip
    """grid (programs,), which share all rows: the gradient of x and of y, and dw [programs, F] to be added up.

    A block is loaded while the one before it is worked on, and dw is added up over rows once, behind the last.
    """
    b_w, b_dw = load_block(w, 0, 1, F, BF, 1).to(tl.float32), tl.zeros([BR, BF], tl.float32)
    first, programs = tl.program_id(0), tl.num_programs(0)
    next_total, next_dh = load_block(total, first, n, F, BF, BR), load_block(dh, first, n, F, BF, BR)
    next_dtotal = load_block(dtotal, first, n, F, BF, BR)
    for block in range(first, tl.cdiv(n, BR), programs):
        unit, rstd = unit_rows(next_total.to(tl.float32), F, EPS)
        grad, passed = next_dh.to(tl.float32), next_dtotal.to(tl.float32)
        next_total = load_block(total, block + programs, n, F, BF, BR)
        next_dh = load_block(dh, block + programs, n, F, BF, BR)
        next_dtotal = load_block(dtotal, block + programs, n, F, BF, BR)
        b_dw += grad * unit
        store_block(dx, norm_bwd(unit, rstd, grad * b_w, F) + passed, block, n, F, BF, BR)
    store_block(dw, tl.sum(b_dw, 0)[None, :], first, programs, F, BF, 1)


def _forward(x: Tensor, y: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The sum, empty without y, and its norm."""
    x, y, weight = aligned(x), aligned(y), aligned(weight)
    total, h = _results(x, y, weight, eps, dtype)
    constants = row_blocks(x, eps)
    n = x.numel() // x.shape[-1]
    call = (x.dtype, None if y is None else y.dtype, weight.dtype, dtype)
    grid = (cdiv(n, constants["BR"]),)
    run(residual_norm_fwd_kernel, grid, (x, y, weight, total, h, n), constants, call, num_warps=8)
    return total, h


def _results(x, y, weight, eps, dtype):
    total = x.new_empty(0) if y is None else x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, y.dtype))
    return total, x.new_empty(x.shape, dtype=dtype)


_op = library.custom_op("titans::residual_norm", _forward, mutates_args=())
_op.register_fake(_results)


def _backward(total: Tensor, weight: Tensor, dtotal: Tensor, dh: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Gradient of the summands, and of the weight."""
    total, weight, dtotal, dh = map(aligned, (total, weight, dtotal, dh))
    constants = row_blocks(total, eps, WARP_TILE)
    n = total.numel() // total.shape[-1]
    programs = min(cdiv(n, constants["BR"]), PROGRAMS)
    dx = torch.empty_like(total)
    dw = total.new_empty(programs, len(weight), dtype=torch.float32)
    call = (total.dtype, weight.dtype, dtotal.dtype, dh.dtype)
    args = (total, weight, dtotal, dh, dx, dw, n)
    run(residual_norm_bwd_kernel, (programs,), args, constants, call, num_warps=row_warps(total))
    return dx, dw.sum(0).to(weight.dtype)


_op_backward = library.custom_op("titans::residual_norm_backward", _backward, mutates_args=())


@_op_backward.register_fake
def _(total, weight, dtotal, dh, eps):
    return total.new_empty(total.shape), weight.new_empty(weight.shape)


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, y: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        ctx.eps = eps
        ctx.dtypes = x.dtype, None if y is None else y.dtype
        total, h = direct(_op, _forward)(x, y, weight, eps, dtype)
        if y is None:
            total = x
        ctx.save_for_backward(total, weight)
        return total, h

    @staticmethod
    def backward(ctx, dtotal: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        dx, dw = direct(_op_backward, _backward)(*ctx.saved_tensors, dtotal, dh, ctx.eps)
        of_x, of_y = ctx.dtypes
        return dx.to(of_x), None if of_y is None else dx.to(of_y), dw, None, None


def residual_norm(x: Tensor, y: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x + y, or x where y is None, and the RMSNorm of that in a dtype: [..., F] each, `weight` [F] the scale."""
    return _ResidualNorm.apply(x, y, weight, eps, dtype)
