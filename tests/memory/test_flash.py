"""Windows on FlashAttention: the same function as in blocks, with every gradient; dense calls play its own."""

import pytest
import torch
from torch import Tensor, nn

from memory import BackboneConfig, MemoryConfig, attention
from memory.attention import Attention
from memory.mixers import ContextMixer
from memory.state import KVCache
from tests.memory.problem import assert_same, mixing

flash = pytest.importorskip("memory.ops.triton.flash")
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="runs on CPU tensors, under the interpreter")


def seen(q: Tensor, k: Tensor, window: int | None) -> Tensor:
    """Which keys each query sees, [T, n]."""
    first = k.shape[1] - q.shape[1]
    behind = torch.arange(first, k.shape[1])[:, None] - torch.arange(k.shape[1])
    if window is None:
        return torch.ones_like(behind, dtype=torch.bool)
    return (behind >= 0) & (behind < (window or k.shape[1]))


def scores(q: Tensor, k: Tensor, window: int | None) -> Tensor:
    z = torch.einsum("bthd,bnhd->bhtn", q, k) / q.shape[-1] ** 0.5
    return z.masked_fill(~seen(q, k, window), float("-inf"))


def dense_forward(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> tuple[Tensor, ...]:
    z = scores(q, k, window)
    y = torch.einsum("bhtn,bnhd->bthd", z.softmax(-1), v).contiguous()
    return y, z.logsumexp(-1).contiguous(), y.new_zeros(0), y.new_zeros(0)


def dense_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor, seed: Tensor, unused: Tensor,
    window: int | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    p = (scores(q, k, window) - lse[..., None]).exp()
    dp = torch.einsum("bthd,bnhd->bhtn", dy, v)
    dz = p * (dp - (dy * y).sum(-1).transpose(1, 2)[..., None]) / q.shape[-1] ** 0.5
    dq = torch.einsum("bhtn,bnhd->bthd", dz, k).contiguous()
    return dq, torch.einsum("bhtn,bthd->bnhd", dz, q), torch.einsum("bhtn,bthd->bnhd", p, dy)


@pytest.fixture
def dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every float32 call go to FlashAttention, and dense attention play it."""
    monkeypatch.setattr(attention, "flashes", lambda q, shared: q.dtype == torch.float32)
    monkeypatch.setattr(flash, "forward", dense_forward)
    monkeypatch.setattr(flash, "backward", dense_backward)
    monkeypatch.setattr(flash, "ROWS", 16)
    monkeypatch.setattr(flash, "PROGRAMS", 2)


def solve(module: nn.Module, x: Tensor, state: KVCache | None) -> dict[str, Tensor]:
    """What a call leaves and the gradients of everything that goes in."""
    inputs = {"x": x.clone().requires_grad_()}
    if state is not None:
        inputs |= {name: getattr(state, name).to(x.dtype).clone().requires_grad_() for name in ("k", "v")}
        state = KVCache(inputs["k"], inputs["v"])
    y, after = module(inputs["x"], state)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
    inputs |= dict(module.named_parameters())
    grads = torch.autograd.grad((y * direction).sum(), list(inputs.values()))
    left = {f"state {i}": tensor.detach() for i, tensor in enumerate(after.tensors())}
    found = {"y": y.detach()} | left | dict(zip(inputs, grads, strict=True))
    return {name: value for name, value in found.items() if value.numel()}


@interpreted
@pytest.mark.parametrize("persistent", [0, 3])
@pytest.mark.parametrize(
    ("window", "time", "past"),
    [(5, 24, 0), (5, 24, 2), (5, 24, 4), (5, 7, 4), (8, 1, 2), (8, 1, 7), (64, 32, 0), (64, 32, 63), (2, 6, 1)],
)
def test_a_window_with_every_gradient(dense, persistent: int, window: int, time: int, past: int) -> None:
    module, x = mixing(Attention(64, 4, persistent, window)), torch.randn(2, time, 64)
    state = KVCache(torch.randn(2, 4, past, 16), torch.randn(2, 4, past, 16)) if past else None
    ours = solve(module, x, state)
    assert_same(ours, solve(module.double(), x.double(), state), 1e-5)


@interpreted
def test_a_window_compiles_into_one_graph(dense) -> None:
    module, x = mixing(Attention(64, 4, 3, 5)), torch.randn(2, 8, 64)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x)[0], module(x)[0])


def test_padding_does_not_go_to_flash(dense) -> None:
    module, x = mixing(Attention(64, 4, 3, 5)), torch.randn(2, 9, 64)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 4:] = False
    y, _ = module(x, mask=mask)
    torch.testing.assert_close(y[1:, :4], module(x[1:, :4])[0], rtol=1e-5, atol=1e-5)


@interpreted
@pytest.mark.parametrize("persistent", [0, 3])
def test_segments_in_two_parts_with_every_gradient(dense, persistent: int) -> None:
    memory = MemoryConfig(heads=2, chunk=4, expansion=1)
    config = BackboneConfig("mac", dim=64, heads=4, segment=8, persistent=persistent, memory=memory)
    module, x = mixing(ContextMixer(config)), torch.randn(2, 24, 64)
    ours = solve(module, x, None)
    assert_same(ours, solve(module.double(), x.double(), None), 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("persistent", [0, 16])
@pytest.mark.parametrize(("window", "time", "past"), [(64, 1024, 0), (512, 1500, 0), (64, 1, 63), (64, 200, 63)])
def test_a_window_on_a_gpu(persistent: int, window: int, time: int, past: int) -> None:
    module = mixing(Attention(256, 4, persistent, window)).cuda().bfloat16()
    x = torch.randn(2, time, 256, device="cuda", dtype=torch.bfloat16)
    state = KVCache(*(torch.randn(2, 4, past, 64, device="cuda", dtype=torch.bfloat16) for _ in "kv")) if past else None
    ours = {name: value.double() for name, value in solve(module, x, state).items()}
    assert_same(ours, solve(module.double(), x.double(), state), 2e-2)
