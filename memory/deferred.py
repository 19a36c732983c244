"""Weight gradients of a loop over segments, made once behind it: one product over all tokens in place of one a segment.

Within the loop each would be a small product, rounded to the weight's dtype and added to the last: most of the launches
of a backward whose time is that of its launches.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from memory.precision import autocasts, compute_dtype, without_autocast


class _Weight(torch.autograd.Function):
    """A weight and its bias as they are; their gradients come from the calls, when those have all been gone through."""

    @staticmethod
    def forward(ctx, calls: list[tuple[Tensor, Tensor]], weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.calls, ctx.biased = calls, bias is not None
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, _: Tensor | None) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        x, dy = (torch.cat([part.flatten(0, -2) for part in parts]) for parts in zip(*ctx.calls, strict=True))
        ctx.calls.clear()
        return None, dy.mT @ x, dy.sum(0) if ctx.biased else None


class _Call(torch.autograd.Function):
    """A linear map that leaves its input and its output's gradient to `_Weight`."""

    @staticmethod
    def forward(ctx, calls: list[tuple[Tensor, Tensor]], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.calls = calls
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        x, weight = ctx.saved_tensors
        ctx.calls.append((x, dy))
        return None, dy @ weight, None, None


class DeferredWeights(TorchFunctionMode):
    """Within it, linear maps whose weights are leaves get their weights' gradients at once, behind the whole loop."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[Tensor, tuple] = {}

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is not F.linear or not torch.is_grad_enabled():
            return function(*args, **(kwargs or {}))
        return self._linear(*args, **(kwargs or {}))

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not (weight.is_leaf and weight.requires_grad):
            return F.linear(x, weight, bias)
        if weight not in self.weights:
            calls: list[tuple[Tensor, Tensor]] = []
            cast = [p if p is None or not autocasts(x.device) else p.to(compute_dtype(x)) for p in (weight, bias)]
            own_bias = None if cast[1] is None else cast[1].detach()
            self.weights[weight] = calls, _Weight.apply(calls, *cast), own_bias
        calls, weight, bias = self.weights[weight]
        with without_autocast(x.device):
            return _Call.apply(calls, x.to(weight.dtype), weight, bias)
