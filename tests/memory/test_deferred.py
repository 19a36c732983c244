"""Weight gradients made behind a loop are those of plain autograd."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from memory import BackboneConfig, MemoryConfig, mixers
from memory.deferred import DeferredWeights
from memory.mixers import ContextMixer


def loop(model: nn.Module, x: Tensor, deferred: bool) -> list[Tensor]:
    """Gradients of the input and of all parameters, of a recurrence of three steps."""
    h, total = x, 0
    if deferred:
        with DeferredWeights():
            for _ in range(3):
                h = model(h)
                total = total + h.square().sum()
    else:
        for _ in range(3):
            h = model(h)
            total = total + h.square().sum()
    return torch.autograd.grad(total, [x, *model.parameters()])


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_are_those_of_autograd(autocast: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6, bias=False))
    x = torch.randn(2, 5, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        plain, deferred = (loop(model, x, on) for on in (False, True))
    for ours, theirs in zip(deferred, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2 if autocast else 1e-5, atol=5e-2 if autocast else 1e-6)
        assert ours.dtype == torch.float32


def test_a_second_backward_is_the_same() -> None:
    model, x = nn.Linear(4, 4), torch.randn(3, 4)
    with DeferredWeights():
        loss = model(model(x)).square().sum()
    first = torch.autograd.grad(loss, model.parameters(), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, model.parameters()), first, rtol=0, atol=0)


def test_a_backward_for_the_input_alone_leaves_nothing_to_the_next() -> None:
    model, x = nn.Linear(4, 4), torch.randn(3, 4, requires_grad=True)
    expected = torch.autograd.grad(model(model(x)).square().sum(), model.parameters())
    with DeferredWeights():
        loss = model(model(x)).square().sum()
    torch.autograd.grad(loss, x, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, model.parameters()), expected)


@pytest.mark.parametrize("options", [{}, {"summary_tokens": 3}])
def test_mac_under_autocast_is_that_of_plain_autograd(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"dim": 16, "heads": 2, "segment": 6, "persistent": 3, **options}
    mixer = ContextMixer(BackboneConfig("mac", memory=MemoryConfig(heads=2, chunk=4), **sizes))
    x = torch.randn(2, 20, 16, requires_grad=True)

    def results() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            y, _ = mixer(x)
        return [y, *torch.autograd.grad(y.float().square().sum(), [x, *mixer.parameters()])]

    deferred = results()
    monkeypatch.setattr(mixers, "DeferredWeights", nullcontext)
    plain = results()
    assert torch.equal(deferred[0], plain[0])
    for ours, theirs in zip(deferred[1:], plain[1:], strict=True):
        assert (ours - theirs).norm() <= 1e-2 * theirs.norm() + 1e-4  # both round to bfloat16, in another order


def test_a_frozen_weight_needs_none() -> None:
    model, x = nn.Linear(4, 4).requires_grad_(False), torch.randn(3, 4, requires_grad=True)
    with DeferredWeights():
        model(x).sum().backward()
    assert model.weight.grad is None
    torch.testing.assert_close(x.grad, model.weight.sum(0).expand(3, -1))
