"""The recurrence: every path equals the oracle, the oracle equals the paper, and each known trap has its test."""

import math

import pytest
import torch
from torch import Tensor

from memory.ops import Rule, Tokens, initial_state, memory_scan
from memory.ops.reference import inner_gradient
from tests.memory.problem import B, D, H, assert_same, bold, inputs, layers_of, rule_of, scan, solve, tokens_of

EXACT = {"errors": "exact", "norm": False}


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize(("chunk", "time"), [(1, 5), (4, 11), (16, 37), (64, 70)])
def test_chunked_equals_reference_with_every_gradient(depth: int, chunk: int, time: int) -> None:
    leaves = inputs(depth, time)
    assert_same(solve(leaves, "chunked", chunk), solve(leaves, "reference", chunk), 1e-9)
    single = {name: leaf.detach().float().requires_grad_() for name, leaf in leaves.items()}
    assert_same(solve(single, "chunked", chunk), solve(leaves, "chunked", chunk), 1e-4)


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("prior", [False, True])
def test_every_switch_agrees(channels: bool, norm: bool, residual: bool, prior: bool) -> None:
    for depth in (1, 2, 3):
        leaves = inputs(depth, 11, channels=channels)
        switches = {"norm": norm, "residual": residual, "prior": prior}
        assert_same(solve(leaves, "chunked", 4, **switches), solve(leaves, "reference", 4, **switches), 1e-9)


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("prior", [False, True])
def test_exact_errors_are_gradients_at_the_memory_before_each_token(
    channels: bool, residual: bool, prior: bool
) -> None:
    switches = {**EXACT, "residual": residual, "prior": prior}
    for chunk, time in ((1, 5), (4, 11), (16, 37), (64, 70)):
        leaves = bold(inputs(1, time, channels=channels))
        by_token = solve(leaves, "reference", 1, norm=False, residual=residual, prior=prior)
        for backend in ("reference", "chunked"):
            assert_same(solve(leaves, backend, chunk, **switches), by_token, 1e-9)


@pytest.mark.parametrize(("depth", "switches"), [(1, {}), (2, {}), (3, {}), (1, EXACT), (2, EXACT)])
@pytest.mark.parametrize("channels", [False, True])
def test_without_momentum_every_eta_counts_as_0(depth: int, switches: dict, channels: bool) -> None:
    leaves = inputs(depth, 11, channels=channels)
    off = {**leaves, "log_eta": torch.full_like(leaves["log_eta"], -math.inf)}
    by_eta = scan(off, "reference", 4, **switches)
    for backend in ("reference", "chunked"):
        found = solve(leaves, backend, 4, momentum=False, **switches)
        assert_same({name: found[name] for name in ("y", "M'0")}, {name: by_eta[name] for name in ("y", "M'0")}, 1e-9)
        assert_same(found, solve(leaves, "reference", 4, momentum=False, **switches), 1e-9)
        for i, s in enumerate(layers_of(leaves, "S")):
            assert torch.equal(found[f"S'{i}"], s)


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_exact_errors_of_a_deep_memory_agree_with_every_gradient(depth: int, channels: bool, residual: bool) -> None:
    for chunk, time in ((1, 5), (4, 11), (16, 37)):
        leaves = inputs(depth, time, channels=channels)
        switches = {**EXACT, "residual": residual, "prior": channels}
        assert_same(solve(leaves, "chunked", chunk, **switches), solve(leaves, "reference", chunk, **switches), 1e-9)


def test_a_step_of_one_binds_the_features_of_a_deep_memory_in_one_token() -> None:
    leaves = {name: leaf.detach() for name, leaf in inputs(2, 1).items()}
    rule = rule_of(leaves, 16, prior=False, **EXACT)
    state = initial_state(layers_of(leaves, "M"), B)
    features = rule.features(leaves["k"].transpose(1, 2) @ state.weights[0])
    one = torch.ones(B, 1, H, dtype=torch.float64)
    tokens = Tokens(leaves["k"], leaves["k"], leaves["v"], one, -math.inf * one, 0 * one)
    _, after = memory_scan(tokens, state, rule, "chunked")
    answer = leaves["k"] + (features @ after.weights[1]).transpose(1, 2)
    torch.testing.assert_close(answer, leaves["v"], rtol=0, atol=1e-5)  # but for the epsilon of the features' length


EXTREMES = {
    "alpha to 0": ("log_keep", -1e-9),
    "alpha to 1": ("log_keep", -40.0),
    "alpha 1": ("log_keep", -math.inf),
    "eta to 1": ("log_eta", -1e-9),
    "eta to 0": ("log_eta", -40.0),
    "eta 0": ("log_eta", -math.inf),
    "theta 0": ("theta", 0.0),
}


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize(("depth", "switches"), [(1, {}), (2, {}), (1, EXACT), (2, EXACT)])
def test_extreme_gates_agree_and_stay_finite(extreme: str, depth: int, switches: dict) -> None:
    name, value = EXTREMES[extreme]
    leaves = inputs(depth, 21)
    leaves[name] = torch.full_like(leaves[name], value).requires_grad_()
    chunked = solve(leaves, "chunked", 16, **switches)
    assert all(torch.isfinite(r).all() for r in chunked.values())
    assert_same(chunked, solve(leaves, "reference", 16, **switches), 1e-9)
    single = {n: leaf.detach().float().requires_grad_() for n, leaf in leaves.items()}
    assert_same(solve(single, "chunked", 16, **switches), chunked, 1e-4)


def test_a_step_of_one_binds_a_unit_key_in_one_token_and_leaves_others_alone() -> None:
    leaves = bold({name: leaf.detach() for name, leaf in inputs(1, D).items()})
    keys = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    keys = keys.expand(B, H, D, D).transpose(1, 2)  # orthogonal
    keep, eta = torch.zeros(B, D, H, dtype=torch.float64), torch.full((B, D, H), -math.inf, dtype=torch.float64)
    state = initial_state([leaves["M0"]], B)
    tokens = Tokens(keys, keys, leaves["v"], torch.ones_like(keep), eta, keep)
    _, after = memory_scan(tokens, state, Rule(4, residual=False, errors="exact"))
    answers = torch.einsum("bthd,bhde->bthe", keys, after.weights[0])
    torch.testing.assert_close(answers, leaves["v"], rtol=0, atol=1e-12)


def test_exact_errors_are_refused_where_they_have_no_closed_form() -> None:
    with pytest.raises(ValueError, match="no closed form"):
        scan(inputs(1, 5), "chunked", 4, errors="exact")


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize(("norm", "errors"), [(False, "anchor"), (True, "anchor"), (False, "exact")])
def test_inner_gradient_is_that_of_half_the_squared_error(depth: int, norm: bool, errors: str) -> None:
    leaves = inputs(depth, 1)
    weights = [leaves[f"M{i}"].detach()[None].requires_grad_() for i in range(depth)]
    k, v = (leaves[n].detach()[:1, 0, :, None] for n in "kv")
    rule = rule_of({name: leaf.detach() for name, leaf in leaves.items()}, 1, norm, errors=errors).by_row()
    loss = (rule.read(weights, k) - v).square().sum() / 2
    by_hand = inner_gradient(weights, weights[-1], k, v, rule)
    for ours, autograd in zip(by_hand, torch.autograd.grad(loss, weights), strict=True):
        torch.testing.assert_close(ours, autograd, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("depth", [1, 2])
def test_gradcheck(depth: int) -> None:
    leaves = inputs(depth, 5, channels=depth == 2)

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(leaves, values, strict=True))
        return tuple(scan(given, backend="chunked", chunk=2).values())

    assert torch.autograd.gradcheck(run, tuple(leaves.values()), fast_mode=True)


def test_linear_memory_without_momentum_is_the_gated_delta_rule() -> None:
    leaves = {name: leaf.detach() for name, leaf in inputs(1, 23).items()}
    leaves["log_eta"] = torch.full_like(leaves["log_eta"], -math.inf)
    q, k, v, theta = (leaves[n] for n in ("q", "k", "v", "theta"))
    keep = leaves["log_keep"].exp()
    state = initial_state([leaves["M0"]], B)
    y, after = memory_scan(tokens_of(leaves), state, Rule(1, residual=False))
    # Gated DeltaNet, S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T, takes its error after the decay
    # and Titans (eq. 13) before it: the same memory for beta = theta / (1 - alpha) and values scaled by 1 - alpha
    decay = keep[..., None, None]
    beta, values = theta[..., None, None] / decay, v * keep[..., None]
    eye = torch.eye(D, dtype=torch.float64)
    memory = leaves["M0"].mT.expand(B, H, D, D)
    for t in range(23):
        erase = eye - beta[:, t] * torch.einsum("bhi,bhj->bhij", k[:, t], k[:, t])
        memory = decay[:, t] * memory @ erase + beta[:, t] * torch.einsum("bhi,bhj->bhij", values[:, t], k[:, t])
        torch.testing.assert_close(y[:, t], (memory @ q[:, t, ..., None])[..., 0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(after.weights[0].mT, memory, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("depth", "errors"), [(1, "anchor"), (2, "anchor"), (1, "exact"), (2, "exact")])
@pytest.mark.parametrize("prior", [False, True])
def test_without_gradients_a_state_written_in_place_is_the_same(depth: int, errors: str, prior: bool) -> None:
    leaves = inputs(depth, 23)
    rule = rule_of(leaves, 4, norm=errors == "anchor", prior=prior, errors=errors)
    first = initial_state(layers_of(leaves, "M"), B)
    results = []
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            state, found = first, []
            for part in (slice(0, 6), slice(6, 23)):  # begins and ends within a chunk
                given = [*state.weights, *state.momentum, *state.anchor]
                kept = [w.clone() for w in given]
                y, state = memory_scan(tokens_of(leaves, part=part), state, rule, "chunked")
                assert all(map(torch.equal, given, kept))  # those of the caller stay as they were
                found += [y, *state.weights, *state.momentum, *state.anchor]
            results.append(found)
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("cuts", [[1] * 23, [3, 20], [4, 4, 15], [7, 9, 7]])
@pytest.mark.parametrize(("depth", "errors"), [(2, "anchor"), (1, "exact"), (2, "exact")])
def test_a_sequence_cut_anywhere_is_one_sequence(backend: str, cuts: list[int], depth: int, errors: str) -> None:
    leaves = {name: leaf.detach() for name, leaf in inputs(depth, 23).items()}
    rule = rule_of(leaves, 4, norm=errors == "anchor", errors=errors)
    state = initial_state(layers_of(leaves, "M"), B)
    whole, end = memory_scan(tokens_of(leaves), state, rule, backend)
    parts, start = [], 0
    for length in cuts:
        y, state = memory_scan(tokens_of(leaves, part=slice(start, start + length)), state, rule, backend)
        parts.append(y)
        start += length
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-10)
    for a, b in zip(state.weights + state.momentum, end.weights + end.momentum, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize(("depth", "errors"), [(2, "anchor"), (1, "exact"), (2, "exact")])
def test_padding_leaves_no_trace_even_of_momentum(backend: str, channels: bool, depth: int, errors: str) -> None:
    leaves = {name: leaf.detach() for name, leaf in inputs(depth, 9, channels=channels).items()}
    gap = torch.tensor([True] * 3 + [False] * 2 + [True] * 4)
    state = initial_state(layers_of(leaves, "M"), B)
    rule = rule_of(leaves, 16, norm=errors == "anchor", errors=errors)
    padded, end = memory_scan(tokens_of(leaves, gap.expand(B, -1)), state, rule, backend)
    short, expected = memory_scan(tokens_of(leaves, part=gap), state, rule, backend)
    torch.testing.assert_close(padded[:, gap], short, rtol=0, atol=1e-12)
    for a, b in zip(end.weights + end.momentum, expected.weights + expected.momentum, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def amplification(alpha_max: float, norm: bool, to_init: bool, time: int = 512) -> tuple[float, float]:
    """How much a 1e-9 change of M_0 grows in `time` tokens, and what is left of the memory, |M_T| / |M_0|."""
    gen = torch.Generator().manual_seed(5)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=gen, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=gen, dtype=torch.float64)

    width, hidden = 32, 64
    q, k, v = (normal(1, time, 1, width) for _ in range(3))
    q, k = (x / x.norm(dim=-1, keepdim=True) for x in (q, k))
    theta, eta, alpha = 0.008 * rand(1, time, 1), 0.5 * rand(1, time, 1), alpha_max * rand(1, time, 1)
    init = [normal(1, width, hidden) / width**0.5, normal(1, hidden, width) / hidden**0.5]
    slow = (torch.ones(1, width).double(), torch.zeros(1, width).double()) if norm else None
    rule = Rule(32, norm, slow, init if to_init else None)
    tokens = Tokens(q, k, v, theta, eta.log(), torch.log1p(-alpha))
    ends = []
    for factor in (1.0, 1 + 1e-9):
        start = initial_state([w * factor for w in init], 1)
        ends.append(memory_scan(tokens, start, rule)[1].weights)
    grown = max(((b - a).norm() / a.norm() / 1e-9).item() for a, b in zip(*ends, strict=True))
    return grown, min((a.norm() / w.norm()).item() for a, w in zip(ends[0], init, strict=True))


def test_a_deep_memory_that_forgets_to_zero_dies() -> None:
    assert amplification(0.1, norm=False, to_init=False)[1] < 1e-6
    assert amplification(0.1, norm=False, to_init=True)[1] > 0.5


def test_a_normalised_deep_memory_that_forgets_to_zero_turns_chaotic_and_to_init_does_not() -> None:
    assert amplification(0.1, norm=True, to_init=False)[0] > 100
    assert amplification(0.1, norm=True, to_init=True)[0] < 2


def test_state_stays_float32_under_autocast() -> None:
    leaves = {name: leaf.detach().float() for name, leaf in inputs(2, 9).items()}
    plain = scan(leaves, "chunked", 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        automatic = scan(leaves, "chunked", 4)
    assert all(r.dtype == torch.float32 for r in automatic.values())
    assert_same(automatic, plain, 1e-7)


def test_products_on_meta_are_of_the_tokens_own_dtype() -> None:
    leaves = {name: leaf.detach().float().to("meta") for name, leaf in inputs(2, 9).items()}
    assert tokens_of(leaves).product_dtype == torch.float32  # PyTorch raises where it is asked for autocast on meta
