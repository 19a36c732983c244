"""Exact errors on kernels: in segments, in spans, and of hard chunks, such as those of keys that are all alike."""

import pytest
import torch
from torch import Tensor, library
from torch.nn import functional as F

from memory.ops import serves
from tests.memory.problem import SEQUENCES, assert_exact_to_bf16, assert_same, bold, inputs, one_sequence, solve

delta = pytest.importorskip("memory.ops.triton.kernels.delta")
linear = pytest.importorskip("memory.ops.triton.linear")
op = pytest.importorskip("memory.ops.triton.op")
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


@interpreted
@pytest.mark.parametrize(
    ("time", "chunk", "switches"),
    [
        (16, 16, {"residual": False, "prior": False}),
        (57, 16, {}),
        (40, 32, {"residual": False}),
        (70, 64, {"prior": False}),
        (57, 16, {"momentum": False}),
        (70, 64, {"momentum": False, "residual": False, "prior": False}),
    ],
)
def test_kernels_of_exact_errors_equal_the_equations_with_every_gradient(
    time: int, chunk: int, switches: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "SEGMENT", 8)
    monkeypatch.setattr(linear, "LEAST", 2)  # several segments even in a short sequence
    leaves = bold(inputs(1, time, torch.float32, width=16))
    leaves = one_sequence(leaves) if switches else leaves
    exact = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    found = solve(leaves, "triton", chunk, norm=False, errors="exact", **switches)
    assert_same(found, solve(exact, "reference", 1, norm=False, **switches), 1e-5)


@interpreted
def test_the_operator_leaves_nothing_unwritten_between_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "SEGMENT", 1)
    monkeypatch.setattr(linear, "LEAST", 1)
    leaves = {name: leaf.detach() for name, leaf in inputs(1, 40, torch.float32, width=16, batch=1).items()}
    state = [leaves["M0"][None], leaves["S0"]]
    arguments = [leaves[name] for name in SEQUENCES], state, [], [], None, 16, True, True, False
    starts = op._scan(*arguments)[-1]
    assert starts.shape == (2, 1, 1, 2, 16, 16)  # M alone
    library.opcheck(op._scan, arguments)


@interpreted
@pytest.mark.parametrize(("time", "prior"), [(90, True), (130, False)])
def test_spans_of_a_few_heads_equal_the_equations(time: int, prior: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "SHORTEST", 1)
    monkeypatch.setattr(linear, "SEGMENT", 8)  # of four chunks
    monkeypatch.setattr(linear, "LEAST", 4)
    leaves = bold(inputs(1, time, torch.float32, width=16))
    exact = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    switches = {"norm": False, "prior": prior, "momentum": False}
    found = solve(leaves, "triton", 16, errors="exact", **switches)
    assert_same(found, solve(exact, "reference", 1, **switches), 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("chunk", [16, 32, 64])
@pytest.mark.parametrize(("prior", "momentum"), [(False, True), (True, True), (True, False)])
def test_exact_errors_on_a_gpu(width: int, chunk: int, prior: bool, momentum: bool) -> None:
    leaves = bold(inputs(1, 150, torch.float32, width=width, device="cuda"))
    switches = {"norm": False, "errors": "exact", "prior": prior, "momentum": momentum}
    assert_exact_to_bf16(leaves, chunk, **switches)
    exact = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    found = solve(leaves, "triton", chunk, **switches)
    assert_same(found, solve(exact, "chunked", chunk, **switches), 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("prior", [False, True])
def test_exact_errors_in_spans_on_a_gpu(width: int, prior: bool) -> None:
    time = 4 * 64 * linear.SHORTEST + 10
    leaves = bold(inputs(1, time, torch.float32, width=width, device="cuda", batch=1))
    switches = {"norm": False, "errors": "exact", "prior": prior, "momentum": False}
    assert_exact_to_bf16(leaves, 64, **switches)
