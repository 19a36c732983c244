"""Linear maps of one tensor: each product of their backward adds its part of the tensor's gradient to the others'.

A memory and the attention beside it read the same tokens by six maps. Autograd adds up six gradients in five passes
that each read two tensors and write a third; a product that adds to what is there reads one more.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from memory.ops.serves import fuses, traced
from memory.precision import autocasts, compute_dtype, without_autocast


class _Map(torch.autograd.Function):
    """A linear map, and its input for the next one: that one's gradient of it comes first, and this one's is added."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, weight)
        ctx.set_materialize_grads(False)  # behind the last map there is none to add to
        return F.linear(x, weight, bias), x.view_as(x)

    @staticmethod
    def backward(ctx, dy: Tensor | None, dx: Tensor | None) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        if dy is None:
            return dx, None, None
        rows = dy.flatten(0, -2)
        if of_x and dx is None:
            dx = dy @ weight
        elif of_x and dx is not None:  # made by the next map, for this one alone
            dx.flatten(0, -2).addmm_(rows, weight)
        dweight = rows.mT @ x.flatten(0, -2) if of_weight else None
        return dx, dweight, rows.sum(0) if of_bias else None


class SharedInput(TorchFunctionMode):
    """Within it, `F.linear` of `x` is such a map. It takes the place of that function: modules need not know of it."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x
        self.last = x  # what the next map reads
        self.weights: dict[Tensor, Tensor] = {}  # in the dtype of the maps, cast once as autocast would do

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is F.linear:
            return self._linear(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if x is not self.x:  # such as tokens that every sequence begins with
            return F.linear(x, self.weights.get(weight, weight), bias)
        dtype = compute_dtype(x) if autocasts(x.device) else weight.dtype
        if weight not in self.weights:
            self.weights[weight] = weight.to(dtype)
        with without_autocast(x.device):
            own_bias = None if bias is None else bias.to(dtype)
            y, self.last = _Map.apply(self.last, self.weights[weight], own_bias)
        return y


def shared_input(x: Tensor) -> AbstractContextManager:
    """A context for all that reads x, in the dtype of products; it changes something where there is a gradient of x.

    Not under a trace, which sees autograd itself.
    """
    wanted = torch.is_grad_enabled() and x.requires_grad and not traced()
    return SharedInput(x) if wanted and type(x) is Tensor and fuses(x, 128, "auto") else nullcontext()
