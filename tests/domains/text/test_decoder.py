"""Texts that go on beside each other, a token at a step, each as it would alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from app.module import TitansModule
from domains.text.decoder import Decoder, rounded
from memory import BackboneState

VARIANTS = ["lmm", "mac", "mag", "mal", "attention", "swa"]
LENGTHS = [3, 11, 6]


@torch.inference_mode()
def read(module: TitansModule, ids: Tensor) -> tuple[BackboneState, Tensor]:
    """The state, apart, of one text [T], and the token that it would go on with."""
    hidden, state = module.backbone(module.head.embed_ids(ids[None]))
    return module.backbone.apart(state, 40), module.head.logits(hidden[:, -1]).argmax(-1)


def decoded(module: TitansModule, texts: list[Tensor], rows: list[int], steps: int) -> Tensor:
    """What texts go on with in these of four rows, [texts, steps]."""
    states = [read(module, ids) for ids in texts]
    decoder = Decoder(module, states[0][0], 4, None)
    for row, (state, token) in zip(rows, states, strict=True):
        decoder.put(slice(row, row + 1), state)
        decoder.ids[row] = token
    chosen = []
    for _ in range(steps):
        chosen.append(decoder.ids[rows].clone())
        decoder.step()
    return torch.stack(chosen, 1)


@torch.inference_mode()
def greedy(module: TitansModule, ids: Tensor, steps: int) -> Tensor:
    """What a text [T] goes on with when it is read anew for each token."""
    for _ in range(steps):
        hidden, _ = module.backbone(module.head.embed_ids(ids[None]))
        ids = torch.cat([ids, module.head.logits(hidden[0, -1:]).argmax(-1)])
    return ids[-steps:]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_texts_of_unequal_length_go_on_as_each_alone(variant: str, device: str, model: Callable) -> None:
    module = model(variant=variant).to(device)
    texts = [torch.randint(257, (length,), device=device) for length in LENGTHS]
    chosen = decoded(module, texts, [2, 0, 3], 14)
    for text, got in zip(texts, chosen, strict=True):
        assert torch.equal(got, greedy(module, text, 14))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_is_the_same_to_the_bit_whatever_the_others_hold(variant: str, device: str, model: Callable) -> None:
    module = model(variant=variant).float().to(device)
    states = [read(module, torch.randint(257, (length,), device=device)) for length in LENGTHS]
    together, alone = (Decoder(module, states[0][0], 4, None) for _ in range(2))
    for row, (state, token) in enumerate(states):
        together.put(slice(row, row + 1), state)
        together.ids[row] = token
    alone.put(slice(1, 2), states[1][0])
    alone.ids[1] = states[1][1]
    for _ in range(9):
        assert torch.equal(together.step()[1], alone.step()[1])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_that_begin_together_are_those_that_begin_one_by_one(variant: str, device: str, model: Callable) -> None:
    module = model(variant=variant).float().to(device)
    state, token = read(module, torch.randint(257, (5,), device=device))
    together, one_by_one = (Decoder(module, state, 4, None) for _ in range(2))
    for decoder in (together, one_by_one):
        decoder.ids.fill_(int(token))
        decoder.step()  # what a row held before is gone
    together.put(torch.tensor([3, 0], device=device), state)
    for row in (3, 0):
        one_by_one.put(slice(row, row + 1), state)
    for _ in range(3):
        assert torch.equal(together.step(), one_by_one.step())


def test_rounded_linear_maps_are_what_autocast_makes_of_them(model: Callable) -> None:
    backbone = model(variant="mag").float().backbone
    copy = rounded(backbone, torch.bfloat16)
    x = torch.randn(2, 7, 16)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(copy(x)[0], backbone(x)[0])
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert copy.norm.weight is backbone.norm.weight
