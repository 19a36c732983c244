"""Attention of one query a row over slots of which each row sees its own: decoding, no gradients.

A call is as long as the keys and values take to be read, once, of seen slots alone. Where there are few rows and heads,
several programs share the slots of one, and a second kernel brings together what they have found.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from memory.ops.triton.launch import aligned, cdiv, run

TILE = 4096  # keys' elements that a program has loaded at a time
WARPS = 4
PROGRAMS = 512  # that keep a GPU busy
MOST_PARTS = 64  # of a head's slots
LOWEST = tl.constexpr(-1e30)  # score of what is not seen: below any other, and its difference to itself is a number


@triton.jit(do_not_specialize=["n", "H", "span"])
def slots_kernel(
    q, k, v, seen, y, total, top, n, H, span, D: tl.constexpr, BK: tl.constexpr, WHOLE: tl.constexpr,
    SCALE: tl.constexpr,
):  # fmt: skip
    """grid (B*H, parts): y = sum_j p_j v_j over the seen of `span` slots, p_j = exp(q.k_j SCALE - top).

    q is [B*H, D], k and v are [B*H, n, D], seen is [B, n]. With WHOLE there is one part, and y [B*H, D] is divided by
    the sum of p; else y [B*H, parts, D], that sum in `total` and the largest score in `top`, [B*H, parts], are float32.
    """
    i_bh, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o, o_k = tl.arange(0, D), tl.arange(0, BK)
    b_q = tl.load(q + i_bh * D + o).to(tl.float32) * SCALE
    high, mass, sums = tl.full([1], LOWEST, tl.float32), tl.zeros([1], tl.float32), tl.zeros([D], tl.float32)
    for at in range(part * span, min(part * span + span, n), BK):
        slot = at + o_k
        b_seen = tl.load(seen + i_bh // H * n + slot, mask=slot < n, other=0) != 0
        place = (i_bh * n + slot)[:, None] * D + o[None, :]
        b_k = tl.load(k + place, mask=b_seen[:, None], other=0.0).to(tl.float32)
        b_v = tl.load(v + place, mask=b_seen[:, None], other=0.0).to(tl.float32)
        score = tl.where(b_seen, tl.sum(b_k * b_q[None, :], 1), LOWEST)
        higher = tl.maximum(high, tl.max(score, 0, keep_dims=True))
        p = tl.where(b_seen, tl.exp(score - higher), 0.0)
        fade = tl.exp(high - higher)
        mass = mass * fade + tl.sum(p, 0, keep_dims=True)
        sums = sums * fade + tl.sum(p[:, None] * b_v, 0)
        high = higher
    if WHOLE:
        tl.store(y + i_bh * D + o, (sums / mass).to(y.dtype.element_ty))
    else:
        i = i_bh * tl.num_programs(1) + part
        tl.store(y + i * D + o, sums)
        tl.store(total + i + tl.arange(0, 1), mass)
        tl.store(top + i + tl.arange(0, 1), high)


@triton.jit
def slots_merge_kernel(sums, total, top, y, D: tl.constexpr, PARTS: tl.constexpr):
    """grid (B*H,): what `slots_kernel` has found in each part, as one, y [B*H, D]."""
    i_bh = tl.program_id(0).to(tl.int64)
    o, part = tl.arange(0, D), i_bh * PARTS + tl.arange(0, PARTS)
    high = tl.load(top + part)
    weight = tl.exp(high - tl.max(high, 0))
    mass = tl.sum(weight * tl.load(total + part), 0)
    b_y = tl.sum(weight[:, None] * tl.load(sums + part[:, None] * D + o[None, :]), 0) / mass
    tl.store(y + i_bh * D + o, b_y.to(y.dtype.element_ty))


def attend_slots(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """What queries get from the slots that they see.

    Args:
        q: one query a row, [B, H, 1, D]; D is a power of two.
        k: keys, [B, H, n, D]; copied where they are not contiguous.
        v: values, [B, H, n, D], as keys.
        seen: which slots a row sees, at least one, [B, n] bool.

    Returns:
        [B, H, 1, D], in the dtype of q.
    """
    batch, heads, slots, width = k.shape
    rows = batch * heads
    block = TILE // width
    blocks = cdiv(slots, block)
    parts = max(min(MOST_PARTS, PROGRAMS // rows, blocks), 1)
    parts = 1 << parts.bit_length() - 1  # a power of two, for the second kernel
    span = cdiv(blocks, parts) * block
    y = torch.empty_like(q, memory_format=torch.contiguous_format)
    whole = parts == 1
    sums = y if whole else q.new_empty(rows, parts, width, dtype=torch.float32)
    total, top = (None, None) if whole else q.new_empty(2, rows, parts, dtype=torch.float32)
    constants = {"D": width, "BK": block, "WHOLE": whole, "SCALE": width**-0.5}
    args = (aligned(q), aligned(k), aligned(v), aligned(seen), sums, total, top, slots, heads, span)
    run(slots_kernel, (rows, parts), args, constants, (q.dtype, k.dtype), num_warps=WARPS)
    if not whole:
        args = (sums, total, top, y)
        run(slots_merge_kernel, (rows,), args, {"D": width, "PARTS": parts}, (q.dtype,), num_warps=WARPS)
    return y
