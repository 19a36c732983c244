"""Gradients of a tensor that several linear maps read, added up by their products, are those of plain autograd."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from memory import BackboneConfig, MemoryConfig, TitansBackbone, shared_input
from memory.shared_input import SharedInput


class Maps(nn.Module):
    """Three maps of one tensor, two of which also read others; one output depends on another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(6, 8, bias=False)
        self.third = nn.Linear(6, 8, bias=False)
        self.shared = nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        """[.., 6] to a number."""
        y = self.first(x).tanh() * self.second(x).square()
        y = y + self.second(self.shared).sum(0)
        return (y * self.third(x + 1) + self.third(x)).float().square().sum()


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_are_those_of_autograd(autocast: bool) -> None:
    model = Maps()
    x = torch.randn(2, 5, 6, dtype=torch.bfloat16 if autocast else torch.float32, requires_grad=True)
    results = []
    for context in (nullcontext(), SharedInput(x)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), context:
            loss = model(x)
        results.append([loss, *torch.autograd.grad(loss, [x, *model.parameters()])])
    plain, added = results
    assert torch.equal(added[0], plain[0])
    for ours, theirs in zip(added[1:], plain[1:], strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).norm() <= (1e-2 if autocast else 1e-6) * theirs.norm()


def test_autograd_is_left_with_one_gradient_to_add() -> None:
    maps = [nn.Linear(4, 3, bias=False) for _ in range(4)]
    x = torch.randn(2, 5, 4, requires_grad=True) * 1
    with SharedInput(x):
        total = torch.stack([m(x) for m in maps]).sum()
    seen = {total.grad_fn}
    ahead = [total.grad_fn]
    readers = 0
    while ahead:
        for node, _ in ahead.pop().next_functions:
            readers += node is x.grad_fn
            if node is not None and node not in seen:
                seen.add(node)
                ahead.append(node)
    assert readers == 1


def test_a_second_backward_is_the_same() -> None:
    model, x = Maps(), torch.randn(3, 6, requires_grad=True)
    with SharedInput(x):
        loss = model(x)
    wanted = [x, *model.parameters()]
    first = torch.autograd.grad(loss, wanted, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, wanted), first, rtol=0, atol=0)


def test_what_nobody_learns_from_has_no_part() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    x = torch.randn(3, 4, requires_grad=True)
    with SharedInput(x):
        used, _ = first(x), second(x)
    used.sum().backward()
    assert second.weight.grad is None
    torch.testing.assert_close(x.grad, first.weight.sum(0).expand(3, -1))


def test_a_frozen_weight_needs_none() -> None:
    first, second = nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4)
    x = torch.randn(3, 4, requires_grad=True)
    with SharedInput(x):
        (first(x) + second(x)).sum().backward()
    assert first.weight.grad is None
    torch.testing.assert_close(x.grad, (first.weight + second.weight).sum(0).expand(3, -1))


@pytest.mark.parametrize("variant", ["lmm", "mag", "mal", "mac", "swa"])
def test_a_block_reads_its_tokens_by_such_maps(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryConfig(heads=2, depth=1, chunk=4, backend="chunked")
    sizes = {"dim": 32, "layers": 2, "heads": 2, "segment": 4, "window": 4, "persistent": 1}
    model = TitansBackbone(BackboneConfig(variant, memory=memory, **sizes)).double()
    x = torch.randn(2, 9, 32, dtype=torch.float64, requires_grad=True)
    calls = 0

    def linear(self: SharedInput, *args: Tensor) -> Tensor:
        nonlocal calls
        calls += args[0] is self.x
        return maps(self, *args)

    maps = SharedInput._linear
    monkeypatch.setattr(SharedInput, "_linear", linear)
    results = []
    for on in (False, True):
        monkeypatch.setattr(shared_input, "fuses", lambda x, width, backend, on=on: on)
        y = model(x)[0]
        results.append([y, *torch.autograd.grad((y * y.detach().roll(1)).sum(), [x, *model.parameters()])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    # queries, keys with values, gates and the gate of what is read; queries, and keys with values, of attention
    assert calls == 2 * {"lmm": 4, "mag": 6, "mal": 6, "mac": 4, "swa": 2}[variant]
