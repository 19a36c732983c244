"""A state that comes from a file or from other hands is continued, or refused in one sentence."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from memory.state import BackboneState, FastState, State
from tests.memory.test_door import DIM, VARIANTS, backbone, layer, tokens


@pytest.mark.parametrize("missing", [("tokens_per_anchor", "window", "size"), ()])
def test_a_state_saved_by_an_older_version_is_continued(missing: tuple[str, ...], tmp_path: Path) -> None:
    """Fields had other names, and at first nothing said for which chunk, window or segment."""
    names = {"conv_cache": "tail", "query_cache": "query_tail", "key_value_cache": "pair_tail"}
    names["tokens_per_anchor"] = "chunk"
    for variant in VARIANTS:
        model = backbone(variant, conv=2)
        start = model.begin().where(torch.ones(2, dtype=torch.bool), model.begin()) if variant != "attention" else None
        _, state = model(tokens(12), start)
        state = state.detach()
        expected, _ = model(tokens(), state)

        def older(state: State) -> dict[str, object]:
            return {names.get(name, name): v for name, v in vars(state).items() if name not in missing}

        with mock.patch.object(State, "__getstate__", older):
            torch.save(state, tmp_path / "state.pt")
        loaded = torch.load(tmp_path / "state.pt", weights_only=True)
        assert torch.equal(model(tokens(), loaded)[0], expected)
        if start is not None:
            both = model.begin().where(torch.tensor([False, False]), loaded)
            assert torch.equal(model(tokens(), both)[0], expected)


def test_a_saved_state_is_of_the_kinds_that_it_declares(tmp_path: Path) -> None:
    _, state = layer()(tokens(3))
    state = state.detach()
    fast = vars(state.fast)
    for values, message in (
        ({**fast, "position": torch.tensor(3)}, "position of a FastState is of kind Tensor"),
        ({**fast, "position": True}, "position of a FastState is of kind bool"),
        ({**fast, "momentum": fast["momentum"][0]}, "momentum of a FastState is of kind Tensor"),
        ({**fast, "anchor": [None, *fast["anchor"]]}, "anchor of a FastState is of kind list"),
        ({**fast, "anchor": [w.to_sparse() for w in fast["anchor"]]}, "anchor of a FastState is of kind list"),
        ({name: value for name, value in fast.items() if name != "weights"}, "a FastState lacks its weights"),
    ):
        crafted = copy.copy(state)
        crafted.fast = object.__new__(FastState)
        vars(crafted.fast).update(values)
        torch.save(crafted, tmp_path / "state.pt")
        with pytest.raises(ValueError, match=message):
            torch.load(tmp_path / "state.pt", weights_only=True)


@dataclass
class Counted(State):
    """A state of the user's own, with a field of a kind that ours do not have."""

    counts: dict[str, float]
    last: Tensor | None = None


@dataclass
class Unknown(State):
    """Another, which names a class that is not there when it runs."""

    last: "Nowhere"  # noqa: F821


@pytest.mark.parametrize("state", [Counted({"a": 1.0}, torch.ones(2)), Unknown(torch.ones(2))])
def test_a_users_state_may_hold_what_it_likes(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert type(loaded) is type(state) and torch.equal(loaded.last, state.last)


@pytest.mark.parametrize("read", [7, 9, 12])
@pytest.mark.parametrize("summary", [0, 2])
def test_a_state_within_a_segment_that_fits_nothing(summary: int, read: int) -> None:
    model = backbone("mac", summary_tokens=summary)
    _, state = model(tokens(read))
    mixer = state.blocks[0][0]
    cases = [
        ({"before": mixer.before[:1]}, "state is of a memory of depth 1"),
        ({"before": [w[:1] for w in mixer.before]}, "state is of 1 sequences and x of 2"),
        ({"before": [w.double() for w in mixer.before]}, "state is torch.float64"),
        ({"query_cache": torch.zeros(2, 9, DIM)}, "convolution"),
    ]
    if mixer.segment is not None:
        cut = replace(mixer.segment, k=mixer.segment.k[:, :, 1:], v=mixer.segment.v[:, :, 1:])
        longer = replace(mixer.segment, k=mixer.segment.k.repeat(1, 1, 6, 1), v=mixer.segment.v.repeat(1, 1, 6, 1))
        valid = torch.ones(2, mixer.segment.k.shape[2])
        cases += [
            ({"context": None}, "state holds . tokens of a segment of 6, and 0 answers"),
            ({"segment": None}, "state holds 0 tokens of a segment of 6, and . answers"),
            ({"segment": longer}, "state holds .* tokens of a segment of 6"),
            ({"segment": replace(cut, v=mixer.segment.v)}, "state holds"),
            ({"segment": replace(mixer.segment, valid=valid)}, "state's padding is torch.float32"),
            ({"segment": replace(mixer.segment, valid=valid[:, 1:].bool())}, "state's padding holds"),
            ({"segment": replace(mixer.segment, k=mixer.segment.k.long())}, "state is torch.int64"),
        ]
    for wrong, message in cases:
        crafted = BackboneState([[replace(mixer, **wrong)], *state.blocks[1:]])
        with pytest.raises(ValueError, match=message):
            model(tokens(), crafted)
