"""The memory as a layer: state in and out, padding, precision, and a gradient for everything it owns."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from memory import MemoryConfig, MemoryState, NeuralMemory
from tests.memory.problem import mixing

DIM = 16


def layer(**options: object) -> NeuralMemory:
    torch.manual_seed(0)
    return mixing(NeuralMemory(DIM, MemoryConfig(**{"heads": 2, "chunk": 4, **options}))).double()


def tokens(time: int = 23) -> Tensor:
    return torch.randn(2, time, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


SWITCHES = [
    {},
    {"depth": 1, "norm": False, "residual": False},
    {"depth": 3, "channel_forgetting": True},
    {"conv": 0, "key_norm": "sqrt"},
    {"momentum": False, "forget_to": "zero", "head_dim": 12},
    {"forgetting": False},
    {"errors": "exact", "norm": False, "depth": 2, "head_dim": 8},
]


@pytest.mark.parametrize("options", SWITCHES)
def test_streaming_is_one_call_for_every_cut(options: dict) -> None:
    memory, x = layer(**options), tokens(11)
    whole, _ = memory(x)
    for cut in range(1, 11):
        first, state = memory(x[:, :cut])
        second, _ = memory(x[:, cut:], state)
        torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=1e-10)
    state, ys = None, []
    for token in x.split(1, 1):
        y, state = memory(token, state)
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys, 1), whole, rtol=0, atol=1e-10)
    assert state.fast.position == 11 % memory.config.chunk


@pytest.mark.parametrize("options", SWITCHES)
def test_every_parameter_gets_a_gradient(options: dict) -> None:
    memory = layer(**options)
    y, _ = memory(tokens())
    (y * torch.randn_like(y)).sum().backward()
    silent = [n for n, p in memory.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not silent


@pytest.mark.parametrize("options", SWITCHES)
def test_a_memory_that_stops_forgetting_is_one_that_never_could(options: dict) -> None:
    memory, without = layer(**options), layer(**{**options, "forgetting": False})
    own = memory.state_dict()
    for name, part in (("gates.weight", memory.gates.weight), ("gates.bias", memory.gates.bias)):
        own[name] = torch.cat([memory.gates.split(part, 0)[gate] for gate in without.gates.rows])
    without.load_state_dict(own)
    before, _ = memory(tokens())
    memory.stop_forgetting()
    after, _ = memory(tokens())
    torch.testing.assert_close(after, without(tokens())[0], rtol=0, atol=1e-12)
    assert torch.equal(before, after) != memory.config.forgetting


def induction_layer() -> NeuralMemory:
    config = MemoryConfig(heads=1, depth=1, norm=False, errors="exact", momentum=False, induction=True)
    return NeuralMemory(64, config).double()


def test_keys_of_an_induction_head_are_those_of_the_token_before() -> None:
    layer = induction_layer()
    words = torch.randn(1, 9, 64, dtype=torch.float64)
    keys, values, _ = layer.pair(words, None)
    alone = words.clone()
    alone[:, 1:] = 0
    first_key, first_value = (part[0, :, 0] for part in layer.pair(alone, None)[:2])
    assert torch.cosine_similarity(first_key[1], keys[0, 1, 0], -1) > 0.9  # the second key is that of the first token
    assert torch.cosine_similarity(first_value[0], values[0, 0, 0], -1) > 0.99
    assert first_value[1].norm() < 0.5 * first_value[0].norm()


@pytest.mark.parametrize("renewed", [False, True])
def test_an_untrained_induction_head_answers_a_token_with_what_followed_it(renewed: bool) -> None:
    layer = induction_layer()
    if renewed:
        layer.reset_parameters()
    layer.stop_forgetting()
    with torch.no_grad():
        layer.gates.bias[0] = 4.0  # of the only step size: nearly all of a step that makes the memory answer a key
    words = torch.randn(1, 6, 64, dtype=torch.float64)
    values = layer.pair(words, None)[1][0, :, 0]
    query = layer.query(words, None)[0][0, :-1, 0]
    _, state = layer(words)
    answers = query + query @ state.fast.weights[0][0, 0]
    likeness = torch.cosine_similarity(answers[:, None], values[None], dim=-1)
    assert likeness.argmax(1).tolist() == [1, 2, 3, 4, 5]  # each word with the one behind it


def test_gradient_flows_through_a_carried_state_until_it_is_detached() -> None:
    memory, x = layer(), tokens().requires_grad_()
    _, state = memory(x[:, :9])
    grad = torch.autograd.grad(memory(x[:, 9:], state)[0].sum(), x, retain_graph=True)[0]
    assert grad[:, :9].abs().max() > 0
    detached = memory(x[:, 9:], state.detach())[0]
    assert torch.autograd.grad(detached.sum(), x)[0][:, :9].abs().max() == 0
    torch.testing.assert_close(detached, memory(x[:, 9:], state)[0])


def test_state_is_saved_and_loaded_safely(tmp_path: Path) -> None:
    memory, x = layer(), tokens()
    _, state = memory(x[:, :10])
    torch.save(state.detach(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert isinstance(loaded, MemoryState)
    torch.testing.assert_close(memory(x[:, 10:], loaded)[0], memory(x[:, 10:], state)[0], rtol=0, atol=0)


def test_padding_is_neither_written_nor_read() -> None:
    memory, x = layer(), tokens()
    mask = torch.ones(2, 23, dtype=torch.bool)
    mask[0, 9:] = False
    garbage = x.masked_fill(~mask[..., None], 7.0)
    y, state = memory(garbage, mask=mask)
    torch.testing.assert_close(y[0, :9], memory(x)[0][0, :9])
    _, short = memory(x[:1, :9])
    for a, b in zip(state.fast.weights + state.fast.momentum, short.fast.weights + short.fast.momentum, strict=True):
        torch.testing.assert_close(a[:1], b)


def test_memory_stays_float32_when_the_model_does_not() -> None:
    memory = layer().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = memory(tokens().float())
    assert all(t.dtype == torch.float32 for t in state.fast.weights + state.fast.momentum + state.fast.anchor)
    assert y.dtype == torch.bfloat16


def test_health_is_measured_only_when_asked() -> None:
    memory = layer()
    memory(tokens())
    assert not memory.health
    memory.recording = True
    memory(tokens())
    ((tokens_seen, health),) = memory.health
    assert tokens_seen == 23 and health["theta_mean"] > 0 and health["surprise_before"] > 0
    assert all(value.dim() == 0 and torch.isfinite(value) for value in health.values())


def test_health_is_that_of_real_tokens() -> None:
    memory, x = layer(), tokens()
    memory.recording = True
    memory(x[:, :9])
    memory(x, mask=torch.arange(23).expand(2, -1) < 9)
    (_, short), (_, padded) = memory.health
    for name, value in short.items():
        torch.testing.assert_close(padded[name], value, msg=name)


@pytest.mark.parametrize("options", SWITCHES + [{"norm": False}, {"norm": False, "key_norm": "sqrt"}, {"depth": 4}])
def test_every_switch_is_stable_over_a_long_sequence(options: dict) -> None:
    memory, x = layer(chunk=16, **{**options, "forget_to": "init"}), tokens(512)
    with torch.no_grad():
        exact, _ = memory(x)
        single, _ = memory.float()(x.float())
    assert torch.isfinite(exact).all()
    assert (single - exact).norm() / exact.norm() < 1e-3


@pytest.mark.parametrize(("forget_to", "chaotic"), [("init", False), ("zero", True)])
def test_the_default_forgets_a_small_change_and_forgetting_to_zero_amplifies_it(forget_to: str, chaotic: bool) -> None:
    memory, x = layer(chunk=16, forget_to=forget_to), tokens(1024)
    changed = x.clone()
    changed[:, 0] *= 1 + 1e-9
    with torch.no_grad():
        (_, end), (_, other) = memory(x), memory(changed)
    moved = max((a - b).norm() / a.norm() for a, b in zip(end.fast.weights, other.fast.weights, strict=True))
    assert (moved > 1e-7) == chaotic, f"1e-9 became {moved:.1e}"


@pytest.mark.parametrize("start, tokens", [(-4.0, 38), (-8.0, 2066)])
def test_an_untrained_memory_keeps_half_of_what_it_read_for_as_long_as_is_said(start: float, tokens: int) -> None:
    memory = NeuralMemory(DIM, MemoryConfig(heads=2, forgetting_start=start))
    _, _, log_keep = memory._gates(torch.zeros(1, tokens, DIM))
    torch.testing.assert_close(log_keep.sum(1).exp(), torch.full((1, 2, 1), 0.5), rtol=0.01, atol=0)


@pytest.mark.parametrize("start, explodes", [(-4.0, True), (-8.0, False)])
def test_where_alike_tokens_are_soon_forgotten_a_gradient_may_explode(start: float, explodes: bool) -> None:
    """Of six untrained layers one is enough: a stack multiplies what they do."""
    norms = []
    for seed in range(6):
        torch.manual_seed(seed)
        memory = NeuralMemory(64, MemoryConfig(heads=1, chunk=64, forgetting_start=start))
        x = (2 * torch.randn(64) + torch.randn(1, 1024, 64)).requires_grad_()
        y, _ = memory(x)
        (grad,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), x)
        norms.append(grad.square().sum(-1).mean().sqrt().item())  # of a token
    assert (max(norms) > 10) == explodes and sorted(norms)[-2] < 3, norms


def test_a_zero_token_has_a_bounded_gradient() -> None:
    memory, x = layer(conv=0), tokens()
    torch.nn.init.normal_(memory.shift)
    x[:, 5] = 0
    memory(x.requires_grad_())[0].square().sum().backward()
    assert x.grad[:, 5].norm() < 1e5 * x.grad[:, 6].norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 5}, "memory.depth is 5"),
        ({"chunk": 0}, "memory.chunk is 0"),
        ({"theta_max": 0.0}, "memory.theta_max"),
        ({"induction": True, "conv": 1}, "memory.induction needs a convolution of two tokens; memory.conv is 1"),
        ({"forget_to": "Init"}, "memory.forget_to is 'Init'; choose zero, init"),
    ],
)
def test_a_wrong_config_says_which_key(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryConfig(**options)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("options", SWITCHES)
def test_surprise_is_what_each_token_finds_before_its_own_write(options: dict, backend: str) -> None:
    memory, x = layer(**options, backend=backend), tokens(11)
    expected = []
    state = memory.initial_state(2)
    for token in x.split(1, 1):
        k, v, _ = memory.pair(token, state.key_value_cache)
        expected.append((memory._read(state.fast.weights, k) - v).square().sum(-1) / 2)
        _, state = memory(token, state)
    surprise = memory.surprise(x)
    torch.testing.assert_close(surprise, torch.cat(expected, 1), rtol=0, atol=1e-10)
    _, state = memory(x[:, :6])
    torch.testing.assert_close(memory.surprise(x[:, 6:], state), surprise[:, 6:], rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="state"):
        memory.surprise(x[:1], state)
