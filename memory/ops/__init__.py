"""One function, several ways to compute it: the neural memory's recurrence over a sequence."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from memory.config import Backend
from memory.ops import chunked, reference, serves
from memory.ops.rule import Rule, Tokens
from memory.ops.serves import Unserved
from memory.precision import without_autocast
from memory.state import FastRows, FastState

__all__ = ["Rule", "Tokens", "Unserved", "initial_state", "memory_scan", "memory_step"]

_log = logging.getLogger(__name__)


def _resolve(tokens: Tokens, state: FastState, rule: Rule, backend: Backend) -> Callable:
    """The implementation that serves a call of more than a decoding step.

    Raises:
        Unserved: `triton` was asked for and cannot serve it.
    """
    if backend == "reference":
        return reference.scan
    if backend == "chunked" or (backend == "auto" and not (tokens.q.is_cuda and serves.HAS_TRITON)):
        return chunked.scan
    if not serves.HAS_TRITON:
        raise Unserved("memory.backend is triton, which is not installed here; use auto or chunked")
    refusal = serves.refusal(tokens, state, rule)
    if refusal is None:
        from memory.ops.triton import op  # imports Triton, which need not be there

        return op.scan
    if backend == "triton":
        raise Unserved(f"memory.backend triton does not serve {refusal}; use auto or chunked")
    _tell_once(refusal)
    return chunked.scan


@cache
def _tell_once(refusal: str) -> None:
    _log.warning("the Triton memory kernels do not serve %s: running on matrix products instead", refusal)


def memory_scan(tokens: Tokens, state: FastState, rule: Rule, backend: Backend = "auto") -> tuple[Tensor, FastState]:
    """Learn (k, v) pairs and answer q, token after token (Titans eq. 8-18).

    For t = 1..T, with the inner loss l = 1/2 |M(k_t) - v_t|^2 and its gradient at the memory of the chunk's start, or
    with exact errors at M_{t-1},

        S_t = eta_t S_{t-1} - theta_t grad l
        M_t = (1 - alpha_t) M_{t-1} [+ alpha_t M_0] + S_t
        y_t = M_t(q_t)

    The state is float32 (float64 for float64 inputs) whatever the autocast dtype; so is arithmetic, except that Triton
    multiplies in the dtype of q, k and v (or of autocast; bfloat16 for float16, three products of tf32 for float32)
    and adds up in float32; on Hopper it also rounds momentum of bfloat16 tokens to bfloat16 at every chunk's end.
    No gate values make a position neutral, since S_t enters M_t at every step; padding needs a mask.

    Args:
        tokens: what happens at each token.
        state: the memory before the first token, of each sequence or, in one row, of all; see `initial_state`.
        rule: what the memory is. `exact` errors take a memory without LayerNorm (`reference` takes any).
        backend: `auto`, `reference`, `chunked` or `triton`; see `MemoryConfig`.

    Returns:
        y [B, T, H, D] in the dtype of v, and the state after the last token.

    Raises:
        ValueError: exact errors were asked for of a memory that has no closed form for them.
        Unserved: `triton` was asked for and cannot serve the call.
    """
    reason = None if backend == "reference" else serves.no_closed_form(rule)
    if reason is not None:
        raise ValueError(reason)
    if rule.momentum:
        return _scanned(tokens, state, rule, backend)
    y, after = _scanned(tokens.without_momentum(), state, rule, backend)
    # most ways to compute it have left the last surprise there
    return y, replace(after, momentum=[s.clone() for s in state.expand(len(tokens.q)).momentum])


def _scanned(tokens: Tokens, state: FastState, rule: Rule, backend: Backend) -> tuple[Tensor, FastState]:
    """`memory_scan` but for momentum that is not carried."""
    q = tokens.q
    if (backend == "triton" or (backend == "auto" and q.is_cuda)) and serves.decodes(tokens, state, rule):
        from memory.ops.triton.decode import decode  # imports Triton, which need not be there

        return decode(tokens, state.expand(len(q)), rule)
    scan = _resolve(tokens, state, rule, backend)
    if scan in (reference.scan, chunked.scan) or state.position:
        state = state.expand(len(q))  # kernels read a row that stands for all where it lies
    exact = torch.promote_types(tokens.v.dtype, torch.float32)
    features = exact if scan in (reference.scan, chunked.scan) else tokens.product_dtype
    with without_autocast(q.device):
        y, after = scan(tokens.to(features, exact), state, rule.map(lambda x: x.to(exact)))
    return y.to(tokens.v.dtype), after


@torch.no_grad()
def memory_step(tokens: Tokens, state: FastRows, rule: Rule, backend: Backend = "auto") -> Tensor:
    """`memory_scan` for one token of each row, whose place in a chunk is its own; the state is overwritten.

    Nothing here has a gradient.

    Args:
        tokens: what happens at the token of each row, without a mask.
        state: the memory before it, of contiguous tensors.
        rule: what the memory is.
        backend: see `memory_scan`.

    Returns:
        y [B, 1, H, D] in the dtype of v.
    """
    if not rule.momentum:
        tokens = tokens.without_momentum()
    ends = None
    if state.position is not None:
        state.position.add_(1).remainder_(rule.chunk)
        ends = state.position == 0  # rows whose chunk ends with this token
    before = FastState(state.weights, state.momentum, state.weights if ends is None else state.anchor)
    if (backend == "triton" or (backend == "auto" and tokens.q.is_cuda)) and serves.decodes(tokens, before, rule):
        from memory.ops.triton.decode import decode_in_place  # imports Triton, which need not be there

        return decode_in_place(tokens, before, rule, ends)
    y, after = memory_scan(tokens, before, rule, backend)
    torch._foreach_copy_([*state.weights, *state.momentum], [*after.weights, *after.momentum])
    if ends is not None:
        for anchor, weights in zip(state.anchor, after.weights, strict=True):
            anchor.copy_(torch.where(ends[:, None, None, None], weights, anchor))
    return y


def initial_state(init: list[Tensor], batch: int) -> FastState:
    """M_0 for every sequence of a batch and S_0 = 0; `init` holds [H, d_in, d_out] per layer."""
    dtype = torch.promote_types(init[0].dtype, torch.float32)
    # copies: an optimiser step on M_0 must not reach the state of a sequence that is under way
    weights = [w.to(dtype).expand(batch, *w.shape).clone() for w in init]
    return FastState(weights, [torch.zeros_like(w) for w in weights], weights)
