"""One token of the memory for every sequence and head, as generation feeds them.

Products of a matrix and a vector run at the speed of memory: they are float32, on the vector units, in tiles of BE
hidden units. Weights keep PyTorch's layout, [D, E] and [E, D], so that a state needs no copy between two tokens.
"""

import triton
import triton.language as tl

from memory.ops.kernels import SIZES
from memory.ops.kernels.common import error, gelu, gelu_1, standardise


@triton.jit
def learn(w, s, P, W_o, S_o, at, of_head, gradient, theta, eta, keep, real):
    """Momentum (eq. 10) and forgetting (13) of a tile: stores both at offsets `at` and returns the new weights."""
    s = eta * s - theta * gradient
    w = keep * w + real * s
    if P is not None:
        w += (1.0 - keep) * tl.load(P + of_head).to(tl.float32)
    tl.store(S_o + at, s)
    tl.store(W_o + at, w)
    return w


@triton.jit(do_not_specialize=SIZES)
def step_kernel(
    q, k, v, theta, log_eta, log_keep, mask, W1, W2, S1, S2, A1, A2, P1, P2, scale, shift, y, W1_o, W2_o, S1_o, S2_o, H,
    D: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, RES: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """grid (B*H,): M' is M after it has learned (k, v) by the gradient at the anchor; y = M'(q).

    W, S, A: memory, momentum and anchor, [B*H, d_in, d_out] float32; P: the prior, [H, d_in, d_out].
    Without W1 the memory is W2 alone, whose E inputs are the head's features.
    """
    i_bh = tl.program_id(0).to(tl.int64)
    i_h = i_bh % H
    o, o_e = tl.arange(0, D), tl.arange(0, BE)
    token, w, of_head = i_bh * D, i_bh * D * E, i_h * D * E
    up, down = o[:, None] * E + o_e[None, :], o_e[:, None] * D + o[None, :]
    b_k, b_q = tl.load(k + token + o).to(tl.float32), tl.load(q + token + o).to(tl.float32)
    b_theta, keep = tl.load(theta + i_bh).to(tl.float32), tl.exp(tl.load(log_keep + i_bh).to(tl.float32))
    eta, real = tl.exp(tl.load(log_eta + i_bh).to(tl.float32)), 1.0
    if mask is not None:  # padding keeps everything, and does not add momentum to the memory once more
        real = (tl.load(mask + i_bh // H) != 0).to(tl.float32)
        b_theta, eta, keep = b_theta * real, eta * real + (1.0 - real), keep * real + (1.0 - real)
    z = tl.zeros([1, D], tl.float32)
    for e in range(E // BE):
        a2 = tl.load(A2 + w + e * BE * D + down)
        if A1 is not None:
            x = gelu(tl.sum(tl.load(A1 + w + e * BE + up) * b_k[:, None], 0), False)
        else:
            x = tl.load(k + token + e * BE + o_e).to(tl.float32)
        z += tl.sum(a2 * x[:, None], 0, keep_dims=True)
    wanted = tl.load(v + token + o).to(tl.float32)
    if RES:
        wanted -= b_k
    b_scale, b_shift = wanted[None, :], wanted[None, :]
    if scale is not None:
        b_scale = tl.load(scale + i_h * D + o).to(tl.float32)[None, :]
        b_shift = tl.load(shift + i_h * D + o).to(tl.float32)[None, :]
    err = error(z, wanted[None, :], b_scale, b_shift, scale is not None, D, EPS)
    z = tl.zeros([1, D], tl.float32)
    for e in range(E // BE):
        at1, at2 = e * BE + up, e * BE * D + down
        # all loads of a tile before the first sum, which the warps wait for
        w2, s2 = tl.load(W2 + w + at2), tl.load(S2 + w + at2)
        if A1 is not None:
            a1, a2 = tl.load(A1 + w + at1), tl.load(A2 + w + at2)
            w1, s1 = tl.load(W1 + w + at1), tl.load(S1 + w + at1)
            x, slope = gelu_1(tl.sum(a1 * b_k[:, None], 0), False)
            e1 = (tl.sum(a2 * err, 1) * slope)[None, :]
            w1 = learn(w1, s1, P1, W1_o + w, S1_o + w, at1, of_head + at1, b_k[:, None] * e1, b_theta, eta, keep, real)
            xq = gelu(tl.sum(w1 * b_q[:, None], 0), False)
        else:
            x = tl.load(k + token + e * BE + o_e).to(tl.float32)
            xq = tl.load(q + token + e * BE + o_e).to(tl.float32)
        w2 = learn(w2, s2, P2, W2_o + w, S2_o + w, at2, of_head + at2, x[:, None] * err, b_theta, eta, keep, real)
        z += tl.sum(w2 * xq[:, None], 0, keep_dims=True)
    if scale is not None:
        unit, _ = standardise(z, D, EPS)
        z = unit * b_scale + b_shift
    if RES:
        z += b_q[None, :]
    tl.store(y + token + o[None, :], z.to(y.dtype.element_ty))
