"""A score is the model's own probability, whatever it is computed with and however it is cut."""

from collections.abc import Callable

import pytest
import torch

from app.module import TitansModule
from domains.text import scoring
from domains.text.scoring import log_likelihoods
from memory import TitansBackbone

VARIANTS = ("lmm", "mac", "mag", "mal", "attention", "swa")
END = 256


def scores(module: TitansModule, sequences: list, batch: int = 3, piece: int = 4096) -> list[tuple[float, bool]]:
    """Scores in the order of the sequences."""
    by_number = {number: rest for number, *rest in log_likelihoods(module, sequences, batch, piece)}
    return [tuple(by_number[number]) for number in range(len(sequences))]


def plain(module: TitansModule, ids: list[int], before: int) -> tuple[float, bool]:
    """One sequence in one pass, logits of every token."""
    with torch.no_grad():
        hidden, _ = module.backbone(module.head.embed_ids(torch.tensor([ids[:-1]])))
        logs = module.head.logits(hidden[0]).double().log_softmax(-1)
    targets = torch.tensor(ids[1:])
    rows = torch.arange(before - 1, len(ids) - 1)
    right = bool((logs[rows].argmax(-1) == targets[rows]).all())
    return logs[rows, targets[rows]].sum().item(), right


def texts() -> list[tuple[list[int], int]]:
    """Sequences of many lengths, of which a few are scored from their second token on."""
    generator = torch.Generator().manual_seed(1)
    sizes = ((4, 3), (31, 1), (9, 8), (30, 12), (17, 16), (9, 2), (2, 1))
    return [([END, *torch.randint(256, (n - 1,), generator=generator).tolist()], before) for n, before in sizes]


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_are_those_of_a_plain_pass(model: Callable[..., TitansModule], variant: str) -> None:
    module, sequences = model(variant=variant), texts()
    expected = [plain(module, ids, before) for ids, before in sequences]
    for batch, piece in ((1, 4096), (3, 4096), (len(sequences), 4096), (2, 7), (4, 1)):
        ours = scores(module, sequences, batch, piece)
        assert [score for score, _ in ours] == pytest.approx([score for score, _ in expected], abs=1e-5)
        assert [right for _, right in ours] == [right for _, right in expected]


def test_what_the_model_would_write_is_greedy(model: Callable[..., TitansModule]) -> None:
    module, ids = model(variant="mag"), [END, *b"Ada"]
    for _ in range(3):
        with torch.no_grad():
            hidden, _ = module.backbone(module.head.embed_ids(torch.tensor([ids])))
        ids.append(int(module.head.logits(hidden[0, -1]).argmax()))
    other = [*ids[:-1], (ids[-1] + 1) % 256]
    late = [*ids[:-3], (ids[-3] + 1) % 256, *ids[-2:]]
    assert [right for _, right in scores(module, [(ids, 4), (other, 4), (late, 4)])] == [True, False, False]


def test_nothing_to_score_is_certain(model: Callable[..., TitansModule]) -> None:
    assert scores(model(), [([END], 1), ([END, 65, 66], 3)]) == [(0.0, True), (0.0, True)]


def test_no_row_is_read_beyond_its_end(model: Callable[..., TitansModule], monkeypatch: pytest.MonkeyPatch) -> None:
    module, shapes, forward = model(), [], TitansBackbone.forward
    monkeypatch.setattr(
        TitansBackbone, "forward", lambda self, x, state: shapes.append(tuple(x.shape[:2])) or forward(self, x, state)
    )
    scores(module, texts(), len(texts()), 8)
    assert shapes == [(7, 8), (3, 8), (2, 8), (2, 6)]


def test_few_logits_exist_at_a_time(model: Callable[..., TitansModule], monkeypatch: pytest.MonkeyPatch) -> None:
    module, sequences = model(variant="lmm"), texts()
    expected, sizes, logits = scores(module, sequences), [], module.head.logits
    monkeypatch.setattr(scoring, "LOGITS", 5 * 257)
    monkeypatch.setattr(module.head, "logits", lambda hidden: sizes.append(len(hidden)) or logits(hidden))
    ours = scores(module, sequences)
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in expected], abs=1e-9)
    assert max(sizes) == 5 and sum(sizes) == sum(len(ids) - before for ids, before in sequences)
