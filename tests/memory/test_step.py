"""The decoding step's kernel: token by token equal to one call, on a GPU or under Triton's interpreter."""

import math

import pytest
import torch
from torch import Tensor, library

from memory import MemoryConfig, NeuralMemory
from memory.config import Backend
from memory.ops import Tokens, initial_state, memory_scan, memory_step, serves
from memory.rows import MemoryRows
from memory.state import FastState, MemoryState
from tests.memory.problem import (
    SEQUENCES,
    B,
    assert_same,
    bold,
    inputs,
    layers_of,
    mixing,
    rule_of,
    scan,
    tokens_of,
)

decode = pytest.importorskip("memory.ops.triton.decode")
interpreted = pytest.mark.skipif(not serves.INTERPRET, reason="runs on CPU tensors")


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each launch of the kernel."""
    seen, launch = [], decode._run
    monkeypatch.setattr(decode, "_run", lambda *args: seen.append(1) or launch(*args))
    return seen


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    if serves.INTERPRET:
        monkeypatch.setattr(decode, "TILE", 256)  # several tiles even of a small memory


def first_state(leaves: dict[str, Tensor]) -> FastState:
    state = initial_state(layers_of(leaves, "M"), B)
    return FastState(state.weights, [s.clone() for s in layers_of(leaves, "S")], state.anchor)


@torch.no_grad()
def token_by_token(
    leaves: dict[str, Tensor], chunk: int, mask: Tensor | None = None, **switches: object
) -> dict[str, Tensor]:
    """What `problem.scan` computes in one call."""
    state, rule = first_state(leaves), rule_of(leaves, chunk, **switches)
    ys = []
    for t in range(leaves["q"].shape[1]):
        y, state = memory_scan(tokens_of(leaves, mask, slice(t, t + 1)), state, rule, "triton")
        ys.append(y)
    results = {"y": torch.cat(ys, 1)}
    for letter, part in (("M", state.weights), ("A", state.anchor), ("S", state.momentum)):
        results |= {f"{letter}'{i}": w for i, w in enumerate(part)}
    return results


def compare(leaves: dict[str, Tensor], chunk: int, tolerance: float, **switches: object) -> None:
    exact = {name: leaf.detach().double() for name, leaf in leaves.items()}
    assert_same(token_by_token(leaves, chunk, **switches), scan(exact, "chunked", chunk, **switches), tolerance)


SWITCHES = [{}, {"norm": False}, {"residual": False}, {"prior": False}]


@interpreted
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("switches", SWITCHES)
def test_tokens_equal_one_call(depth: int, switches: dict[str, bool], launches: list[int]) -> None:
    compare(inputs(depth, 11, torch.float32, width=16, hidden=48), 4, 1e-5, **switches)
    assert len(launches) == 11


@interpreted
@pytest.mark.parametrize("switches", [{}, {"residual": False}, {"prior": False}])
def test_tokens_equal_one_call_with_exact_errors(switches: dict[str, bool], launches: list[int]) -> None:
    compare(bold(inputs(1, 11, torch.float32, width=16)), 4, 1e-5, norm=False, errors="exact", **switches)
    assert len(launches) == 11


@interpreted
@pytest.mark.parametrize("depth", [1, 2])
def test_padding_leaves_no_trace(depth: int) -> None:
    mask = torch.stack([torch.arange(11) % 5 != 2, torch.arange(11) < 6])
    compare(inputs(depth, 11, torch.float32, width=16, hidden=16), 4, 1e-5, mask=mask)


@interpreted
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("name", ["log_keep", "log_eta"])
@pytest.mark.parametrize("value", [-1e-9, -40.0, -math.inf])
def test_extreme_gates(depth: int, name: str, value: float) -> None:
    leaves = inputs(depth, 7, torch.float32, width=16, hidden=16)
    leaves[name] = torch.full_like(leaves[name], value)
    compare(leaves, 4, 1e-5)


@interpreted
@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2])
def test_the_old_state_stays_and_the_anchor_moves_with_the_chunk(depth: int) -> None:
    leaves = inputs(depth, 9, torch.float32, width=16, hidden=16)
    state, rule = first_state(leaves), rule_of(leaves, 4, norm=False, prior=False)
    for t in range(9):
        tensors = state.weights + state.momentum + state.anchor
        before = [w.clone() for w in tensors]
        _, after = memory_scan(tokens_of(leaves, part=slice(t, t + 1)), state, rule, "triton")
        assert all(torch.equal(w, old) for w, old in zip(tensors, before, strict=True))
        same = after.weights if (t + 1) % 4 == 0 else state.anchor
        assert all(a is b for a, b in zip(after.anchor, same, strict=True))
        state = after


@torch.no_grad()
@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=interpreted), pytest.param("cuda", marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize(
    ("depth", "switches"), [(1, {}), (2, {}), (2, {"prior": False}), (1, {"norm": False, "errors": "exact"})]
)
def test_a_step_in_place_is_that_of_each_row_at_its_own_place(
    depth: int, switches: dict, device: str, launches: list[int]
) -> None:
    leaves = bold(inputs(depth, 7, torch.float32, width=16, hidden=32, device=device))
    rule = rule_of(leaves, 4, **switches)
    states = [first_state(leaves)]
    ys = []
    for t in range(7):
        y, state = memory_scan(tokens_of(leaves, part=slice(t, t + 1)), states[t], rule, "triton")
        ys.append(y)
        states.append(state)
    ahead = [0, 3]  # tokens that each row has read
    chunk = rule.tokens_per_anchor(depth)
    parts = []
    for row, n in enumerate(ahead):
        parts.append(MemoryRows.of(MemoryState(states[n].map(lambda t, row=row: t[row : row + 1])), chunk).fast)
    state = parts[0].joined(parts[1])
    for i in range(4):
        own = (torch.stack([leaves[name][row, n + i] for row, n in enumerate(ahead)])[:, None] for name in SEQUENCES)
        y = memory_step(Tokens(*own), state, rule, "triton")
        for row, n in enumerate(ahead):
            after = states[n + i + 1]
            expected = [ys[n + i], *after.weights, *after.momentum, *after.anchor[: len(state.anchor)]]
            for new, old in zip([y, *state.weights, *state.momentum, *state.anchor], expected, strict=True):
                torch.testing.assert_close(new[row], old[row], rtol=0, atol=0 if device == "cpu" else 1e-6)
    assert len(launches) == 11


@interpreted
@torch.no_grad()
def test_a_state_of_transposed_views_costs_one_copy() -> None:
    leaves = inputs(2, 2, torch.float32, width=16, hidden=32)
    state, rule = first_state(leaves), rule_of(leaves, 4, norm=False, prior=False)

    def transposed(part: list[Tensor]) -> list[Tensor]:
        return [part[0].mT.contiguous().mT, part[1]]

    views = FastState(*(transposed(part) for part in (state.weights, state.momentum, state.anchor)))
    for t in range(2):
        token = tokens_of(leaves, part=slice(t, t + 1))
        y, state = memory_scan(token, state, rule, "triton")
        z, views = memory_scan(token, views, rule, "triton")
        torch.testing.assert_close(z, y, rtol=0, atol=0)
        assert all(w.is_contiguous() for w in views.weights + views.momentum + views.anchor)


@interpreted
@pytest.mark.parametrize(
    ("depth", "channels", "dtype", "grad", "served"),
    [
        (2, False, torch.float32, False, True),
        (2, False, torch.float32, True, False),
        (2, True, torch.float32, False, False),
        (3, False, torch.float32, False, False),
        (2, False, torch.float64, False, False),
    ],
)
def test_what_the_kernel_takes(depth: int, channels: bool, dtype: torch.dtype, grad: bool, served: bool) -> None:
    leaves = inputs(depth, 1, dtype, channels, width=16, hidden=16)
    with torch.set_grad_enabled(grad):
        assert serves.decodes(tokens_of(leaves), first_state(leaves), rule_of(leaves, 4)) == served


@pytest.mark.parametrize("backend", ["chunked", pytest.param("triton", marks=interpreted)])
def test_rows_of_a_layer_go_on_without_a_gradient(backend: Backend) -> None:
    memory = mixing(NeuralMemory(32, MemoryConfig(heads=2, chunk=4, backend="chunked")))
    x = torch.randn(2, 10, 32)
    whole, _ = memory(x)
    rows = memory.apart(memory(x[:, :5])[1])
    memory.config.backend = backend
    y = torch.cat([memory.step(token, rows) for token in x[:, 5:].split(1, 1)], 1)
    assert not any(t.requires_grad for t in [y, *rows.fast.weights, rows.query_cache])
    torch.testing.assert_close(y, whole[:, 5:].detach(), rtol=0, atol=1e-5)


@interpreted
@torch.no_grad()
def test_rows_that_the_kernel_would_take_for_others_are_refused() -> None:
    memory = mixing(NeuralMemory(32, MemoryConfig(heads=2, chunk=4, backend="chunked")))
    x = torch.randn(4, 1, 32)
    rows = memory.apart(memory(x)[1])
    memory.config.backend = "triton"
    with pytest.raises(ValueError, match="take rows by their numbers"):
        memory.step(x[::2], rows.map(lambda t: t[::2]))
    memory.step(x[::2], rows.map(lambda t: t[[0, 2]]))


@interpreted
@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"depth": 1, "head_dim": 32}, {"momentum": False, "forgetting": False}])
def test_a_layer_generates_what_it_reads_in_one_call(options: dict[str, object], launches: list[int]) -> None:
    memory = mixing(NeuralMemory(32, MemoryConfig(heads=2, chunk=4, backend="triton", **options)))
    x = torch.randn(2, 10, 32)
    memory.config.backend = "chunked"
    whole, end = memory(x)
    _, state = memory(x[:, :5])
    memory.config.backend = "triton"
    ys = []
    for token in x[:, 5:].split(1, 1):
        y, state = memory(token, state)
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys, 1), whole[:, 5:], rtol=0, atol=1e-5)
    for a, b in zip(state.fast.weights, end.fast.weights, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert len(launches) == 5


@interpreted
@torch.no_grad()
def test_the_operator_is_what_its_fake_says() -> None:
    leaves = {name: leaf.detach() for name, leaf in inputs(2, 1, torch.float32, width=16, hidden=16).items()}
    state, norm = first_state(leaves), [leaves["scale"], leaves["shift"]]
    tokens, layers = [leaves[n] for n in SEQUENCES], (state.weights, state.momentum, state.anchor)
    library.opcheck(decode._op, (tokens, None, *layers, norm, layers_of(leaves, "M"), True))


@pytest.mark.gpu
@pytest.mark.parametrize(("depth", "width", "hidden"), [(1, 64, 64), (2, 32, 128), (2, 64, 128), (2, 128, 512)])
def test_float32_on_a_gpu(depth: int, width: int, hidden: int, launches: list[int]) -> None:
    leaves = inputs(depth, 21, torch.float32, width=width, hidden=hidden, device="cuda")
    compare(leaves, 16, 1e-5)
    assert len(launches) == 21


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # this compares float32, which TF32 would round
@torch.no_grad()
def test_compiles_into_one_graph() -> None:
    memory = NeuralMemory(128, MemoryConfig(heads=2, chunk=4)).cuda()
    compiled, x = torch.compile(memory, fullgraph=True), torch.randn(2, 6, 128, device="cuda")
    state = same = None
    for token in x.split(1, 1):
        y, state = memory(token, state)
        z, same = compiled(token, same)
        torch.testing.assert_close(z, y, rtol=1e-3, atol=1e-4)
