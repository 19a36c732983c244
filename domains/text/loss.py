"""Cross-entropy over a large vocabulary, a piece of the tokens at a time, so that logits never fill memory.

`torch.nn.functional.linear_cross_entropy` does the same from PyTorch 2.13 on; 2.11 and 2.12 have no chunked form.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from app.tokens import IGNORE

LOGITS = 1 << 27  # elements that exist at a time


def mean_nats(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens that have a target, in nats; its gradients are computed with it.

    Args:
        hidden: [B, T, D]; multiplied in autocast's dtype where autocast is on.
        weight: one row per token of the vocabulary, [V, D].
        targets: ids [B, T]; IGNORE is not counted.

    Returns:
        scalar float32 (float64 for float64 inputs); zero where there is no target.
    """
    return _MeanNats.apply(hidden.flatten(0, 1), weight, targets.flatten())


@torch.no_grad()
def token_nats(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every token [B, T] in nats, float32, zero where there is no target; without gradients."""
    h, w, ids = *_operands(hidden.flatten(0, 1), weight), targets.flatten()
    parts = []
    for h_part, t_part in zip(h.split(_rows(w)), ids.split(_rows(w)), strict=True):
        logits = (h_part @ w.T).to(torch.promote_types(w.dtype, torch.float32))
        parts.append(torch.nn.functional.cross_entropy(logits, t_part, ignore_index=IGNORE, reduction="none"))
    return torch.cat(parts).view_as(targets)


def _operands(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    return hidden.to(dtype), weight.to(dtype)


def _rows(weight: Tensor) -> int:
    return max(LOGITS // len(weight), 1)


class _MeanNats(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        h, w = _operands(hidden, weight)
        exact = torch.promote_types(w.dtype, torch.float32)
        scored = targets != IGNORE
        ids = targets.clamp(min=0)[:, None]
        scale = 1 / scored.sum().clamp(min=1).to(exact)
        total = torch.zeros((), dtype=exact, device=h.device)
        d_hidden = torch.zeros_like(h)
        d_weight = torch.zeros_like(weight, dtype=exact)
        with torch.autocast(h.device.type, enabled=False):
            for start in range(0, len(h), _rows(w)):
                part = slice(start, start + _rows(w))
                logs = torch.log_softmax(h[part] @ w.T, -1, dtype=exact)  # reads the product's dtype, writes float32
                own = scored[part, None].to(exact)
                total -= (logs.gather(1, ids[part]) * own).sum()
                gradient = logs.exp_().scatter_add_(1, ids[part], -torch.ones_like(own)).mul_(own).to(w.dtype)
                torch.mm(gradient, w, out=d_hidden[part])
                d_weight += gradient.T @ h[part]
        ctx.save_for_backward(d_hidden, d_weight, scale)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(  # pyrefly: ignore[bad-override]  # the decorator hides names
        ctx: Any, upstream: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        d_hidden, d_weight, scale = ctx.saved_tensors
        factor = upstream * scale
        return (d_hidden * factor).to(ctx.dtypes[0]), (d_weight * factor).to(ctx.dtypes[1]), None
