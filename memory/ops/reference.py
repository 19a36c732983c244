"""The memory token by token, weights materialised, in the order of the paper: the oracle of every other path."""

import torch
from torch import Tensor

from memory.ops.rule import Rule, Tokens, forgets_rows
from memory.state import FastState


def inner_gradient(weights: list[Tensor], last: Tensor, k: Tensor, v: Tensor, rule: Rule) -> list[Tensor]:
    """Gradient of one token's inner loss with respect to every layer (eq. 12), by hand.

    Args:
        weights: where the gradients are taken, [..., d_in, d_out] per layer.
        last: the last layer's weight with which the error is taken; with exact errors a newer one than the others.
        k: key, [..., 1, D].
        v: value, [..., 1, D].
        rule: what the memory is, `by_row`.
    """
    inputs = [k]
    hidden = []
    for w in weights[:-1]:
        hidden.append(rule.hidden(inputs[-1] @ w))
        inputs.append(hidden[-1].features)
    err = rule.error(inputs[-1] @ last, rule.offset(k, v))
    grads = [inputs[-1].mT @ err]
    for layer in range(len(weights) - 2, -1, -1):
        err = hidden[layer].back(err @ weights[layer + 1].mT)
        grads.insert(0, inputs[layer].mT @ err)
    return grads


def scan(tokens: Tokens, state: FastState, rule: Rule) -> tuple[Tensor, FastState]:
    """See `memory.ops.memory_scan`."""
    weights = state.weights
    momentum = state.momentum
    anchor = state.anchor
    depth = len(weights)
    rule = rule.by_row()
    position = state.position
    prior = [torch.zeros_like(w) for w in weights] if rule.prior is None else rule.prior
    ys = []
    for t in range(tokens.q.shape[1]):
        q_t, k_t, v_t = (x[:, t, :, None] for x in (tokens.q, tokens.k, tokens.v))  # [B, H, 1, D]
        theta_t = tokens.theta[:, t, :, None, None]  # [B, H, 1, 1]
        eta_t = tokens.log_eta[:, t, :, None, None].exp()  # [B, H, 1, 1]
        keep_t = tokens.log_keep[:, t].exp()[:, :, None]  # 1 - alpha_t, [B, H, 1, channels]
        last = weights[-1] if rule.exact else anchor[-1]
        grads = inner_gradient(anchor, last, k_t, v_t, rule)
        surprise = [eta_t * s - theta_t * g for s, g in zip(momentum, grads, strict=True)]  # eq. 10
        learned = []
        for layer in range(depth):  # eq. 13
            keep = keep_t.mT if forgets_rows(layer, depth) else keep_t
            forgotten = keep * weights[layer] + (1 - keep) * prior[layer]
            learned.append(forgotten + surprise[layer])
        if tokens.mask is not None:
            real = tokens.mask[:, t, None, None, None]
            learned = [torch.where(real, new, old) for new, old in zip(learned, weights, strict=True)]
            surprise = [torch.where(real, new, old) for new, old in zip(surprise, momentum, strict=True)]
        weights = learned
        momentum = surprise
        ys.append(rule.read(weights, q_t)[:, :, 0])  # eq. 15, M_t: the own token included
        position = rule.position(position, 1, depth)
        if not position:
            anchor = weights
    return torch.stack(ys, 1), FastState(weights, momentum, anchor, position)
