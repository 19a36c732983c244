"""RMSNorm of each head times the SiLU of a gate, in one pass forward and one backward."""

import triton
import triton.language as tl

from memory.ops.kernels import SIZES
from memory.ops.kernels.short_conv import silu_1


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
