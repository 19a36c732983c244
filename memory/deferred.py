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

# Inputs and outputs' gradients of one weight's calls, by the number of the backward that left them. A backward for the
# input alone never comes to the weight: what it leaves must not be added to what the next one finds.
Calls = dict[int, list[tuple[Tensor, Tensor]]]


class _Weight(torch.autograd.Function):
    """A weight and its bias as they are; their gradients come from the calls.

    Autograd runs a backward once all that used its result have run theirs: here, once every call is in the list.
    """

    @staticmethod
    def forward(ctx, calls: Calls, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.calls = calls
        ctx.biased = bias is not None
        ctx.set_materialize_grads(False)  # calls return no gradient, and autograd would fill one with zeros
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, _: None) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        calls = ctx.calls.pop(torch._C._current_graph_task_id())
        x, dy = (torch.cat([part.flatten(0, -2) for part in parts]) for parts in zip(*calls, strict=True))
        return None, dy.mT @ x, dy.sum(0) if ctx.biased else None


class _Call(torch.autograd.Function):
    """A linear map that leaves its input and its output's gradient to `_Weight`."""

    @staticmethod
    def forward(ctx, calls: Calls, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.calls = calls
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        x, weight = ctx.saved_tensors
        task = torch._C._current_graph_task_id()  # as activation checkpointing tells backwards apart
        if task not in ctx.calls:
            ctx.calls.clear()
            ctx.calls[task] = []
        ctx.calls[task].append((x, dy))
        return None, dy @ weight, None, None


class DeferredWeights(TorchFunctionMode):
    """Within it, linear maps whose weights are leaves get their weights' gradients at once, behind the whole loop.

    It takes the place of `F.linear` for the time of the loop, so that modules need not know of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[Tensor, tuple[Calls, Tensor, Tensor | None]] = {}  # calls, weight and bias as calls use them

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is not F.linear or not torch.is_grad_enabled():
            return function(*args, **(kwargs or {}))
        return self._linear(*args, **(kwargs or {}))

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not (weight.is_leaf and weight.requires_grad):
            return F.linear(x, weight, bias)
        if weight not in self.weights:
            calls: Calls = {}
            dtype = compute_dtype(x) if autocasts(x.device) else weight.dtype
            own_weight = weight.to(dtype)  # once, as autocast would do
            own_bias = None if bias is None else bias.to(dtype)
            shared = _Weight.apply(calls, own_weight, own_bias)
            self.weights[weight] = calls, shared, None if own_bias is None else own_bias.detach()
        calls, weight, bias = self.weights[weight]
        with without_autocast(x.device):
            return _Call.apply(calls, x.to(weight.dtype), weight, bias)
