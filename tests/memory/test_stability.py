"""How far one inner step may go: the bounds against measured curvature, and memories that never end in NaN."""

import pytest
import torch
from torch import Tensor

from memory import MemoryConfig, NeuralMemory
from memory.ops import Rule
from memory.ops.reference import inner_gradient
from memory.stability import alike_keys_bound, curvature, random_keys_bound, weight_deviations

WIDTH = 16


@pytest.mark.parametrize("features", [32, 64])
@pytest.mark.parametrize("chunk", [16, 64, 256])
def test_random_keys_bound_is_where_a_chunk_of_them_turns_unstable(features: int, chunk: int) -> None:
    keys = torch.randn(20, chunk, features, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    keys = keys / keys.norm(dim=-1, keepdim=True)
    largest = torch.linalg.eigvalsh(keys.mT @ keys)[:, -1].mean()  # W' = (I - theta K^T K) W: stable below 2 / largest
    bound = random_keys_bound(features, chunk, 1 / features)
    assert 0.75 < bound / (2 / largest.item()) < 1.05  # on the safe side


def measured_curvature(config: MemoryConfig, seed: int) -> float:
    """Largest eigenvalue of the tangent kernel of one key at a random M_0 without residual, by autograd."""
    gen = torch.Generator().manual_seed(seed)
    sizes = [WIDTH] + [config.expansion * WIDTH] * (config.depth - 1) + [WIDTH]
    shapes = zip(weight_deviations(config, WIDTH), sizes, sizes[1:], strict=False)
    weights = [d * torch.randn(d_in, d_out, generator=gen, dtype=torch.float64) for d, d_in, d_out in shapes]
    key = torch.randn(1, WIDTH, generator=gen, dtype=torch.float64)
    rule = Rule(chunk=1, residual=False)
    key = key * (WIDTH**0.5 if config.key_norm == "sqrt" else 1.0) / key.norm()

    def step(direction: Tensor) -> Tensor:  # how the answer moves, to first order, by a step on an error of it
        def answer(scale: Tensor) -> Tensor:
            moved = [w + scale * g for w, g in zip(weights, gradients, strict=True)]
            x = key
            for w in moved[:-1]:
                x = torch.nn.functional.gelu(x @ w, approximate="tanh")
            return (x @ moved[-1])[0]

        no_error = inner_gradient(weights, key, torch.zeros_like(key), rule)
        shifted = inner_gradient(weights, key, -direction[None], rule)
        gradients = [b - a for a, b in zip(no_error, shifted, strict=True)]
        return torch.autograd.functional.jvp(answer, torch.zeros((), dtype=torch.float64), torch.ones(()).double())[1]

    kernel = torch.stack([step(direction) for direction in torch.eye(WIDTH, dtype=torch.float64)])
    return torch.linalg.eigvalsh(kernel)[-1].item()


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize(("key_norm", "expansion"), [("unit", 2), ("sqrt", 2), ("unit", 4)])
def test_curvature_is_that_of_all_layers_moving_at_once(depth: int, key_norm: str, expansion: int) -> None:
    config = MemoryConfig(depth=depth, norm=False, key_norm=key_norm, expansion=expansion)
    measured = sum(measured_curvature(config, seed) for seed in range(10)) / 10
    assert 0.65 < curvature(config, WIDTH) / measured < 1.5


@pytest.mark.parametrize("chunk", [16, 128])
@pytest.mark.parametrize("eta", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.1, 0.5])
def test_momentum_and_forgetting_do_not_lower_the_bound(chunk: int, eta: float, alpha: float) -> None:
    """Memory and momentum at a chunk's end are a linear map of those at its start, for keys that are all alike."""
    config = MemoryConfig(depth=1, norm=False, chunk=chunk)

    def radius(step: float) -> float:
        ends = []
        for weight, momentum in ((1.0, 0.0), (0.0, 1.0)):
            anchor = weight
            for _ in range(chunk):
                momentum = eta * momentum - step * (1 - eta) * anchor
                weight = (1 - alpha) * weight + momentum
            ends.append((weight, momentum))
        return torch.linalg.eigvals(torch.tensor(ends, dtype=torch.float64)).abs().max().item()

    bound = alike_keys_bound(config, WIDTH)
    assert radius(0.99 * bound) < 1
    if not eta and not alpha:
        assert radius(1.01 * bound) > 1


def sequence(kind: str, seed: int, time: int, dim: int) -> Tensor:
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(1, time, dim, generator=gen)
    if kind == "common":
        return 2 * torch.randn(dim, generator=gen) + x
    return x[:, :1].expand(-1, time, -1) if kind == "constant" else x


RULES = {
    "untrained": ({}, 0.0),
    "open": ({}, 10.0),
    "literal": ({"residual": False, "forget_to": "zero"}, 10.0),
    "never forgetting": ({"forgetting": False}, 10.0),
}


@pytest.mark.parametrize("kind", ["random", "common", "constant"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", RULES)
def test_a_memory_without_layernorm_stays_finite_and_of_its_size(kind: str, depth: int, rule: str) -> None:
    """With keys of a common direction, the least favourable ones, and with all steps as large as they may be."""
    options, gate = RULES[rule]
    for seed, chunk in ((0, 16), (1, 64)):
        torch.manual_seed(seed)
        memory = NeuralMemory(64, MemoryConfig(depth=depth, norm=False, chunk=chunk, **options))
        with torch.no_grad():
            memory.gates.split(memory.gates.bias)["theta"].fill_(gate)
            y, state = memory(sequence(kind, seed, 512, 64))
        assert torch.isfinite(y).all()
        for end, start in zip(state.fast.weights, memory.init, strict=True):
            assert end.norm() < 2 * start.norm()
