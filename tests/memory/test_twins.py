"""Each portable Triton kernel computes what DERIVATION.md says: its twin in PyTorch is written from that page."""

import inspect
import re
from pathlib import Path
from types import SimpleNamespace as Arguments
from typing import Any

import pytest
import torch
from torch import Tensor

import memory.ops
from memory.ops import initial_state, memory_scan, serves
from memory.state import FastState
from tests.memory import twins, twins_around, twins_linear
from tests.memory.problem import B, inputs, layers_of, one_sequence, rule_of, solve, tokens_of

interpreter = pytest.importorskip("triton.runtime.interpreter")
flash = pytest.importorskip("memory.ops.triton.flash")
gated_norm = pytest.importorskip("memory.ops.triton.gated_norm")
gates = pytest.importorskip("memory.ops.triton.gates")
gating = pytest.importorskip("memory.ops.triton.gating")
retrieve = pytest.importorskip("memory.ops.triton.retrieve")
rotary = pytest.importorskip("memory.ops.triton.rotary")
short_conv = pytest.importorskip("memory.ops.triton.short_conv")
interpreted = pytest.mark.skipif(not serves.INTERPRET, reason="looks into launches of Triton's interpreter")

TWINS = {
    name: twin
    for module in (twins, twins_linear, twins_around)
    for name, twin in vars(module).items()
    if name.endswith("_kernel")
}
OPS = Path(memory.ops.__file__).parent
PORTABLE = {
    name
    for path in OPS.rglob("*.py")
    if "hopper" not in str(path.relative_to(OPS))
    for name in re.findall(r"^def (\w+_kernel)\(", path.read_text(), re.MULTILINE)
}


def seen(kernel: str, launched: dict[str, Any], ends: tuple[str, ...]) -> Arguments:
    """A launch's arguments as the kernel's twin takes them."""
    if not hasattr(twins_around, kernel):
        return twins.arguments(kernel, launched, ends)
    exact = {n: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for n, x in launched.items()}
    return Arguments(**exact)


def assert_close(what: str, left: Tensor, right: Tensor) -> None:
    """Equal up to float32's rounding; where the twin leaves what nobody has written, so does the kernel."""
    unwritten = right.isnan()
    assert torch.equal(left.isnan(), unwritten), f"{what}: other places than its twin"
    left, right = left[~unwritten], right[~unwritten]
    infinite = right.isinf()
    assert torch.equal(left[infinite], right[infinite]), what
    error = ((left - right)[~infinite].norm() / right[~infinite].norm().clamp(min=1e-12)).item()
    assert error < 1e-5, f"{what}: relative error {error:.1e}"


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every kernel that runs is compared with its twin; the names of those that did."""
    run, names = interpreter.InterpretedFunction.run, set()

    def compared(self, *args: object, grid: tuple[int, ...], warmup: bool, **constants: object) -> None:
        kernel = self.fn.__name__
        constants_of = {name: value for name, value in constants.items() if name in self.arg_names}
        arguments = inspect.getcallargs(self.fn, *args, **constants_of)
        copies = {n: x.detach().clone() if isinstance(x, Tensor) else x for n, x in arguments.items()}
        run(self, *args, grid=grid, warmup=warmup, **constants)
        before, after = seen(kernel, copies, twins.BEFORE), seen(kernel, arguments, twins.AFTER)
        for name, value in TWINS[kernel](before).items():
            value = value * before.inside if name in twins.OF_TOKENS and hasattr(before, "inside") else value
            assert_close(f"{kernel} writes {name}", getattr(after, name), value)
        names.add(kernel)

    monkeypatch.setattr(interpreter.InterpretedFunction, "run", compared)
    return names


OFF = {"norm": False, "residual": False, "prior": False}
EXACT = {"norm": False, "errors": "exact"}
ANCHORED_KERNELS = ("coefficients_", "linear_")
EXACT_KERNELS = ("coefficients_", "delta_", "linear_read_", "linear_prior_")
DEPTH_2_KERNELS = ("coefficients_", "state_", "read_", "write_", "prior_")


@interpreted
@pytest.mark.parametrize(
    ("depth", "time", "switches", "stems"),
    [
        (1, 40, {}, ANCHORED_KERNELS),
        (1, 16, OFF, ANCHORED_KERNELS),
        (1, 40, EXACT, EXACT_KERNELS),
        (1, 16, OFF | EXACT, EXACT_KERNELS),
        (2, 40, {}, DEPTH_2_KERNELS),
        (2, 16, OFF, DEPTH_2_KERNELS),
    ],
)
def test_kernels_of_the_recurrence_are_their_twins(
    depth: int, time: int, switches: dict, stems: tuple[str, ...], launched: set[str]
) -> None:
    target = switches.get("prior", True)
    mask = (torch.arange(time) % 5 != 2)[None] if target else None
    solve(one_sequence(inputs(depth, time, torch.float32, width=16, hidden=32)), "triton", 16, mask=mask, **switches)
    assert launched == {name for name in PORTABLE if name.startswith(stems) and (target or "prior_" not in name)}


@interpreted
@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("on", [True, False])
def test_the_kernel_of_a_token_is_its_twin(depth: int, on: bool, launched: set[str]) -> None:
    leaves = inputs(depth, 1, torch.float32, width=16, hidden=32)
    weights = initial_state(layers_of(leaves, "M"), B).weights
    anchor = [w + 0.1 * torch.randn_like(w) for w in weights]
    mask = torch.tensor([[True], [False]]) if on else None
    rule = rule_of(leaves, 4, norm=on, residual=on, prior=on)
    memory_scan(tokens_of(leaves, mask), FastState(weights, layers_of(leaves, "S"), anchor), rule, "triton")
    assert launched == {"decode_kernel"}


@interpreted
@pytest.mark.parametrize("on", [True, False])
def test_kernels_around_the_recurrence_are_their_twins(on: bool, launched: set[str]) -> None:
    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, requires_grad=True)

    past = 3 if on else 0
    results = short_conv.short_conv(leaf(2, past + 150, 64), leaf(64, 1, 4), 32, past, 32, [2.0, 0.0], on)
    results += gates.gates(leaf(2, 9, 2 * (3 if on else 1)), 2, 0.5, 0.9, on, on)
    results += (gated_norm.gated_norm(leaf(2, 75, 2, 32), leaf(2, 75, 64), leaf(32), 1e-6),)
    learned = [r for r in results if r.requires_grad]
    torch.autograd.backward(learned, [torch.randn_like(r) for r in learned])
    assert launched == {name for name in PORTABLE if name.startswith(("gates_", "conv_", "gated_norm_"))}


@interpreted
@pytest.mark.parametrize("on", [True, False])
def test_kernels_that_read_a_memory_that_stays_are_their_twins(on: bool, launched: set[str]) -> None:
    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, requires_grad=True)

    slow = (leaf(2, 16), leaf(2, 16)) if on else (None, None)
    weights = [torch.randn(2, 2, *shape).div(4).requires_grad_() for shape in ((16, 32), (32, 16))]
    y = retrieve.retrieve(weights, leaf(2, 75, 2, 16), *slow, on)
    y.backward(torch.randn_like(y))
    assert launched == {name for name in PORTABLE if name.startswith("retrieve_")}


@interpreted
@pytest.mark.parametrize("on", [True, False])
def test_kernels_of_attention_are_their_twins(on: bool, launched: set[str]) -> None:
    x = torch.randn(2, 18, 2, 16, requires_grad=True)
    y = rotary.rotary(x, torch.randn(18, 6), torch.randn(18, 6))
    y.backward(torch.randn_like(y))
    ys, lses = [torch.randn(2, 18, 2, 16) for _ in range(2)], [torch.randn(2, 2, 18), torch.randn(4, 2, 9)]
    flash._merge(ys[0], lses[0], ys[1].view(4, 9, 2, 16), lses[1], on)
    assert launched == {"rotary_kernel", "merge_kernel"}


@interpreted
def test_kernels_of_products_with_a_silu_are_their_twins(launched: set[str]) -> None:
    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, requires_grad=True)

    for y in (gating.swiglu(leaf(2, 75, 96)), gating.gate(leaf(2, 75, 48), leaf(2, 75, 48), leaf(2, 48), 1e-6)):
        y.backward(torch.randn_like(y))
    assert launched == {name for name in PORTABLE if name.startswith(("swiglu_", "gate_"))}


def test_every_portable_kernel_has_a_twin_and_a_place_on_the_page() -> None:
    (page,) = OPS.rglob("DERIVATION.md")
    assert TWINS.keys() == PORTABLE
    assert not {name for name in PORTABLE if f"`{name}`" not in page.read_text()}
