"""What a researcher wants to see of a memory while it reads."""

from collections.abc import Callable

import torch
from torch import Tensor

from memory.precision import without_autocast
from memory.state import FastState


def measure(
    read: Callable[[list[Tensor], Tensor], Tensor],
    k: Tensor,
    v: Tensor,
    gates: dict[str, Tensor],
    mask: Tensor | None,
    before: FastState,
    after: FastState,
) -> dict[str, Tensor]:
    """Scalars of one call; surprise is 1/2 |M(k) - v|^2, and means are over real tokens.

    Args:
        read: M*(x) of weights and x [B, T, H, D].
        k: keys, [B, T, H, D].
        v: values, [B, T, H, D].
        gates: by name, [B, T, H].
        mask: False at padding, [B, T].
        before: the memory before the first token.
        after: the memory behind the last token.

    Returns:
        `theta_mean`, `theta_std` and so on for every gate; `surprise_before` and `surprise_after`, those of the memory
        before and behind all tokens; `weight_norm` and `momentum_norm`, root mean squares over sequences and heads.
    """
    real = torch.ones_like(gates["theta"])
    if mask is not None:
        real = real * mask[..., None]

    def mean(x: Tensor) -> Tensor:  # of [B, T, H]
        return (x * real).sum() / real.sum().clamp(min=1)

    health = {}
    for name, gate in gates.items():
        health[f"{name}_mean"] = mean(gate)
        health[f"{name}_std"] = mean((gate - health[f"{name}_mean"]).square()).sqrt()
    with without_autocast(k.device):
        for name, state in (("before", before), ("after", after)):
            missed = read(state.weights, k.to(state.weights[0].dtype)) - v
            health[f"surprise_{name}"] = mean(missed.square().sum(-1)) / 2
    for name, tensors in (("weight_norm", after.weights), ("momentum_norm", after.momentum)):
        squares = [t.square().sum((-2, -1)).mean() for t in tensors]
        health[name] = torch.stack(squares).sum().sqrt()
    return health
