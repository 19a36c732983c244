"""The Triton kernels: equal to the matrix products they replace, on a GPU or, slowly, under Triton's interpreter."""

import itertools
import math

import pytest
import torch
from torch import library

from memory import MemoryConfig, NeuralMemory
from memory.ops import Rule, Tokens, initial_state, memory_scan, serves
from memory.state import FastState
from tests.memory.problem import (
    SEQUENCES,
    B,
    assert_exact_to_bf16,
    assert_same,
    inputs,
    layers_of,
    one_sequence,
    rule_of,
    scan,
    solve,
    tokens_of,
)

op = pytest.importorskip("memory.ops.triton.op")
plan = pytest.importorskip("memory.ops.triton.plan")
linear = pytest.importorskip("memory.ops.triton.linear")
mlp = pytest.importorskip("memory.ops.triton.mlp")
streams = pytest.importorskip("memory.ops.triton.streams")
interpreted = pytest.mark.skipif(not serves.INTERPRET, reason="sizes for Triton's interpreter")


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    for kernels, name in ((mlp, "SEGMENT"), (mlp, "FEW_SEGMENT"), (linear, "SEGMENT")):
        monkeypatch.setattr(kernels, name, 8)  # several segments even in a short sequence
    for kernels in (mlp, linear):
        monkeypatch.setattr(kernels, "LEAST", 4)


@interpreted
@pytest.mark.parametrize(
    ("depth", "time", "chunk", "hidden", "switches"),
    [
        (2, 16, 16, 32, {"norm": False, "residual": False, "prior": False}),
        (2, 57, 16, 16, {}),
        (2, 40, 16, 64, {"residual": False}),
        (2, 40, 32, 32, {"prior": False}),
        (2, 33, 16, 32, {"norm": False}),
        (1, 16, 16, 0, {"norm": False, "residual": False, "prior": False}),
        (1, 57, 16, 0, {}),
        (1, 40, 16, 0, {"residual": False}),
        (1, 40, 32, 0, {"prior": False}),
        (1, 33, 16, 0, {"norm": False}),
    ],
)
def test_kernels_equal_matrix_products_with_every_gradient(
    depth: int, time: int, chunk: int, hidden: int, switches: dict[str, bool]
) -> None:
    leaves = inputs(depth, time, torch.float32, width=16, hidden=hidden)
    leaves = one_sequence(leaves) if switches else leaves
    exact = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    assert_same(solve(leaves, "triton", chunk, **switches), solve(exact, "chunked", chunk, **switches), 1e-5)


@interpreted
@pytest.mark.parametrize(
    ("depth", "switches", "through"),
    [(1, {}, "momentum"), (2, {}, "y"), (2, {}, "all")]
    + [(1, {"norm": False, "errors": "exact"}, through) for through in ("y", "all")],
)
def test_a_state_of_one_row_stands_for_all_sequences(
    depth: int, switches: dict, through: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its gradient as well, whether something is learned from the state behind the tokens or from y alone."""
    monkeypatch.setattr(plan, "PRIOR_PROGRAMS", 1)  # one adds up all sequences
    leaves = {n: x.detach() for n, x in inputs(depth, 25, torch.float32, width=16, hidden=16).items()}
    leaves |= {f"S{i}": s[:1] for i, s in enumerate(layers_of(leaves, "S"))}

    def solved(backend: str, rows: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        ours = {name: leaf.to(dtype).requires_grad_() for name, leaf in leaves.items()}
        weights = initial_state(layers_of(ours, "M"), 1).weights
        state = FastState(weights, layers_of(ours, "S"), weights).expand(rows)
        y, state = memory_scan(tokens_of(ours), state, rule_of(ours, 16, **switches), backend)
        results = {"y": [y], "momentum": state.momentum, "all": [y, *state.tensors()]}[through]
        loss = sum((i + 1) * (x + x.square()).mean() for i, x in enumerate(results))
        grads = torch.autograd.grad(loss, list(ours.values()), materialize_grads=True)
        found = dict(zip(ours, grads, strict=True))
        return found | {str(i): x.detach() for i, x in enumerate([y, *state.tensors()])}

    assert_same(solved("triton", 1, torch.float32), solved("chunked", B, torch.float64), 1e-5)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(
    ("backend", "time"),
    [("reference", 3), ("chunked", 3), *(pytest.param("triton", time, marks=interpreted) for time in (3, 1))],
)
def test_rows_are_their_own_behind_a_state_of_one(backend: str, time: int, heads: int) -> None:
    memory = NeuralMemory(16 * heads, MemoryConfig(heads=heads, chunk=16, backend=backend))
    with torch.no_grad():
        _, state = memory(torch.randn(3, time, 16 * heads))
    assert all(0 not in tensor.stride() for tensor in state.tensors())


@interpreted
@pytest.mark.parametrize(
    ("depth", "width", "chunk", "time", "switches"),
    [
        (1, 32, 16, 1, {}),
        (1, 64, 64, 65, {}),
        (1, 128, 64, 15, {"norm": False, "prior": False}),
        (1, 32, 64, 1, {"norm": False, "errors": "exact"}),
        (1, 128, 64, 65, {"norm": False, "errors": "exact", "prior": False}),
        (2, 32, 16, 17, {}),
        (2, 64, 64, 65, {"prior": False}),
    ],
)
def test_heads_and_chunks_of_a_gpu_at_odd_lengths(
    depth: int, width: int, chunk: int, time: int, switches: dict
) -> None:
    leaves = one_sequence(inputs(depth, time, torch.float32, width=width, hidden=64))
    exact = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    assert_same(solve(leaves, "triton", chunk, **switches), solve(exact, "chunked", chunk, **switches), 1e-5)


@interpreted
@pytest.mark.parametrize(("depth", "switches"), [(1, {}), (2, {}), (1, {"norm": False, "errors": "exact"})])
def test_padding_leaves_no_trace(depth: int, switches: dict) -> None:
    leaves = inputs(depth, 40, torch.float32, width=16, hidden=16)
    exact = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    mask = torch.arange(40) % 5 != 2
    switches = {**switches, "mask": torch.stack([mask, torch.arange(40) < 21])}
    assert_same(solve(leaves, "triton", 16, **switches), solve(exact, "chunked", 16, **switches), 1e-5)


@interpreted
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log_keep", -1e-9),
        ("log_keep", -40.0),
        ("log_keep", -math.inf),
        ("log_eta", -1e-9),
        ("log_eta", -math.inf),
        ("theta", 0.0),
    ],
)
@pytest.mark.parametrize("depth", [1, 2])
def test_extreme_gates(depth: int, name: str, value: float) -> None:
    leaves = one_sequence(inputs(depth, 18, torch.float32, width=16, hidden=16))
    leaves[name] = torch.full_like(leaves[name], value).requires_grad_()
    exact = {n: leaf.detach().double().requires_grad_() for n, leaf in leaves.items()}
    assert_same(solve(leaves, "triton", 16), solve(exact, "chunked", 16), 1e-5)


@interpreted
def test_gates_may_be_extreme_in_places() -> None:
    leaves = one_sequence(inputs(1, 40, torch.float32, width=16))
    with torch.no_grad():
        leaves["log_eta"][:, ::5] = -math.inf
        leaves["log_keep"][:, 2::7] = -math.inf
        leaves["log_keep"][:, 4::9] = 0.0
        leaves["theta"][:, ::3] = 0.0
    exact = {n: leaf.detach().double().requires_grad_() for n, leaf in leaves.items()}
    assert_same(solve(leaves, "triton", 16), solve(exact, "chunked", 16), 1e-5)


@interpreted
@pytest.mark.parametrize(("depth", "padded"), [(1, False), (1, True), (2, False), (2, True)])
def test_a_call_may_begin_in_the_middle_of_a_chunk(depth: int, padded: bool) -> None:
    leaves = {name: leaf.detach() for name, leaf in inputs(depth, 40, torch.float32, width=16, hidden=16).items()}
    mask = torch.stack([torch.arange(40) % 7 != 3, torch.arange(40) > 5]) if padded else torch.ones(B, 40).bool()
    state, rule = initial_state(layers_of(leaves, "M"), B), Rule(16)
    whole, end = memory_scan(tokens_of(leaves, mask), state, rule, "triton")
    ys = []
    for start, stop in itertools.pairwise([0, 7, 10, 30, 40]):
        y, state = memory_scan(tokens_of(leaves, mask, slice(start, stop)), state, rule, "triton")
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys, 1), whole, rtol=0, atol=1e-5)
    for a, b in zip(state.weights + state.anchor, end.weights + end.anchor, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@interpreted
@pytest.mark.parametrize("time", [30, 41])
def test_segments_under_way_at_once_do_not_touch_one_another(time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "segments", lambda rows, hidden: plan.Segments(1))
    leaves = one_sequence(inputs(2, time, torch.float32, width=16, hidden=16))
    several, spaces = solve(leaves, "triton", 16), mlp.Portable.spaces
    monkeypatch.setattr(mlp.Portable, "spaces", lambda self, most, backward: spaces(self, 1, backward))
    for name, one in solve(leaves, "triton", 16).items():
        assert torch.equal(several[name], one), name


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of PyTorch 2.14 to itself
@interpreted
@pytest.mark.parametrize(("depth", "norm", "exact"), [(1, False, True), (2, True, False)])
def test_the_operator_is_what_its_fake_says_and_differentiates(depth: int, norm: bool, exact: bool) -> None:
    leaves = {name: leaf.detach() for name, leaf in inputs(depth, 10, torch.float32, width=16, hidden=16).items()}

    def one_head(x: torch.Tensor, axis: int) -> torch.Tensor:
        return x[:1].narrow(axis, 0, 1).clone().requires_grad_()

    prior = [one_head(w, 0) for w in layers_of(leaves, "M")]
    state = [one_head(w[None], 1) for w in layers_of(leaves, "M")] + [one_head(s, 1) for s in layers_of(leaves, "S")]
    slow = [one_head(leaves[name], 0) for name in ("scale", "shift")] if norm else []
    tokens = [one_head(leaves[name], 2) for name in SEQUENCES]
    library.opcheck(op._scan, (tokens, state, slow, prior if norm else [], None, 16, True, exact, not exact))


@interpreted
@pytest.mark.parametrize(("depth", "time"), [(1, 21), (2, 21), (1, 1), (2, 1)])
def test_without_momentum_every_eta_counts_as_0(depth: int, time: int) -> None:
    """Also to kernels that carry what eta says: those of anchored errors, and of a single token."""
    leaves = {n: leaf.detach() for n, leaf in inputs(depth, time, torch.float32, width=16, hidden=16).items()}
    found = scan(leaves, "triton", 16, momentum=False)
    expected = scan({n: leaf.double() for n, leaf in leaves.items()}, "reference", 16, momentum=False)
    assert_same(found, expected, 1e-5)
    assert all(torch.equal(found[f"S'{i}"], s) for i, s in enumerate(layers_of(leaves, "S")))


def test_what_triton_cannot_serve_is_refused_by_name() -> None:
    leaves = {name: leaf.detach() for name, leaf in inputs(3, 5, torch.float32).items()}
    state = initial_state([leaves["M0"], leaves["M1"], leaves["M2"]], B)
    device = "a CPU" if not serves.INTERPRET else "a memory of depth 3"
    with pytest.raises(ValueError, match=f"backend triton does not serve {device}"):
        memory_scan(tokens_of(leaves), state, Rule(16), "triton")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("depth", "width", "hidden", "chunk"),
    [(2, 64, 128, 64), (2, 64, 256, 64), (2, 128, 256, 64), (2, 64, 128, 128), (2, 32, 64, 32), (2, 32, 64, 16)]
    + [(1, width, 0, chunk) for width in (32, 64, 128) for chunk in (16, 32, 64)]
    + [(1, 64, 0, 128)],
)
@pytest.mark.parametrize("prior", [False, True])
def test_bf16_on_a_gpu(depth: int, width: int, hidden: int, chunk: int, prior: bool) -> None:
    leaves = inputs(depth, 150, torch.float32, width=width, hidden=hidden, device="cuda")
    leaves["theta"] = leaves["theta"] / 10
    assert_exact_to_bf16(leaves, chunk, prior=prior)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("depth", "width", "hidden", "chunk"),
    [(2, 32, 64, 16), (2, 64, 128, 32), (2, 64, 128, 64), (2, 64, 256, 64), (2, 128, 256, 64)]
    + [(1, 32, 0, 16), (1, 64, 0, 32), (1, 64, 0, 64), (1, 128, 0, 64)],
)
@pytest.mark.parametrize("prior", [False, True])
def test_float32_on_a_gpu(depth: int, width: int, hidden: int, chunk: int, prior: bool) -> None:
    leaves = inputs(depth, 150, torch.float32, width=width, hidden=hidden, device="cuda")
    leaves["theta"] = (leaves["theta"] / 10).detach().requires_grad_()
    exact = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    found, expected = (solve(x, b, chunk, prior=prior) for x, b in ((leaves, "triton"), (exact, "chunked")))
    assert_same(found, expected, 1e-5)


def in_bf16(hidden: int, time: int = 750, width: int = 64) -> dict[str, torch.Tensor]:
    leaves = inputs(2, time, torch.float32, width=width, hidden=hidden, device="cuda")
    leaves["theta"] = (leaves["theta"] / 10).detach().requires_grad_()
    return leaves | {name: leaves[name].detach().bfloat16().requires_grad_() for name in ("q", "k", "v")}


@pytest.mark.gpu
@pytest.mark.parametrize("hidden", [128, 256])
@pytest.mark.parametrize("switches", [{}, {"norm": False, "residual": False, "prior": False}])
def test_programs_of_hopper_walk_over_many_chunks(
    hidden: int, switches: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    hopper = pytest.importorskip("memory.ops.triton.mlp_hopper")
    monkeypatch.setattr(mlp, "FEW_SEGMENT", 40)  # ten chunks of each head, and two programs for all of them
    monkeypatch.setattr(hopper.Hopper, "walking", lambda self, programs, chunks: (2,))
    mask = (torch.arange(750, device="cuda") % 11 != 3).expand(2, -1)
    assert_exact_to_bf16(in_bf16(hidden), 64, mask=mask, **switches)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("hidden", "width", "few"), [(128, 64, True), (128, 64, False), (256, 64, True), (256, 64, False), (256, 128, True)]
)
@pytest.mark.parametrize("prior", [False, True])
def test_kernels_beside_others_compute_the_same(
    hidden: int, width: int, few: bool, prior: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On streams of their own, behind a caller's stream that is not the default one, and in a CUDA graph."""
    if not few:  # two segments under way, as their programs are too few for the last round
        monkeypatch.setattr(mlp, "FEW", 0)
        monkeypatch.setattr(mlp, "SEGMENT", 8)
        monkeypatch.setattr(mlp, "LEAST", 2)
    monkeypatch.setattr(mlp, "FEW_SEGMENT", 40)
    leaves = in_bf16(hidden, width=width)
    with monkeypatch.context() as patched:
        patched.setattr(streams, "side_stream", lambda device, number: None)
        expected = solve(leaves, "triton", 64, prior=prior)
    found = {"two streams": solve(leaves, "triton", 64, prior=prior)}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(10_000_000)  # what does not wait for the caller's stream comes too early
        late = {name: (leaf.detach() * 1).requires_grad_() for name, leaf in leaves.items()}
        found["another stream"] = solve(late, "triton", 64, prior=prior)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found["a graph"] = scan_and_differentiate(leaves, prior)
    for result in found["a graph"].values():
        result.zero_()
    graph.replay()
    with monkeypatch.context() as patched:
        patched.setattr(streams, "side_stream", lambda device, number: None)
        of_graph = scan_and_differentiate(leaves, prior)
    for way, results in found.items():
        for name, one in (of_graph if way == "a graph" else expected).items():
            assert torch.equal(results[name], one), (way, name)


def scan_and_differentiate(leaves: dict[str, torch.Tensor], prior: bool) -> dict[str, torch.Tensor]:
    """As `solve`, along a direction that needs no copy from the host, which a CUDA graph cannot hold."""
    results = scan(leaves, "triton", 64, prior=prior)
    grads = torch.autograd.grad(sum(r.float().square().sum() for r in results.values()), list(leaves.values()))
    return {name: r.detach() for name, r in results.items()} | dict(zip(leaves, grads, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("rule", [{"depth": 1}, {"depth": 2}, {"depth": 1, "norm": False, "errors": "exact"}])
def test_compiles_into_one_graph(rule: dict) -> None:
    memory = NeuralMemory(128, MemoryConfig(heads=2, chunk=32, backend="triton", **rule)).cuda()
    x = torch.randn(2, 100, 128, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        eager, _ = memory(x)
        compiled, _ = torch.compile(memory, fullgraph=True)(x)
    torch.testing.assert_close(compiled, eager, rtol=0.02, atol=0.02)
    compiled.float().square().mean().backward()
    assert all(p.grad is not None for p in memory.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("depth", [1, 2])
def test_offsets_beyond_31_bits(depth: int) -> None:
    """The end of a call over more than 2**31 elements is what a call of its own makes of it."""
    if torch.cuda.get_device_properties(0).total_memory < 60 * 2**30:
        pytest.skip(
            "2**31 elements of q, k, v, y and gates take 60 GiB, and fewer test nothing: offsets still fit 31 bits"
        )
    heads, width, rest = 16, 64, 640
    time = 2**31 // (heads * width) + rest
    gen = torch.Generator("cuda").manual_seed(0)

    def rand(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(1, time, heads, *shape, device="cuda", dtype=dtype).normal_(generator=gen)

    k = rand(width).div_(width**0.5)
    gates = [rand(dtype=torch.float32).sigmoid_().mul_(scale) for scale in (0.01, -0.2, -0.02)]
    tokens = Tokens(k, k, rand(width), *gates)
    widths = [width] + [128] * (depth - 1) + [width]
    init = [torch.randn(heads, i, o, device="cuda") / i**0.5 for i, o in zip(widths, widths[1:], strict=False)]
    norm = (torch.ones(heads, width, device="cuda"), torch.zeros(heads, width, device="cuda"))
    rule = Rule(64, norm=norm, prior=init)
    with torch.no_grad():
        whole, end = memory_scan(tokens, initial_state(init, 1), rule, "triton")
        _, state = memory_scan(tokens.between(0, time - rest), initial_state(init, 1), rule, "triton")
        last, after = memory_scan(tokens.between(time - rest, time), state, rule, "triton")
    torch.testing.assert_close(whole[:, -rest:], last, rtol=0, atol=0)
    for a, b in zip(end.weights, after.weights, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
