"""One function, several ways to compute it: the neural memory's recurrence over a sequence."""

import torch
from torch import Tensor

from memory.config import Backend
from memory.ops import chunked, reference
from memory.ops.mlp import read
from memory.state import FastState

__all__ = ["initial_state", "memory_scan", "read"]

_SCANS = {"auto": chunked.scan, "chunked": chunked.scan, "reference": reference.scan}


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
    target: list[Tensor] | None = None,
    mask: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, FastState]:
    """Learn (k, v) pairs and answer q, token after token (Titans eq. 8-18).

    For t = 1..T, with the inner loss l = 1/2 |M(k_t) - v_t|^2 and its gradient at the memory of the chunk's start,

        S_t = eta_t S_{t-1} - theta_t grad l
        M_t = (1 - alpha_t) M_{t-1} [+ alpha_t target] + S_t
        y_t = M_t(q_t)

    State and arithmetic are float32 (float64 for float64 inputs) whatever the autocast dtype.
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
        target: what forgetting leads to, [H, d_in, d_out] per layer; None for zero.
        mask: False at padding, [B, T], where memory and momentum stay as they are; padding still counts as a position.
        backend: `auto`, `reference` or `chunked`.

    Returns:
        y [B, T, H, D] in the dtype of v, and the state after the last token.
    """
    if log_keep.dim() == 3:
        log_keep = log_keep[..., None]
    dtype = torch.promote_types(v.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        full = [x.to(dtype) for x in (q, k, v, theta, log_eta, log_keep)]
        slow = [None if x is None else x.to(dtype) for x in (scale, shift)]
        goal = None if target is None else [w.to(dtype) for w in target]
        y, state = _SCANS[backend](*full, state, chunk, residual, *slow, goal, mask)
    return y.to(v.dtype), state


def initial_state(init: list[Tensor], batch: int) -> FastState:
    """M_0 for every sequence of a batch and S_0 = 0; `init` holds [H, d_in, d_out] per layer."""
    dtype = torch.promote_types(init[0].dtype, torch.float32)
    weights = [w.to(dtype).expand(batch, *w.shape) for w in init]
    return FastState(weights, [torch.zeros_like(w) for w in weights], weights)
