"""Device functions that several kernels share: GELU with its derivatives, LayerNorm and its inner gradient.

Letters: C tokens of a chunk, D head width, E hidden width, BE hidden units of a tile, b_ a tile in the model's dtype.
Hidden activations are held hidden-major, [BE, C], and both weights as [E, D], so that every product has 64-row tiles.
"""

import triton
import triton.language as tl


@triton.jit
def tanh(x, FAST: tl.constexpr):
    if FAST:  # one instruction on NVIDIA, accurate to bfloat16
        return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def gelu(z, FAST: tl.constexpr):
    half = 0.5 * z
    return half + half * tanh(z * (0.7978845608028654 + 0.035677408136300125 * z * z), FAST)


@triton.jit
def gelu_1(z, FAST: tl.constexpr):
    """GELU and its slope."""
    half, zz = 0.5 * z, z * z
    t = tanh(z * (0.7978845608028654 + 0.035677408136300125 * zz), FAST)
    slope = 0.5 + 0.5 * t + half * (1.0 - t * t) * (0.7978845608028654 + 0.10703222440890037 * zz)
    return half + half * t, slope


@triton.jit
def gelu_2(z, FAST: tl.constexpr):
    """GELU, its slope and its curvature."""
    half, zz = 0.5 * z, z * z
    t = tanh(z * (0.7978845608028654 + 0.035677408136300125 * zz), FAST)
    inner = 0.7978845608028654 + 0.10703222440890037 * zz
    bend = (1.0 - t * t) * inner
    slope = 0.5 + 0.5 * t + half * bend
    curve = bend + half * ((1.0 - t * t) * 0.21406444881780074 * z - 2.0 * t * bend * inner)
    return half + half * t, slope, curve


@triton.jit
def standardise(z, D: tl.constexpr, EPS: tl.constexpr):
    """LayerNorm of the rows of z [C, D] without its affine part, and the reciprocal standard deviations [C]."""
    centred = z - (tl.sum(z, 1) / D)[:, None]
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / D + EPS)
    return centred * rstd[:, None], rstd


@triton.jit
def output(z, b_q, scale, shift, i_h, NORM: tl.constexpr, RES: tl.constexpr, D: tl.constexpr, EPS: tl.constexpr):
    """M(q) from the MLP's outputs z [C, D] for queries b_q [C, D], as `memory.ops.mlp.output`; scale, shift [H, D]."""
    if NORM:
        slow = i_h * D + tl.arange(0, D)
        unit, _ = standardise(z, D, EPS)
        z = unit * tl.load(scale + slow)[None, :] + tl.load(shift + slow)[None, :]
    if RES:
        z += b_q.to(tl.float32)
    return z


@triton.jit
def project(g, unit, D: tl.constexpr):
    """g less its mean and its component along unit, row by row: LayerNorm's Jacobian without the 1 / std."""
    return g - (tl.sum(g, 1) / D)[:, None] - unit * (tl.sum(g * unit, 1) / D)[:, None]


@triton.jit
def error_of_unit(unit, rstd, miss, scale, D: tl.constexpr):
    """`error` from what `standardise` returned for z and by how much M(k) misses v; mean of its gradient times unit."""
    g = scale * miss
    along = tl.sum(g * unit, 1) / D
    return (g - (tl.sum(g, 1) / D)[:, None] - unit * along[:, None]) * rstd[:, None], along


@triton.jit
def error(z, wanted, scale, shift, NORM: tl.constexpr, D: tl.constexpr, EPS: tl.constexpr):
    """Gradient of the inner loss at the MLP's output z [C, D]; wanted is v, less k if residual; scale, shift [1, D]."""
    if NORM:
        unit, rstd = standardise(z, D, EPS)
        err, _ = error_of_unit(unit, rstd, unit * scale + shift - wanted, scale, D)
        return err
    else:
        return z - wanted


@triton.jit
def error_bwd(d_err, z, wanted, scale, shift, NORM: tl.constexpr, D: tl.constexpr, EPS: tl.constexpr):
    """Gradients of `error` with respect to z, wanted (both [C, D]), scale and shift ([D])."""
    if NORM:
        unit, rstd = standardise(z, D, EPS)
        miss = unit * scale + shift - wanted
        g = scale * miss
        along = (tl.sum(g * unit, 1) / D)[:, None]
        d_rstd = tl.sum(d_err * project(g, unit, D), 1)
        du = d_err * rstd[:, None]
        d_along = (tl.sum(du * unit, 1) / D)[:, None]
        dp = du - (tl.sum(du, 1) / D)[:, None] - unit * d_along
        d_miss = scale * dp
        d_unit = scale * d_miss - along * du - g * d_along
        dz = project(d_unit, unit, D) * rstd[:, None] - unit * (d_rstd * rstd * rstd / D)[:, None]
        return dz, -d_miss, tl.sum(miss * dp + unit * d_miss, 0), tl.sum(d_miss, 0)
    else:
        return d_err, -d_err, scale, shift


@triton.jit
def meet(arrived, expected):
    """Wait until `expected` arrivals have been counted: what every program stored before is then visible to all."""
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem="release")
    while tl.atomic_add(arrived, 0, sem="acquire") < expected:
        pass
    tl.debug_barrier()


@triton.jit
def sum_over_tiles(part, shared, arrived, step, i_bh, i_e, C: tl.constexpr, D: tl.constexpr, NG: tl.constexpr):
    """Sum of the [C, D] parts that the NG programs of one head hold, the same in all of them.

    shared: [B*H, 2, NG, C, D] float32; two places, as a program may be one step ahead of another. arrived: [B*H], zero
    before the launch. step: how often these programs have met.
    """
    if NG == 1:
        return part
    else:
        row = tl.arange(0, C)[:, None] * D + tl.arange(0, D)[None, :]
        place = shared + (i_bh * 2 + step % 2) * NG * C * D
        tl.store(place + i_e * C * D + row, part)
        meet(arrived + i_bh, (step + 1) * NG)
        total = tl.load(place + row, cache_modifier=".cg")  # not from L1, which may hold what lay there two steps ago
        for e in tl.static_range(1, NG):
            total += tl.load(place + e * C * D + row, cache_modifier=".cg")
        return total
