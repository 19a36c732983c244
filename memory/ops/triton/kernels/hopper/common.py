"""Device functions that the Gluon kernels share.

Letters as in `memory.ops.triton.kernels.common`. Products take factors from shared memory (or the left one from
registers) and their float32 result stays in registers. What is short is registers: shared memory takes so much of the
SM that a spilled one is fetched from L2.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma

sync = getattr(gl, "barrier", None) or gl.thread_barrier  # Triton 3.7 renamed it


@gluon.jit
def mm(a, b, acc):
    """acc + a b, under way until `warpgroup_mma_wait`."""
    return warpgroup_mma(a, b, acc, is_async=True)


@gluon.jit
def mm0(a, b, layout: gl.constexpr):
    """a b, under way until `warpgroup_mma_wait`."""
    M: gl.constexpr = a.shape[0]
    N: gl.constexpr = b.shape[1]
    acc = gl.zeros([M, N], gl.float32, layout)
    return warpgroup_mma(a, b, acc, use_acc=False, is_async=True)


@gluon.jit
def tanh(x):
    return gl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1)


@gluon.jit
def gelu_1(z):
    """GELU and its slope."""
    half, zz = 0.5 * z, z * z
    t = tanh(z * (0.7978845608028654 + 0.035677408136300125 * zz))
    slope = 0.5 + 0.5 * t + half * (1.0 - t * t) * (0.7978845608028654 + 0.10703222440890037 * zz)
    return half + half * t, slope


@gluon.jit
def row_mean(x):
    """[C, D] to [C, 1]."""
    return gl.expand_dims(gl.sum(x, 1) * (1.0 / x.shape[1]), 1)


@gluon.jit
def column(vec_s, i: gl.constexpr, layout: gl.constexpr):
    """Row i of vec_s [.., C] as a column [C, 1]."""
    return gl.expand_dims(vec_s.index(i).load(gl.SliceLayout(1, layout)), 1)


@gluon.jit
def opaque(i):
    """i, in a way that keeps addresses made of it from being computed before the loop and held in registers."""
    return gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [i], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def meet(arrived, expected):
    """Wait until `expected` arrivals have been counted: what every program stored before is then visible to all."""
    sync()
    gl.atomic_add(arrived, 1, sem="release")
    while gl.atomic_add(arrived, 0, sem="acquire") < expected:
        pass
    sync()


@gluon.jit
def total(place, tile: gl.constexpr, NG: gl.constexpr):
    """Sum of NG tiles of `tile` elements each, at the addresses `place` of the first."""
    out = gl.load(place, cache_modifier=".cg")  # not from L1, which may hold what lay there two steps ago
    for e in gl.static_range(1, NG):
        out += gl.load(place + e * tile, cache_modifier=".cg")
    return out


@gluon.jit
def add(place, x):
    """Add x [rows, D] to what these threads alone add to, so that no order matters and nobody waits."""
    rows = gl.expand_dims(gl.arange(0, x.shape[0], gl.SliceLayout(1, x.type.layout)), 1)
    cols = gl.expand_dims(gl.arange(0, x.shape[1], gl.SliceLayout(0, x.type.layout)), 0)
    gl.atomic_add(place + rows * x.shape[1] + cols, x, sem="relaxed", scope="cta")


@gluon.jit
def only(buffer):
    """The tile of a buffer [1, ..], at an address that is not computed before the loop and held in registers.

    Products take it in descriptors, which otherwise are what most of the spilled registers hold.
    """
    return buffer.index(opaque(0))


@gluon.jit
def gelu_2(z):
    """GELU, its slope and its curvature."""
    half, zz = 0.5 * z, z * z
    t = tanh(z * (0.7978845608028654 + 0.035677408136300125 * zz))
    inner = 0.7978845608028654 + 0.10703222440890037 * zz
    rest = 1.0 - t * t
    bend = rest * inner
    curve = bend + half * (rest * 0.21406444881780074 * z - 2.0 * t * bend * inner)
    return half + half * t, 0.5 + 0.5 * t + half * bend, curve


@gluon.jit
def standardise(z, EPS: gl.constexpr):
    """LayerNorm of the rows of z [C, D] without its affine part, and the reciprocal standard deviations [C, 1]."""
    centred = z - row_mean(z)
    rstd = gl.rsqrt(row_mean(centred * centred) + EPS)
    return centred * rstd, rstd


@gluon.jit
def project(g, unit):
    """g less its mean and its component along unit, row by row: LayerNorm's Jacobian without the 1 / std."""
    return g - row_mean(g) - unit * row_mean(g * unit)


@gluon.jit
def written(pending: gl.constexpr):
    """Wait until all but the last `pending` TMA stores are in global memory, where TMA loads of this program find them.

    `tma.store_wait` waits for no more than the reading of shared memory.
    """
    done: gl.constexpr = f"cp.async.bulk.wait_group {pending}; mov.b32 $0, $1;"
    gl.inline_asm_elementwise(done, "=r,r", [gl.program_id(0)], dtype=gl.int32, is_pure=False, pack=1)
    sync()
