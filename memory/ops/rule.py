"""The memory's rule as a value: what happens at each token, and what the memory is that it happens to.

Weights are a list with one tensor [..., d_in, d_out] per layer; tokens are rows.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from memory.config import Errors
from memory.precision import compute_dtype

EPS = 1e-5  # of the memory's LayerNorm
_GELU = math.sqrt(2 / math.pi)


@dataclass
class Tokens:
    """What happens at each token.

    Args:
        q: queries, [B, T, H, D].
        k: keys, [B, T, H, D].
        v: values, [B, T, H, D].
        theta: step size, [B, T, H].
        log_eta: log of the momentum's decay eta, [B, T, H], in [-inf, 0].
        log_keep: log(1 - alpha), [B, T, H], or [B, T, H, E] to forget per hidden unit (per key channel at depth 1);
            always held with four dimensions, [B, T, H, 1 or E].
        mask: False at padding, [B, T], where memory and momentum stay as they are; padding still counts as a position.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    theta: Tensor
    log_eta: Tensor
    log_keep: Tensor
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.log_keep.dim() == 3:
            self.log_keep = self.log_keep[..., None]

    @property
    def sequences(self) -> tuple[Tensor, ...]:
        """All but the mask: q, k, v and then the gates."""
        return self.q, self.k, self.v, self.theta, self.log_eta, self.log_keep

    def between(self, start: int, end: int) -> "Tokens":
        """Tokens start .. end - 1 alone."""
        mask = None if self.mask is None else self.mask[:, start:end]
        return Tokens(*(x[:, start:end] for x in self.sequences), mask=mask)

    def to(self, features: torch.dtype, gates: torch.dtype) -> "Tokens":
        """The same with q, k and v in one dtype and all gates in another."""
        q, k, v, *others = self.sequences
        others = (x.to(gates) for x in others)
        return Tokens(q.to(features), k.to(features), v.to(features), *others, mask=self.mask)

    def without_momentum(self) -> "Tokens":
        """The same with every eta 0."""
        return replace(self, log_eta=torch.full_like(self.log_eta, float("-inf")))

    @property
    def product_dtype(self) -> torch.dtype:
        """What kernels round products' operands to: the dtype of autocast or of q, and bfloat16 in place of float16.

        Products of the backward are out of float16's range, a scaled loss above it and a memory that forgets below.
        """
        dtype = compute_dtype(self.q)
        return torch.bfloat16 if dtype == torch.float16 else dtype


@dataclass
class Hidden:
    """What a hidden layer hands on of its pre-activations z, and what takes a gradient with respect to it back to z.

    Args:
        features: see `Rule.features`, [..., T, E].
        slope: derivative of GELU at z, [..., T, E].
        inverse: 1 / |GELU(z)|, [..., T, 1]; None where features keep their length.
    """

    features: Tensor
    slope: Tensor
    inverse: Tensor | None = None

    def back(self, grad: Tensor) -> Tensor:
        """Gradient with respect to z from that with respect to the features."""
        if self.inverse is not None:
            along = (grad * self.features).sum(-1, keepdim=True)
            grad = self.inverse * (grad - self.features * along)
        return grad * self.slope


@dataclass(frozen=True)
class Rule:
    """What the memory is and how it learns.

    Args:
        chunk: tokens that share a gradient anchor, counted from the state's position 0.
        residual: M(x) = x + MLP(x).
        norm: scale and shift of a LayerNorm on the MLP's output, [H, D] each; None for no LayerNorm.
        prior: M_0, which forgetting leads to, [H, d_in, d_out] per layer; None for zero.
        errors: where a token's inner gradient is taken: `anchor`, at the memory of the chunk's start, or `exact`, at
            the memory behind the token before. In a deep memory that is the last layer, on features of unit length
            (see `features`); gradients of the layers before it stay at the chunk's start. An exact state of one layer
            has no position, as it may be cut anywhere.
        momentum: whether past surprise is carried along; otherwise every eta counts as 0 and S is never read.
        loss: gradient of the inner loss with respect to M(k) - v, which autograd differentiates once more; None for the
            paper's loss 1/2 |M(k) - v|^2 (Titans eq. 12), whose gradient is M(k) - v.
    """

    chunk: int
    residual: bool = True
    norm: tuple[Tensor, Tensor] | None = None
    prior: list[Tensor] | None = None
    errors: Errors = "anchor"
    momentum: bool = True
    loss: Callable[[Tensor], Tensor] | None = None

    @property
    def exact(self) -> bool:
        """Whether every token's gradient is taken at the memory before it."""
        return self.errors == "exact"

    def tokens_per_anchor(self, depth: int) -> int:
        """Tokens that share a gradient anchor in a memory of so many layers; 1 where every token has its own."""
        return 1 if self.exact and depth == 1 else self.chunk

    def position(self, before: int, tokens: int, depth: int) -> int:
        """Where in a chunk a state of so many layers stands that stood at `before`, so many tokens later."""
        return (before + tokens) % self.tokens_per_anchor(depth)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Rule":
        """The same rule with every tensor changed: cast, or repeated for every sequence."""
        norm = None if self.norm is None else (change(self.norm[0]), change(self.norm[1]))
        prior = None if self.prior is None else [change(w) for w in self.prior]
        return replace(self, norm=norm, prior=prior)

    def by_row(self) -> "Rule":
        """The same rule with scale and shift [..., 1, D], as `output`, `error` and `read` need them."""
        norm = None if self.norm is None else (self.norm[0][..., None, :], self.norm[1][..., None, :])
        return replace(self, norm=norm)

    def output(self, z: Tensor, x: Tensor) -> Tensor:
        """M(x) from the MLP's last product z: `[x +] [LayerNorm](z)`, [..., T, D]."""
        if self.norm is not None:
            scale, shift = self.norm
            unit = F.layer_norm(z, z.shape[-1:], eps=EPS)
            return torch.addcmul(x + shift if self.residual else shift, unit, scale)
        return x + z if self.residual else z

    def offset(self, k: Tensor, v: Tensor) -> Tensor:
        """What of M(k) - v does not depend on the MLP, [..., T, D]."""
        offset = k - v if self.residual else -v
        return offset if self.norm is None else offset + self.norm[1]

    def error(self, z: Tensor, offset: Tensor) -> Tensor:
        """Gradient of the inner loss with respect to z = MLP(k), through residual and LayerNorm, [..., T, D]."""
        if self.norm is None:
            return self._loss_gradient(z + offset)
        scale, _ = self.norm
        size = z.shape[-1:]
        unit, mean, rstd = torch.native_layer_norm(z, size, None, None, EPS)
        grad = scale * self._loss_gradient(torch.addcmul(offset, unit, scale))
        # PyTorch's backward of a LayerNorm, which is differentiable itself
        through = torch.ops.aten.native_layer_norm_backward
        return through(grad, z, size, mean, rstd, None, None, [True, False, False])[0]

    def _loss_gradient(self, miss: Tensor) -> Tensor:
        """Gradient of the inner loss with respect to `miss` = M(k) - v."""
        return miss if self.loss is None else self.loss(miss)

    def features(self, z: Tensor) -> Tensor:
        """What a hidden layer hands on, [..., T, E]: GELU(z), and with exact errors the direction of GELU(z) alone.

        A step of 1 on features of unit length makes the last layer answer them with the wanted value, whatever z is.
        """
        a = gelu(z)
        return a * _inverse_length(a) if self.exact else a

    def hidden(self, z: Tensor) -> Hidden:
        """`features(z)` together with what takes a gradient back through them."""
        a, slope = gelu_and_slope(z)
        if not self.exact:
            return Hidden(a, slope)
        inverse = _inverse_length(a)
        return Hidden(a * inverse, slope, inverse)

    def read(self, weights: list[Tensor], x: Tensor) -> Tensor:
        """M*(x): a forward pass that does not change the memory (Titans eq. 15).

        Args:
            weights: the memory, [..., d_in, d_out] per layer.
            x: queries, [..., T, D].

        Returns:
            [..., T, D].
        """
        z = x @ weights[0]
        for w in weights[1:]:
            z = self.features(z) @ w
        return self.output(z, x)


def gelu(z: Tensor) -> Tensor:
    """GELU in its tanh form, the memory's non-linearity."""
    # a processor takes a tanh three times as long as a sigmoid
    return z * torch.sigmoid(z * _sharpness(z)) if z.is_cpu else F.gelu(z, approximate="tanh")


def gelu_and_slope(z: Tensor) -> tuple[Tensor, Tensor]:
    """`gelu` and its derivative, differentiable itself: the outer loss needs the inner gradient's gradient.

    Both are made of s = (1 + tanh u) / 2 = sigmoid(2 u), which is computed once. With c the root of 2 / pi, 2 u = z f
    has the derivative 2 c (1 + 3 * 0.044715 z^2) = 3 f - 4 c, and s itself s (1 - s) times that.
    """
    f = _sharpness(z)
    u = z * f
    share = torch.sigmoid(u)
    # PyTorch's backward of a sigmoid, which is differentiable itself, multiplies by s (1 - s) in one pass
    bend = torch.ops.aten.sigmoid_backward(u.sub(z, alpha=4 * _GELU / 3), share)
    return z * share, share.add(bend, alpha=3)


def _sharpness(z: Tensor) -> Tensor:
    """f = 2 c (1 + 0.044715 z^2), where GELU(z) = z sigmoid(z f)."""
    return torch.addcmul(z.new_full((), 2 * _GELU), z, z, value=2 * _GELU * 0.044715)


def gelu_slope(z: Tensor) -> Tensor:
    """Derivative of `gelu`."""
    return gelu_and_slope(z)[1]


def _inverse_length(a: Tensor) -> Tensor:
    """1 / |a| of rows, [..., T, 1], with an epsilon inside the root that bounds the gradient at a zero row."""
    return (a.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def forgets_rows(layer: int, depth: int) -> bool:
    """Whether channel-wise forgetting acts on the rows of this layer's weight, or else on its columns.

    A channel is a hidden unit, whose weights into it are columns and out of it rows; a linear memory has key channels.
    """
    return layer == depth - 1
