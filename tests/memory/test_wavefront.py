"""Blocks that read pieces of a sequence side by side do what one call of each does, behind all that they wait for."""

from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from memory import BackboneConfig, MemoryConfig, TitansBackbone, wavefront
from tests.memory.test_backbone import VARIANTS, backbone, config, label, tokens

MEMORIES = [options for options in VARIANTS if options["variant"] not in ("attention", "swa")]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that a test can afford."""
    monkeypatch.setattr(wavefront, "PIECE", 16)


def seen(model: TitansBackbone, x: Tensor, mask: Tensor | None, read: bool) -> list[Tensor]:
    """Outputs, state and every gradient of a call, and what goes on from its state where it is to be `read`."""
    x = x.clone().requires_grad_()
    y, state = model(x, mask=mask)
    parts = []
    state.map(lambda part: parts.append(part) or part)
    if read:
        parts.append(model(tokens(time=7), state)[0])
    learned = [part for part in (y, *parts) if part.dtype == y.dtype]
    loss = sum((part * torch.linspace(1, 2, part.numel()).view_as(part)).sum() for part in learned)
    used = [x, *model.parameters()]
    return [y, *parts, *torch.autograd.grad(loss, used, materialize_grads=True, allow_unused=True)]


@pytest.mark.parametrize("options", MEMORIES, ids=label)
@pytest.mark.parametrize("padded", [False, True])
def test_pieces_are_one_call(small: None, options: dict, padded: bool) -> None:
    model = backbone(**options)
    x = tokens(time=45)
    assert len(wavefront.pieces(model.config, x)) > 2
    mask = torch.arange(45) < torch.tensor([[45], [31]]) if padded else None
    whole = seen(model, x, mask, read=True)
    model.side_by_side = True
    for part, other in zip(seen(model, x, mask, read=True), whole, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-9, atol=1e-9)


def test_checkpoints_and_measurements_are_of_all_pieces(small: None) -> None:
    model = backbone(variant="lmm", checkpoint=True)
    x = tokens(time=45)
    model.record(True)
    whole = seen(model, x, None, read=False)
    health = model.health()
    model.side_by_side = True
    for part, other in zip(seen(model, x, None, read=False), whole, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-9, atol=1e-9)
    assert {name: len(memory.health) for name, memory in model.memories().items()} == {"layer0": 6, "layer1": 6}
    torch.testing.assert_close(model.health()["layer0/theta_mean"], health["layer0/theta_mean"], rtol=1e-9, atol=0)


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag"])
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("time", [1, 15, 16, 17, 63, 200])
def test_pieces_end_with_chunks_and_segments(small: None, variant: str, batch: int, time: int) -> None:
    own = config(variant=variant)
    sizes = wavefront.pieces(own, tokens(batch, time))
    assert sum(sizes) == time
    assert min(sizes) > 0
    unit, before = (12, 0) if variant == "mac" else (4, own.persistent)
    assert all((before + end) % unit == 0 for end in list(accumulate(sizes))[:-1])


def test_one_piece_where_more_gain_nothing(small: None) -> None:
    x = tokens(time=64)
    many = BackboneConfig("lmm", dim=256, memory=MemoryConfig(heads=32))
    assert len(wavefront.pieces(many, tokens(1, 64))) > 1
    assert wavefront.pieces(many, x) == [64]  # twice as many programs as pay
    assert wavefront.pieces(config(variant="attention"), x) == [64]
    assert wavefront.pieces(config(variant="swa"), x) == [64]
    assert wavefront.pieces(config(variant="package.Mixer"), x) == [64]


def test_everything_comes_behind_what_it_waits_for() -> None:
    order = list(wavefront._in_order(3, 4))
    assert sorted(order) == [(piece, block) for piece in range(3) for block in range(4)]
    for piece, block in order:
        place = order.index((piece, block))
        earlier = [(piece - 1, block), (piece, block - 1)]
        assert all(order.index(one) < place for one in earlier if min(one) >= 0)


def test_a_state_is_gone_on_from_in_one_piece(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = backbone(variant="lmm")
    _, state = model(tokens(time=9))
    model.side_by_side = True
    monkeypatch.setattr(wavefront, "run", lambda *_: pytest.fail("pieces begin with a sequence"))
    model(tokens(time=64), state)


def test_pieces_cast_weights_for_themselves() -> None:
    """Gradients of a cast that pieces shared would be added up in bfloat16."""
    shared: list[bool] = []

    def watched(x: Tensor, states: list | None, mask: Tensor | None) -> tuple[Tensor, list]:
        shared.append(torch.is_autocast_cache_enabled())
        return x, []

    with torch.autocast("cpu", torch.bfloat16):
        wavefront.run([watched], tokens(time=48).float(), None, [16, 32])
        assert torch.is_autocast_cache_enabled()
    assert shared == [False, False]


def test_no_sequence_is_one_piece() -> None:
    assert wavefront.pieces(config(variant="lmm"), tokens(0, 9)) == [9]


@pytest.mark.gpu
@pytest.mark.parametrize("options", MEMORIES, ids=label)
def test_a_graph_of_pieces_leaves_what_one_call_does(small: None, options: dict) -> None:
    model = backbone(**options, layers=4).cuda()
    x = tokens(time=200).cuda().requires_grad_()
    left = SimpleNamespace()

    def step() -> None:  # leaves nothing of its graph: one that lives would keep gradients' streams for the next
        y, _ = model(x)
        grads = torch.autograd.grad(y.square().sum(), [x, *model.parameters()], materialize_grads=True)
        left.results = [y.detach(), *grads]

    step()
    whole = left.results
    model.side_by_side = True
    for _ in range(2):
        step()
    for part, other in zip(left.results, whole, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-9, atol=1e-9)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(3):
        for part in left.results:
            part.zero_()
        graph.replay()
        for part, other in zip(left.results, whole, strict=True):
            torch.testing.assert_close(part, other, rtol=1e-9, atol=1e-9)
