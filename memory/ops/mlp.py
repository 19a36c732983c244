"""The memory M as a function: its forward pass, and the gradient of the inner loss at its output.

Weights are a list with one tensor [..., d_in, d_out] per layer; tokens are rows.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-5  # of the memory's LayerNorm
_GELU = math.sqrt(2 / math.pi)


def gelu(z: Tensor) -> Tensor:
    """GELU in its tanh form, the memory's non-linearity."""
    return F.gelu(z, approximate="tanh")


def gelu_slope(z: Tensor) -> Tensor:
    """Derivative of `gelu`, differentiable itself: the outer loss needs the inner gradient's gradient."""
    t = torch.tanh(_GELU * (z + 0.044715 * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * _GELU * (1 + 3 * 0.044715 * z * z)


def standardise(z: Tensor) -> tuple[Tensor, Tensor]:
    """LayerNorm without its affine part, and the reciprocal standard deviation it divided by."""
    centred = z - z.mean(-1, keepdim=True)
    rstd = (centred.square().mean(-1, keepdim=True) + EPS).rsqrt()
    return centred * rstd, rstd


def output(z: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: bool) -> Tensor:
    """M(x) from the MLP's last product z: `[x +] [LN](z)`; no LayerNorm where `scale` is None."""
    if scale is not None:
        z = F.layer_norm(z, z.shape[-1:], eps=EPS) * scale + shift
    return x + z if residual else z


def error(z: Tensor, k: Tensor, v: Tensor, scale: Tensor | None, shift: Tensor | None, residual: bool) -> Tensor:
    """Gradient of the inner loss 1/2 |M(k) - v|^2 with respect to z, through residual and LayerNorm."""
    if scale is None:
        return output(z, k, None, None, residual) - v
    unit, rstd = standardise(z)
    grad = scale * (unit * scale + shift + (k - v if residual else -v))
    return rstd * (grad - grad.mean(-1, keepdim=True) - unit * (grad * unit).mean(-1, keepdim=True))


def read(
    weights: list[Tensor], x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, residual: bool = True
) -> Tensor:
    """M*(x): a forward pass that leaves the memory as it is (Titans eq. 15).

    Args:
        weights: the memory, [..., d_in, d_out] per layer.
        x: queries, [..., T, D].
        scale: slow LayerNorm scale, broadcast to x; None for a memory without LayerNorm.
        shift: slow LayerNorm shift.
        residual: add x to the result.

    Returns:
        [..., T, D].
    """
    z = x @ weights[0]
    for w in weights[1:]:
        z = gelu(z) @ w
    return output(z, x, scale, shift, residual)


def forgets_rows(layer: int, depth: int) -> bool:
    """Whether channel-wise forgetting acts on the rows of this layer's weight, or else on its columns.

    A channel is a hidden unit, whose weights into it are columns and out of it rows; a linear memory has key channels.
    """
    return layer == depth - 1
