"""Exact errors on kernels where a chunk's system is hard: keys that are alike, steps near one, momentum, growth."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from memory.ops import serves
from tests.memory.problem import assert_same, inputs, solve

delta = pytest.importorskip("memory.ops.triton.kernels.delta")
triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
interpreted = pytest.mark.skipif(not serves.INTERPRET, reason="sizes for Triton's interpreter")

SWITCHES = {"norm": False, "errors": "exact"}
CASES = {  # likeness of keys, theta, eta
    "one key for all": (1.0, 0.99, 0.0),
    "one key for all, momentum": (1.0, 0.99, 0.45),
    "alike, momentum": (0.9, 0.99, 0.45),
    "unlike, momentum": (0.0, 0.99, 0.9),
}


def alike(likeness: float, *shape: int) -> Tensor:
    """Keys [.., T, H, D] of length one with such a product of any two of them, on average."""
    gen = torch.Generator().manual_seed(0)
    common, own = torch.randn(1, *shape[-2:], generator=gen), torch.randn(*shape, generator=gen)
    keys = likeness**0.5 * F.normalize(common, dim=-1) + (1 - likeness) ** 0.5 * F.normalize(own, dim=-1)
    return F.normalize(keys, dim=-1)


def hard(likeness: float, theta: float, eta: float, time: int, width: int) -> dict[str, Tensor]:
    """A problem of one sequence with these keys and gates; steps are less at times."""
    leaves = {name: leaf.detach() for name, leaf in inputs(1, time, torch.float32, width=width, batch=1).items()}
    leaves |= {name: alike(likeness, *leaves[name].shape) for name in "qk"}
    steps = torch.rand(leaves["theta"].shape, generator=torch.Generator().manual_seed(1))
    leaves["theta"] = theta * (1 - 0.1 * steps)
    leaves["log_eta"] = torch.full_like(steps, eta).log()
    leaves["log_keep"] = torch.full_like(steps, 0.99).log()
    return {name: leaf.requires_grad_() for name, leaf in leaves.items()}


@interpreted
@pytest.mark.parametrize("case", CASES)
def test_outputs_states_and_gradients(case: str) -> None:
    leaves = hard(*CASES[case], time=70, width=64)
    exact = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    assert_same(solve(leaves, "triton", 64, **SWITCHES), solve(exact, "chunked", 64, **SWITCHES), 1e-5)


@triton.jit
def inverse_kernel(a, x, C: tl.constexpr, IP: tl.constexpr, SHORT: tl.constexpr):
    """The inverse of a chunk's system: in products of float16, as for bfloat16 keys, or of float32."""
    at = tl.arange(0, C)[:, None] * C + tl.arange(0, C)[None, :]
    found = delta.inverse_of_unit_lower(tl.load(a + at), tl.float16 if SHORT else tl.float32, C, IP)
    tl.store(x + at, found)


def inverse(a: Tensor, short: bool) -> Tensor:
    """What a kernel makes of the inverse of I + a."""
    a = a.float().contiguous()
    found = torch.full_like(a, torch.nan)
    inverse_kernel[1,](a, found, C=len(a), IP="tf32" if short else "tf32x3", SHORT=short)
    return found.double()


@interpreted
@pytest.mark.parametrize(("short", "tolerance"), [(False, 1e-6), (True, 2**-8)])
@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("case", CASES)
def test_the_inverse(case: str, size: int, short: bool, tolerance: float) -> None:
    likeness, theta, eta = CASES[case]
    keys = alike(likeness, size, 1, 64)[:, 0].double()
    apart = torch.arange(size)[:, None] - torch.arange(size)
    steps = theta * (1 - eta ** apart.clamp(min=0)) / (1 - eta)  # of all tokens between, without forgetting
    a = steps * (keys @ keys.mT)
    exact = (torch.eye(size) + a).inverse()
    assert_same({"inverse": inverse(a, short)}, {"inverse": exact}, tolerance)


@interpreted
@pytest.mark.parametrize("short", [False, True])
def test_an_inverse_beyond_the_range_of_float16(short: bool) -> None:
    """Steps of 9/4 turn an error round and let it grow by a quarter at each token."""
    a = 2.25 * torch.ones(64, 64, dtype=torch.float64).tril(-1)
    exact = (torch.eye(64) + a).inverse()
    assert exact.abs().max() > 10 * torch.finfo(torch.float16).max
    assert ((inverse(a, short) - exact).abs() <= 2**-6 * exact.abs()).all()
