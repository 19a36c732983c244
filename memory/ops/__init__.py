"""One function, several ways to compute it: the neural memory's recurrence over a sequence."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from memory.config import Backend, Errors
from memory.ops import chunked, reference
from memory.ops.inputs import ScanInputs, multiplied_in
from memory.ops.mlp import read
from memory.state import FastState

__all__ = ["Unserved", "initial_state", "memory_scan", "read"]

_log = logging.getLogger(__name__)
HAS_TRITON = find_spec("triton") is not None  # here, as torch.compile does not trace such a search


class Unserved(ValueError):
    """A backend was asked for that cannot serve the call; the message says why."""


def _resolve(backend: Backend, q: Tensor, state: FastState, log_keep: Tensor, chunk: int) -> Callable:
    """The implementation that serves a call.

    Raises:
        Unserved: `triton` was asked for and cannot serve it.
    """
    if backend in ("reference", "chunked"):
        return {"reference": reference.scan, "chunked": chunked.scan}[backend]
    if backend == "auto" and not (q.is_cuda and HAS_TRITON):
        return chunked.scan
    if not HAS_TRITON:
        raise Unserved("memory.backend is triton, which is not installed here; use auto or chunked")
    from memory.ops.triton import linear, op  # import Triton, which need not be there

    kernels = linear if len(state.weights) == 1 else op
    refusal = kernels.refusal(q, state, log_keep, chunk)
    if refusal is None:
        return kernels.scan
    if backend == "triton":
        raise Unserved(f"memory.backend triton does not serve {refusal}; use auto or chunked")
    _tell_once(refusal)
    return chunked.scan


def _one_token(backend: Backend, q: Tensor, state: FastState, log_keep: Tensor) -> Callable | None:
    """The kernel of a decoding step where it serves a call."""
    if q.shape[1] > 1 or backend not in ("auto", "triton") or (backend == "auto" and not q.is_cuda):
        return None
    if not HAS_TRITON:
        return None
    from memory.ops.triton import decode  # imports Triton, which need not be there

    return decode.decode if decode.serves(q, state, log_keep) else None


@cache
def _tell_once(refusal: str) -> None:
    _log.warning("the Triton memory kernels do not serve %s: running on matrix products instead", refusal)


def memory_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    theta: Tensor,
    log_eta: Tensor,
    log_keep: Tensor,
    state: FastState,
    *,
    chunk: int,
    residual: bool = True,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    prior: list[Tensor] | None = None,
    mask: Tensor | None = None,
    errors: Errors = "anchor",
    backend: Backend = "auto",
) -> tuple[Tensor, FastState]:
    """Learn (k, v) pairs and answer q, token after token (Titans eq. 8-18).

    For t = 1..T, with the inner loss l = 1/2 |M(k_t) - v_t|^2 and its gradient at the memory of the chunk's start, or
    with exact errors at M_{t-1},

        S_t = eta_t S_{t-1} - theta_t grad l
        M_t = (1 - alpha_t) M_{t-1} [+ alpha_t prior] + S_t
        y_t = M_t(q_t)

    The state is float32 (float64 for float64 inputs) whatever the autocast dtype; so is arithmetic, except that Triton
    multiplies in the dtype of q, k and v (or of autocast; bfloat16 for float16, three products of tf32 for float32)
    and adds up in float32; on Hopper it also rounds momentum of bfloat16 tokens to bfloat16 at every chunk's end.
    No gate values make a position neutral, since S_t enters M_t at every step; padding needs `mask`.

    Args:
        q: queries, [B, T, H, D].
        k: keys, [B, T, H, D].
        v: values, [B, T, H, D].
        theta: step size, [B, T, H].
        log_eta: log of the momentum's decay eta, [B, T, H], in [-inf, 0].
        log_keep: log(1 - alpha), [B, T, H], or [B, T, H, E] to forget per hidden unit (per key channel at depth 1).
        state: the memory before the first token; see `initial_state`.
        chunk: tokens that share a gradient anchor, counted from the state's position 0.
        residual: M(x) = x + MLP(x).
        scale: slow LayerNorm scale of the memory's output, [H, D]; None for no LayerNorm.
        shift: slow LayerNorm shift, [H, D].
        prior: what forgetting leads to, [H, d_in, d_out] per layer; None for zero.
        mask: False at padding, [B, T], where memory and momentum stay as they are; padding still counts as a position.
        errors: `anchor` or `exact`, which takes a linear memory without LayerNorm (`reference` takes any); its states
            have no position, as they may be cut anywhere.
        backend: `auto`, `reference`, `chunked` or `triton`; see `MemoryConfig`.

    Returns:
        y [B, T, H, D] in the dtype of v, and the state after the last token.

    Raises:
        ValueError: exact errors were asked for of a memory that has no closed form for them.
    """
    exact_errors = errors == "exact"
    if exact_errors and backend != "reference" and (len(state.weights) > 1 or scale is not None):
        raise ValueError("exact errors of a chunk have no closed form with two layers or LayerNorm; use reference")
    options = (mask, chunk, residual)
    step = _one_token(backend, q, state, log_keep)
    if step is not None:
        inputs = ScanInputs(q, k, v, theta, log_eta, log_keep, *options, scale, shift, prior, exact_errors)
        return step(inputs, state)
    if log_keep.dim() == 3:
        log_keep = log_keep[..., None]
    scan = _resolve(backend, q, state, log_keep, chunk)
    exact = torch.promote_types(v.dtype, torch.float32)
    autocast = torch.is_autocast_enabled(q.device.type)
    pairs = exact if scan in (reference.scan, chunked.scan) else multiplied_in(q)
    with torch.autocast(q.device.type, enabled=False) if autocast else nullcontext():
        tokens = [x.to(pairs) for x in (q, k, v)] + [x.to(exact) for x in (theta, log_eta, log_keep)]
        slow = [None if x is None else x.to(exact) for x in (scale, shift)]
        prior = None if prior is None else [w.to(exact) for w in prior]
        y, state = scan(ScanInputs(*tokens, *options, *slow, prior, exact_errors), state)
    return y.to(v.dtype), state


def initial_state(init: list[Tensor], batch: int) -> FastState:
    """M_0 for every sequence of a batch and S_0 = 0; `init` holds [H, d_in, d_out] per layer."""
    dtype = torch.promote_types(init[0].dtype, torch.float32)
    # copies: an optimiser step on M_0 must not reach the state of a sequence that is under way
    weights = [w.to(dtype).expand(batch, *w.shape).clone() for w in init]
    return FastState(weights, [torch.zeros_like(w) for w in weights], weights)
