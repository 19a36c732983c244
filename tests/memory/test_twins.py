"""Each portable Triton kernel computes what DERIVATION.md says: its twin in PyTorch is written from that page."""

import inspect
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace as Arguments
from typing import Any

import pytest
import torch
from torch import Tensor

import memory.ops
from memory.ops import serves
from tests.memory import twins, twins_around, twins_linear
from tests.memory.problem import H

interpreter = pytest.importorskip("triton.runtime.interpreter")
launches = pytest.importorskip("tests.memory.launches")
portable = pytest.importorskip("tests.memory.portable")
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
        written = TWINS[kernel](before)
        if not arguments.get("MOMENTUM", True):
            written = {name: value for name, value in written.items() if name not in twins.OF_MOMENTUM}
        for name, value in written.items():
            value = value * before.inside if name in twins.OF_TOKENS and hasattr(before, "inside") else value
            assert_close(f"{kernel} writes {name}", getattr(after, name), value)
        names.add(kernel)

    monkeypatch.setattr(interpreter.InterpretedFunction, "run", compared)
    return names


@interpreted
@pytest.mark.parametrize(("depth", "time", "switches", "stems"), launches.RECURRENCES)
def test_kernels_of_the_recurrence_are_their_twins(
    depth: int, time: int, switches: dict, stems: tuple[str, ...], launched: set[str]
) -> None:
    launches.recurrence(depth, time, switches)
    prior = switches.get("prior", True)
    assert launched == {name for name in PORTABLE if name.startswith(stems) and (prior or "prior_" not in name)}


@interpreted
@pytest.mark.parametrize("time", [50, 120])
def test_kernels_of_spans_are_their_twins(time: int, launched: set[str]) -> None:
    launches.in_spans(time)
    assert "delta_carry_kernel" in launched


@interpreted
@pytest.mark.parametrize(("depth", "switches"), launches.BEGINNINGS)
def test_kernels_from_a_state_for_all_sequences_are_their_twins(depth: int, switches: dict, launched: set[str]) -> None:
    launches.beginning(depth, switches)
    assert launched


@pytest.mark.parametrize(("depth", "switches"), launches.BEGINNINGS)
def test_short_sequences_do_not_pay_for_their_initial_state(depth: int, switches: dict) -> None:
    """Each kernel runs once, the forward's scan again in the backward; of states in float32 they take those that leave.

    These are the state behind the tokens, the anchor, and the gradient of M_0 before it is summed.
    """
    size = 512 * H * 16 * (64 if depth == 2 else 16)
    launched = []
    states = []

    def start(kernel: Any, grid: tuple, args: tuple, call: tuple, settings: Callable) -> None:
        launched.append(kernel.__name__)
        for name, x in zip(kernel.arg_names, args, strict=False):
            if twins.SHAPE_OF.get(name) == "NED" and x is not None and x.numel() >= size:
                states.append(name)

    with portable.launched_by(start):
        launches.beginning(depth, switches, batch=512, time=101)
    again = ("coefficients_fwd_", "state_fwd_", "linear_scan_kernel", "delta_solve_", "delta_scan_kernel")
    assert Counter(launched) == {name: 1 + name.startswith(again) for name in launched}
    layers = ("1", "2") if depth == 2 else ("",)
    kept = ["M{}_end", "S{}_end", "dM{}_start", *([] if "errors" in switches else ["A{}"])]
    assert sorted(states) == sorted(name.format(layer) for name in kept for layer in layers)


@interpreted
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("on", [True, False])
def test_the_kernel_of_a_token_is_its_twin(depth: int, on: bool, launched: set[str]) -> None:
    launches.one_token(depth, on)
    assert launched == {"decode_kernel"}


@interpreted
@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize(
    ("part", "stems"),
    [
        (launches.around, ("gates_", "conv_", "gated_norm_")),
        (launches.retrieval, ("retrieve_",)),
        (launches.attention, ("rotary_", "merge_", "shared_")),
        (launches.residual, ("residual_norm_",)),
    ],
)
def test_other_kernels_are_their_twins(part: Callable, stems: tuple[str, ...], on: bool, launched: set[str]) -> None:
    part(on)
    assert launched == {name for name in PORTABLE if name.startswith(stems)}


@interpreted
@pytest.mark.parametrize("parted", [True, False])
def test_kernels_of_one_query_are_their_twins(parted: bool, launched: set[str]) -> None:
    launches.one_query(parted)
    assert launched == {"slots_kernel", *(["slots_merge_kernel"] if parted else [])}


@interpreted
def test_kernels_of_products_with_a_silu_are_their_twins(launched: set[str]) -> None:
    launches.silu()
    assert launched == {name for name in PORTABLE if name.startswith(("swiglu_", "gate_"))}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kernels_compile_for_a_gpu_that_is_not_there() -> None:
    """Triton's interpreter takes what its compiler does not, and runs none of Gluon's kernels, which are for Hopper."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    both = "from tests.memory import hopper, portable; portable.main(); print(); hopper.main()"
    done = subprocess.run([sys.executable, "-c", both], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    triton, gluon = ([line.split() for line in part.splitlines()] for part in done.stdout.split("\n\n"))
    assert {name for name, *_ in triton} == PORTABLE
    assert len({name for name, _ in gluon}) == 6
    sizes = [int(size) for _, *sizes in triton + gluon for size in sizes]
    assert len(sizes) > len(gluon) == 12 and max(sizes) <= 227 * 1024, sizes  # shared memory of a Hopper's SM


def test_every_portable_kernel_has_a_twin_and_a_place_on_the_page() -> None:
    (page,) = OPS.rglob("DERIVATION.md")
    assert TWINS.keys() == PORTABLE
    assert not {name for name in PORTABLE if f"`{name}`" not in page.read_text()}
