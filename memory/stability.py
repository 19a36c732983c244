"""Where a memory starts and how far one inner step may go, so that reading never diverges."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from memory.config import MemoryConfig
from memory.ops.rule import gelu, gelu_slope


def layer_sizes(config: MemoryConfig, width: int) -> list[int]:
    """Widths between the layers of the memory's MLP, from keys of `width` features to values of as many."""
    return [width] + [config.expansion * width] * (config.depth - 1) + [width]


def key_length(config: MemoryConfig, width: int) -> float:
    """Length of a head's queries and keys."""
    return math.sqrt(width) if config.key_norm == "sqrt" else 1.0


def input_deviations(config: MemoryConfig, width: int) -> list[float]:
    """Standard deviation of what each non-linearity of M_0 sees, first layer first; empty for a linear memory.

    Hidden units must see keys where GELU bends: at 1/sqrt(d) they are all but linear, and recall is not learned.
    A memory of two layers starts at 3; deeper ones turn chaotic there and start at 1.
    """
    deviations = []
    deviation = 3.0 if config.depth == 2 else 1.0
    for _ in range(config.depth - 1):
        deviations.append(deviation)
        deviation = math.sqrt(normal_mean_square(gelu, deviation))
    return deviations


def weight_deviations(config: MemoryConfig, width: int) -> list[float]:
    """Standard deviation of the entries of each layer of M_0."""
    deviations = [1 / math.sqrt(d_in) for d_in in layer_sizes(config, width)[:-1]]
    if config.depth > 1:
        deviations[0] = input_deviations(config, width)[0] / key_length(config, width)
    return deviations


def normal_mean_square(function: Callable[[Tensor], Tensor], deviation: float) -> float:
    """Mean of function(z)^2 for normal z with mean 0 and this standard deviation."""
    z = torch.linspace(-6, 6, 1201, dtype=torch.float64, device="cpu")  # also where a model is built on meta
    weight = (-z.square() / 2).exp()
    return ((function(deviation * z).square() * weight).sum() / weight.sum()).item()


def random_keys_bound(features: int, chunk: int, mean_square: float) -> float:
    """Largest stable inner step for a chunk of random features read by a linear map (loss 1/2 |.|^2, no momentum).

    A chunk's mean-square map is stable while theta times the largest eigenvalue of its feature Gram matrix is below 2;
    for random features that eigenvalue is mean_square (sqrt(features) + sqrt(chunk))^2 (Marchenko-Pastur).
    """
    return 2 / (mean_square * (math.sqrt(features) + math.sqrt(chunk)) ** 2)


def curvature(config: MemoryConfig, width: int) -> float:
    """Largest eigenvalue that one key adds to the curvature of the inner loss at M_0 without LayerNorm, on average.

    All layers move at once, so the answer to a key changes by the sum of what each layer's step changes in it (its
    neural tangent kernel): layer l adds |x|^2 |J|^2, x its input and J the way from its output to the answer. For n
    random layers between them, hidden units r times as many as features, |J|^2 is (1 + sqrt(n / r))^2 times the mean
    square of GELU's slope at each.
    """
    seen = input_deviations(config, width)
    inputs = [key_length(config, width) ** 2]  # |x|^2 of each layer
    for deviation in seen:
        inputs.append(config.expansion * width * normal_mean_square(gelu, deviation))
    total = inputs[-1]
    slopes = 1.0
    for layers in range(1, config.depth):  # between a layer's output and the answer
        below = config.depth - 1 - layers
        slopes *= normal_mean_square(gelu_slope, seen[below])
        total += inputs[below] * slopes * (1 + math.sqrt(layers / config.expansion)) ** 2
    return total


def alike_keys_bound(config: MemoryConfig, width: int) -> float:
    """Largest stable inner step without LayerNorm for any keys, those of a chunk all alike included.

    Keys have a common direction, as SiLU makes them, and hidden units all the more, as GELU's mean is not zero. A
    chunk's curvature may then be as large as that of all its keys together, and theta times it must stay below 2.
    Momentum and forgetting do not lower this: with theta (1 - eta) in place of theta, both eigenvalues of a chunk's map
    of memory and momentum are inside the unit circle below 2, whatever eta and alpha are while they do not change.
    """
    return 2 / (config.chunk * curvature(config, width))


def largest_step(config: MemoryConfig, width: int) -> float:
    """theta_max of heads of this width, the inner step where its gate is open."""
    if config.errors == "exact":  # a step of 1 on features of unit length makes the memory answer them with the value
        length = key_length(config, width) if config.depth == 1 else 1.0
        return (config.theta_max or 1.0) / length**2
    if not config.norm:
        return (config.theta_max or 1.0) * alike_keys_bound(config, width)
    multiple = config.theta_max or (10.0 if config.depth <= 2 else 1.0)
    features = layer_sizes(config, width)[-2]
    return multiple * random_keys_bound(features, config.chunk, 1.0)  # LayerNorm undoes the scale of its inputs


def largest_eta(config: MemoryConfig) -> float:
    """The bound of eta.

    With exact errors a token's step is scaled by its own 1 - eta but carried on by later etas: all of it may come to
    twice what was wanted, which the next error undoes. Without a bound training ended in NaN after some 40 steps.
    """
    return 0.5 if config.errors == "exact" else 1.0
