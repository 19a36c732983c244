"""Causal attention, whole or in a window, with a few more keys that all queries see, around FlashAttention.

No kernel of FlashAttention has such a mask; a mask in memory, or keys copied into every window, cost more than
attention does. So it reads the one set of keys, a kernel here adds what the others say, and results of two sets are one
by their log-sum-exp. The backward of each set is given the whole result: with P the weights in the whole softmax and
D = sum(dy y), dS = P (dP - D) holds for each set alone.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, library

from memory.ops.serves import traced
from memory.ops.triton.kernels import SIZES
from memory.ops.triton.launch import aligned, cdiv, run

TILE = 4096  # elements of a program that merges
ROWS = 64  # queries that a program reads at a time
PROGRAMS = 64  # of a head, which share all queries and each leave a part of the gradients of keys that all see


@triton.jit(do_not_specialize=[*SIZES, "H", "step", "lse_step"])
def merge_kernel(y, lse, other, other_lse, n, H, T, step, lse_step, D: tl.constexpr, BR: tl.constexpr):
    """grid (blocks of BR rows,): y and `other` become the result over both sets of keys, both lse that of the whole.

    A row is a head of a token. y is [n, D] and lse [n / (H T), H, T]; sequences of the other set, [T, H, D] and [H, T],
    begin `step` and `lse_step` elements apart.
    """
    row, o = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.arange(0, D)
    inside = row < n
    token, head = row // H, row % H
    p_y = y + row[:, None] * D + o[None, :]
    p_lse = lse + (token // T * H + head) * T + token % T
    p_other = other + (token // T * step + (token % T * H + head) * D)[:, None] + o[None, :]
    p_other_lse = other_lse + token // T * lse_step + head * T + token % T
    a, b = tl.load(p_lse, mask=inside, other=0.0), tl.load(p_other_lse, mask=inside, other=0.0)
    top = tl.maximum(a, b)
    w_a, w_b = tl.exp(a - top), tl.exp(b - top)
    whole = w_a + w_b
    b_y = tl.load(p_y, mask=inside[:, None], other=0.0).to(tl.float32) * (w_a / whole)[:, None]
    b_y += tl.load(p_other, mask=inside[:, None], other=0.0).to(tl.float32) * (w_b / whole)[:, None]
    tl.store(p_y, b_y.to(y.dtype.element_ty), mask=inside[:, None])
    tl.store(p_other, b_y.to(y.dtype.element_ty), mask=inside[:, None])
    tl.store(p_lse, top + tl.log(whole), mask=inside)
    tl.store(p_other_lse, top + tl.log(whole), mask=inside)


@triton.jit
def shared_tiles(k, v, H, M, D: tl.constexpr, BM: tl.constexpr):
    """Keys and values [BM, D] of a program's head that all queries see, zero behind the last of the M."""
    m, o = tl.arange(0, BM), tl.arange(0, D)
    at = (m[:, None] * H + tl.program_id(1)) * D + o[None, :]
    inside = (m < M)[:, None]
    return tl.load(k + at, mask=inside, other=0.0), tl.load(v + at, mask=inside, other=0.0)


@triton.jit
def query_places(block, n, H, T, D: tl.constexpr, BT: tl.constexpr):
    """Places [BT, D] of a block of tokens in a program's head of [n, H, D], those [BT] in lse, and which are real."""
    token, o = (block * BT + tl.arange(0, BT)).to(tl.int64), tl.arange(0, D)
    head = tl.program_id(1)
    at = (token[:, None] * H + head) * D + o[None, :]
    return at, (token // T * H + head) * T + token % T, token < n


@triton.jit(do_not_specialize=[*SIZES, "H", "M", "SCALE"])
def shared_fwd_kernel(
    q, k, v, y, lse, n, H, T, M, SCALE, D: tl.constexpr, BT: tl.constexpr, BM: tl.constexpr
):  # fmt: skip
    """grid (blocks of BT tokens, H): y and lse of one set of keys become those over that set and the M keys of k.

    q and y are [n, H, D], tokens of sequences of T; k and v [M, H, D]; lse [n / T, H, T].
    """
    b_k, b_v = shared_tiles(k, v, H, M, D, BM)
    at, at_lse, inside = query_places(tl.program_id(0), n, H, T, D, BT)
    b_q = tl.load(q + at, mask=inside[:, None], other=0.0)
    s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * SCALE
    s = tl.where((tl.arange(0, BM) < M)[None, :], s, float("-inf"))
    own = tl.load(lse + at_lse, mask=inside, other=0.0)
    top = tl.maximum(tl.max(s, 1), own)
    p, w = tl.exp(s - top[:, None]), tl.exp(own - top)
    total = tl.sum(p, 1) + w
    b_y = tl.dot(p.to(v.dtype.element_ty), b_v, input_precision="ieee")
    b_y += tl.load(y + at, mask=inside[:, None], other=0.0).to(tl.float32) * w[:, None]
    tl.store(y + at, (b_y / total[:, None]).to(y.dtype.element_ty), mask=inside[:, None])
    tl.store(lse + at_lse, top + tl.log(total), mask=inside)


@triton.jit(do_not_specialize=[*SIZES, "H", "M", "SCALE"])
def shared_bwd_kernel(
    q, k, v, y, lse, dy, dq, dpair, n, H, T, M, SCALE, D: tl.constexpr, BT: tl.constexpr, BM: tl.constexpr
):  # fmt: skip
    """grid (programs, H): dq [n, H, D] is added to; gradients of k and v, [programs, 2, M, H, D], are to be summed."""
    b_k, b_v = shared_tiles(k, v, H, M, D, BM)
    dk, dv = tl.zeros([BM, D], tl.float32), tl.zeros([BM, D], tl.float32)
    m, o = tl.arange(0, BM), tl.arange(0, D)
    for block in range(tl.program_id(0), tl.cdiv(n, BT), tl.num_programs(0)):
        at, at_lse, inside = query_places(block, n, H, T, D, BT)
        b_q = tl.load(q + at, mask=inside[:, None], other=0.0)
        b_dy = tl.load(dy + at, mask=inside[:, None], other=0.0)
        b_y = tl.load(y + at, mask=inside[:, None], other=0.0)
        whole = tl.load(lse + at_lse, mask=inside, other=0.0)
        s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * SCALE
        real = inside[:, None] & (m < M)[None, :]
        p = tl.where(real, tl.exp(s - whole[:, None]), 0.0)
        dp = tl.dot(b_dy, tl.trans(b_v), input_precision="ieee")
        along = tl.sum(b_dy.to(tl.float32) * b_y.to(tl.float32), 1)
        ds = (p * (dp - along[:, None]) * SCALE).to(q.dtype.element_ty)
        dk += tl.dot(tl.trans(ds), b_q, input_precision="ieee")
        dv += tl.dot(tl.trans(p.to(dy.dtype.element_ty)), b_dy, input_precision="ieee")
        b_dq = tl.load(dq + at, mask=inside[:, None], other=0.0).to(tl.float32)
        b_dq += tl.dot(ds, b_k, input_precision="ieee")
        tl.store(dq + at, b_dq.to(dq.dtype.element_ty), mask=inside[:, None])
    place = dpair + ((tl.program_id(0) * 2 * M + m[:, None]) * H + tl.program_id(1)) * D + o[None, :]
    tl.store(place, dk, mask=(m < M)[:, None])
    tl.store(place + M * H * D, dv, mask=(m < M)[:, None])


def forward(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The result [B, T, H, d] over one set, its log-sum-exp [B, H, T] in float32, and the state of a dropout of 0.

    The two tensors of that state say nothing, but PyTorch's backward asks for them.

    Args:
        q: queries, [B, T, H, d]; the last one stands at the last key.
        k: keys, [B, n, H, d].
        v: values, [B, n, H, d].
        window: keys that a query sees, its own included, or 0 for all up to its own; None for every key.
    """
    # no lengths of packed sequences, then longest query and key, dropout, causality, and no weights for debugging
    call = (None, None, q.shape[1], k.shape[1], 0.0, window is not None, False)
    y, lse, seed, unused, _ = torch.ops.aten._flash_attention_forward(q, k, v, *call, **_reach(window))
    return y, lse, seed, unused


def backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor, seed: Tensor, unused: Tensor,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v of one set; y and lse are those of the whole softmax."""
    call = (None, None, q.shape[1], k.shape[1], 0.0, window is not None, seed, unused)
    return torch.ops.aten._flash_attention_backward(dy, q, k, v, y, lse, *call, **_reach(window))


def _reach(window: int | None) -> dict[str, int]:
    return {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}


def _shared_call(q: Tensor, k: Tensor, lse: Tensor) -> tuple[tuple, dict[str, Any], tuple]:
    """What calls of both kernels have in common: sizes, constants, and what tells dtypes."""
    heads, width = q.shape[2:]
    keys = k.shape[1]
    sizes = (q.numel() // (heads * width), heads, lse.shape[2], keys, width**-0.5)
    return sizes, {"D": width, "BT": ROWS, "BM": max(triton.next_power_of_2(keys), 16)}, (q.dtype,)


def _add_shared(q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor) -> None:
    """Make y [B, T, H, d] and lse [B, H, T] over one set of keys those over that set and k [1, m, H, d]."""
    sizes, constants, call = _shared_call(q, k, lse)
    grid = (cdiv(sizes[0], ROWS), q.shape[2])
    run(shared_fwd_kernel, grid, (aligned(q), aligned(k), aligned(v), y, lse, *sizes), constants, call, num_warps=4)


def _shared_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor, dq: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of k and v that all queries see, from the result over all keys; that of q is added to dq."""
    sizes, constants, call = _shared_call(q, k, lse)
    programs = min(cdiv(sizes[0], ROWS), PROGRAMS)
    dpair = q.new_empty(programs, 2, *k.shape[1:], dtype=torch.float32)
    inputs = (aligned(q), aligned(k), aligned(v), aligned(y), lse, aligned(dy))
    grid = (programs, q.shape[2])
    # no loads ahead: they would take shared memory of which several programs of an SM each want a part
    run(shared_bwd_kernel, grid, (*inputs, dq, dpair, *sizes), constants, call, num_warps=4, num_stages=1)
    dk, dv = (part.sum(0, keepdim=True).to(k.dtype) for part in dpair.unbind(1))
    return dk, dv


_traced_add = library.custom_op("titans::add_shared", _add_shared, mutates_args=("y", "lse"))
_traced_backward = library.custom_op("titans::shared_backward", _shared_backward, mutates_args=("dq",))


@_traced_backward.register_fake
def _(dy, q, k, v, y, lse, dq):
    return k.new_empty(k.shape), v.new_empty(v.shape)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, q: Tensor, k: Tensor, v: Tensor, all_k: Tensor, all_v: Tensor, window: int
    ) -> tuple[Tensor, Tensor]:
        ctx.window = window
        y, lse, *unused = forward(q, k, v, window)
        if all_k.shape[1]:
            add = _traced_add if traced() else _add_shared
            add(q, all_k, all_v, y, lse)
        ctx.save_for_backward(q, k, v, all_k, all_v, y, lse, *unused)
        ctx.mark_non_differentiable(lse)
        return y, lse

    @staticmethod
    def backward(ctx, dy: Tensor, _: None) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        q, k, v, all_k, all_v, y, lse, *unused = ctx.saved_tensors
        dq, dk, dv = backward(dy, q, k, v, y, lse, *unused, window=ctx.window)
        if not all_k.shape[1]:  # gradients of nothing: without any, DDP would wait for them
            return dq, dk, dv, torch.empty_like(all_k), torch.empty_like(all_v), None
        dq = dq.contiguous()
        of_shared = _traced_backward if traced() else _shared_backward
        return dq, dk, dv, *of_shared(dy, q, all_k, all_v, y, lse, dq), None


def _merge(y: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """Make both results those over both sets of keys, and both log-sum-exps those of the whole softmax.

    Args:
        y: result over one set, [B, T, H, d].
        lse: [B, H, T].
        other: result over the other set; its batch may be strided, like that of its log-sum-exp.
        other_lse: [B, H, T].
    """
    heads, width = y.shape[2:]
    args = (y, lse, other, other_lse, y.numel() // width, heads, lse.shape[2], other.stride(0), other_lse.stride(0))
    run(merge_kernel, (cdiv(y.numel(), TILE),), args, {"D": width, "BR": TILE // width}, (y.dtype,), num_warps=8)


class _More(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        merged, *saved = forward(q, k, v, 0)
        _merge(merged, saved[0], y, lse)
        ctx.save_for_backward(q, k, v, merged, *saved)
        return merged

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        q, k, v, merged, *saved = ctx.saved_tensors
        # y has the gradient of the merged result, as `attend` saved the tensors that now hold the whole softmax
        return dy, None, *backward(dy, q, k, v, merged, *saved, window=0)


def attend(q: Tensor, k: Tensor, v: Tensor, all_k: Tensor, all_v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Queries [B, T, H, d] in bfloat16 or float16 on a GPU, to [B, T, H, d] and the log-sum-exp [B, H, T] for `more`.

    Args:
        q: queries; the last one stands at the last key.
        k: keys that a query sees up to its own, [B, n, H, d].
        v: values, [B, n, H, d].
        all_k: keys that every query sees, [1, m, H, d].
        all_v: values, [1, m, H, d].
        window: how many of `k` a query sees, its own included; 0 for all of them.
    """
    return _Attend.apply(q, k, v, all_k, all_v, window)


def more(y: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What `attend` answers if queries also see other keys up to their own; may be asked for some sequences only.

    What `attend` returned is overwritten with it, behind autograd's back: its backward is that of the whole softmax.
    So every row of a result goes through here once or none does.

    Args:
        y: result of `attend` for these queries, [B, T, H, d].
        lse: its log-sum-exp, [B, H, T].
        q: queries, [B, T, H, d].
        k: keys, [B, T, H, d].
        v: values, [B, T, H, d].
    """
    return _More.apply(y, lse, q, k, v)
