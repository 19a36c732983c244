"""The memory token by token, weights materialised, in the order of the paper: the oracle of every other path."""

import torch
from torch import Tensor

from memory.ops.inputs import ScanInputs
from memory.ops.mlp import error, forgets_rows, gelu, gelu_slope, read
from memory.state import FastState


def inner_gradient(
    weights: list[Tensor], k: Tensor, v: Tensor, scale: Tensor | None, shift: Tensor | None, residual: bool
) -> list[Tensor]:
    """Gradient of 1/2 |M(k) - v|^2 for one token with respect to every layer (eq. 12), by hand.

    Args:
        weights: [..., d_in, d_out] per layer.
        k: key, [..., 1, D].
        v: value, [..., 1, D].
    """
    inputs, z = [k], [k @ weights[0]]
    for w in weights[1:]:
        inputs.append(gelu(z[-1]))
        z.append(inputs[-1] @ w)
    err = error(z[-1], k, v, scale, shift, residual)
    grads = [inputs[-1].mT @ err]
    for layer in range(len(weights) - 2, -1, -1):
        err = (err @ weights[layer + 1].mT) * gelu_slope(z[layer])
        grads.insert(0, inputs[layer].mT @ err)
    return grads


def scan(x: ScanInputs, state: FastState) -> tuple[Tensor, FastState]:
    """See `memory.ops.memory_scan`."""
    weights, momentum, anchor = state.weights, state.momentum, state.anchor
    depth, position, ys = len(weights), state.position, []
    scale, shift = (None if p is None else p[:, None] for p in (x.scale, x.shift))  # [H, 1, D]
    for t in range(x.q.shape[1]):
        k_t, v_t, q_t = x.k[:, t, :, None], x.v[:, t, :, None], x.q[:, t, :, None]  # [B, H, 1, D]
        theta_t, eta_t = x.theta[:, t, :, None, None], x.log_eta[:, t, :, None, None].exp()  # [B, H, 1, 1]
        keep_t = x.log_keep[:, t].exp()[:, :, None]  # 1 - alpha_t, [B, H, 1, channels]
        grads = inner_gradient(weights if x.exact else anchor, k_t, v_t, scale, shift, x.residual)
        surprise = [eta_t * s - theta_t * g for s, g in zip(momentum, grads, strict=True)]  # eq. 10
        learned = []
        for layer, (w, s) in enumerate(zip(weights, surprise, strict=True)):  # eq. 13
            keep = keep_t.mT if forgets_rows(layer, depth) else keep_t
            prior = torch.zeros_like(w) if x.prior is None else x.prior[layer]
            learned.append(keep * w + (1 - keep) * prior + s)
        if x.mask is not None:
            real = x.mask[:, t, None, None, None]
            learned = [torch.where(real, new, old) for new, old in zip(learned, weights, strict=True)]
            surprise = [torch.where(real, new, old) for new, old in zip(surprise, momentum, strict=True)]
        weights, momentum = learned, surprise
        ys.append(read(weights, q_t, scale, shift, x.residual)[:, :, 0])  # eq. 15, M_t: the own token included
        position = 0 if x.exact else (position + 1) % x.chunk
        if not position:
            anchor = weights
    return torch.stack(ys, 1), FastState(weights, momentum, anchor, position)
