"""Causal attention, whole or in a window, with a few more keys that all queries see, on FlashAttention.

No kernel has such a mask; a mask in memory, or keys copied into every window, cost more than attention does. So either
set of keys has a call of its own, and the results are merged by their log-sum-exp. The backward of each call is given
the merged result: with P the weights in the whole softmax and D = sum(dy y), dS = P (dP - D) holds for each set alone.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor, library

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.launch import cdiv, run

TILE = 4096  # elements of a program that merges
PIECE = 512  # least queries that a program reads to make the gradient of keys that all see; a power of 2


@triton.jit(do_not_specialize=[*SIZES, "m", "m_other", "step", "lse_step"])
def merge_kernel(y, lse, other, other_lse, n, H, m, m_other, step, lse_step, D: tl.constexpr, BOTH: tl.constexpr,
                 BR: tl.constexpr):  # fmt: skip
    """grid (blocks of BR rows,): y becomes the result over both sets of keys, and both lse that of the whole softmax.

    A row is a head of a token. y is [n, D] and lse [n / (H m), H, m]; of the other set there are sequences of
    m_other tokens, [m_other, H, D] and [H, m_other], which begin `step` and `lse_step` elements apart. With
    BOTH its result becomes the merged one too.
    """
    row, o = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.arange(0, D)
    inside = row < n
    token, head = row // H, row % H
    p_y = y + row[:, None] * D + o[None, :]
    p_lse = lse + (token // m * H + head) * m + token % m
    p_other = other + (token // m_other * step + (token % m_other * H + head) * D)[:, None] + o[None, :]
    p_other_lse = other_lse + token // m_other * lse_step + head * m_other + token % m_other
    a, b = tl.load(p_lse, mask=inside, other=0.0), tl.load(p_other_lse, mask=inside, other=0.0)
    top = tl.maximum(a, b)
    w_a, w_b = tl.exp(a - top), tl.exp(b - top)
    whole = w_a + w_b
    b_y = tl.load(p_y, mask=inside[:, None], other=0.0).to(tl.float32) * (w_a / whole)[:, None]
    b_y += tl.load(p_other, mask=inside[:, None], other=0.0).to(tl.float32) * (w_b / whole)[:, None]
    tl.store(p_y, b_y.to(y.dtype.element_ty), mask=inside[:, None])
    if BOTH:
        tl.store(p_other, b_y.to(y.dtype.element_ty), mask=inside[:, None])
    tl.store(p_lse, top + tl.log(whole), mask=inside)
    tl.store(p_other_lse, top + tl.log(whole), mask=inside)


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


def _merge(y: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor, both: bool) -> None:
    """Make y the result over both sets of keys, and both log-sum-exps those of the whole softmax.

    Args:
        y: result over one set, [B, T, H, d].
        lse: [B, H, T].
        other: result over the other set, as many rows, its sequences perhaps cut into pieces; a batch may be strided.
        other_lse: [B * pieces, H, T / pieces].
        both: write the merged result to `other` too.
    """
    heads, width = y.shape[2:]
    steps = other.stride(0), other_lse.stride(0)
    args = (y, lse, other, other_lse, y.numel() // width, heads, lse.shape[2], other_lse.shape[2], *steps)
    constants = {"D": width, "BOTH": both, "BR": TILE // width}
    run(merge_kernel, (cdiv(y.numel(), TILE),), args, constants, (y.dtype,), num_warps=8)


_traced_merge = library.custom_op("titans::merge", _merge, mutates_args=("y", "lse", "other", "other_lse"))


def _cut(x: Tensor, size: int) -> Tensor:
    """[B, T, ...] as [B * T / size, size, ...]: queries that see the same keys need not be of one sequence."""
    return x.unflatten(1, (-1, size)).flatten(0, 1)


def _piece(time: int) -> int:
    """Into which equal pieces sequences of `time` tokens are cut before keys that all see are read.

    Their gradient is made by one program for each sequence, head and block of keys, which goes through all queries: of
    few keys and long sequences that would be few long programs. A sequence is halved as often as that leaves a multiple
    of PIECE.
    """
    pieces = math.gcd(time, 1 << 20) // PIECE
    return time // max(pieces, 1)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, q: Tensor, k: Tensor, v: Tensor, all_k: Tensor, all_v: Tensor, window: int
    ) -> tuple[Tensor, Tensor]:
        ctx.window = window
        ctx.size = _piece(q.shape[1]) if window else q.shape[1]
        y, *saved = forward(q, k, v, window)
        if all_k.shape[1]:
            cut = _cut(q, ctx.size)
            wide_k, wide_v = (x.expand(len(cut), -1, -1, -1) for x in (all_k, all_v))
            other, *others = forward(cut, wide_k, wide_v, None)
            merge = _traced_merge if torch.compiler.is_compiling() else _merge
            merge(y, saved[0], other, others[0], False)
            if not window:
                others[0] = saved[0]  # uncut, both sets have the same one: the one that `more` overwrites
            saved += others
        ctx.save_for_backward(q, k, v, all_k, all_v, y, *saved)
        ctx.mark_non_differentiable(saved[0])
        return y, saved[0]

    @staticmethod
    def backward(ctx, dy: Tensor, _: None) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        q, k, v, all_k, all_v, y, *saved = ctx.saved_tensors
        dq, dk, dv = backward(dy, q, k, v, y, *saved[:3], window=ctx.window)
        if not all_k.shape[1]:
            return dq, dk, dv, None, None, None
        dy, q, y = (_cut(x, ctx.size) for x in (dy, q, y))
        wide_k, wide_v = (x.expand(len(q), -1, -1, -1) for x in (all_k, all_v))
        dq_all, *dall = backward(dy, q, wide_k, wide_v, y, *saved[3:], window=None)
        return dq + dq_all.reshape(dq.shape), dk, dv, *(d.float().sum(0, keepdim=True).to(d.dtype) for d in dall), None


class _More(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        merged, *saved = forward(q, k, v, 0)
        _merge(merged, saved[0], y, lse, both=True)
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
