"""Device functions of both kernels that compute the reads' gradient."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

from memory.ops.triton.kernels.hopper.common import gelu_1, gelu_2, opaque

# one element after the other, as whole tiles of temporary results do not fit into registers


@gluon.jit
def of_keys(z, h):
    """From a key's hidden input and the error behind it: activation, error, slope, curvature times the error behind."""
    x, slope, curve = gelu_2(z)
    return x.to(gl.bfloat16), (h * slope).to(gl.bfloat16), slope.to(gl.bfloat16), (h * curve).to(gl.bfloat16)


@gluon.jit
def of_queries(z):
    """From a query's hidden input: activation and slope."""
    x, slope = gelu_1(z)
    return x.to(gl.bfloat16), slope.to(gl.bfloat16)


@gluon.jit
def tokens(x, first, t, T, H):
    """Addresses of a chunk's 64 rows of x, which begin at `first`, and which are inside; made anew each time."""
    L: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [gl.num_warps(), 1], [1, 0])  # 16 bytes a thread
    rows, cols = gl.arange(0, 64, gl.SliceLayout(1, L)), gl.expand_dims(gl.arange(0, 64, gl.SliceLayout(0, L)), 0)
    inside = gl.expand_dims(opaque(t) + rows < T, 1) & (cols >= 0)
    return x + first + (gl.expand_dims(rows, 1) * (opaque(H) * 64) + cols), inside


@gluon.jit
def copy_tokens(place_s, x, first, t, T, H):
    place, inside = tokens(x, first, t, T, H)
    async_copy.async_copy_global_to_shared(place_s, place, mask=inside)


@gluon.jit
def causal(x):
    """x where its column is no later than its row, 0 elsewhere."""
    rows = gl.arange(0, 64, gl.SliceLayout(1, x.type.layout)) + opaque(0)
    cols = gl.arange(0, 64, gl.SliceLayout(0, x.type.layout))
    return gl.where(gl.expand_dims(rows, 1) >= gl.expand_dims(cols, 0), x, 0.0)


@gluon.jit
def prior_tile(P, place_s):
    """Rows of 64 weights of the prior, float32 in memory, into shared memory."""
    L: gl.constexpr = gl.BlockedLayout([1, 4], [2, 16], [gl.num_warps(), 1], [1, 0])
    rows, cols = gl.arange(0, place_s.shape[0], gl.SliceLayout(1, L)), gl.arange(0, 64, gl.SliceLayout(0, L))
    place_s.store(gl.load(P + gl.expand_dims(rows, 1) * 64 + gl.expand_dims(cols, 0)).to(gl.bfloat16))
