"""The chunked cross-entropy is the plain one, gradients included, and its memory does not grow with the vocabulary."""

import pytest
import torch
from torch.nn import functional as F

from app.tokens import IGNORE
from domains.text import loss as module
from domains.text.loss import mean_nats, token_nats
from domains.text.metrics import LanguageScores


def problem(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden, weight = torch.randn(3, 7, 5, dtype=dtype), torch.randn(11, 5, dtype=dtype)
    targets = torch.randint(11, (3, 7))
    targets[0, 2:4] = IGNORE
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
    return F.cross_entropy((hidden @ weight.T).flatten(0, 1), targets.flatten(), reduction=reduction)


@pytest.mark.parametrize("rows", [1, 4, 21, 100])
def test_equals_cross_entropy_with_gradients(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGITS", rows * 11)
    hidden, weight, targets = problem()
    expected = plain(hidden, weight, targets, "mean")
    gradients = torch.autograd.grad(2 * expected, (hidden, weight))
    loss = mean_nats(hidden, weight, targets)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(2 * loss, (hidden, weight)), gradients)
    each = plain(hidden, weight, targets, "none").view(3, 7).detach().float()
    torch.testing.assert_close(token_nats(hidden, weight, targets), each, check_dtype=False)


def test_under_autocast_products_are_bf16_and_sums_float32() -> None:
    hidden, weight, targets = problem(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = mean_nats(hidden, weight, targets)
        loss.backward()
        nats = token_nats(hidden, weight, targets)
    assert loss.dtype == nats.dtype == hidden.grad.dtype == weight.grad.dtype == torch.float32
    torch.testing.assert_close(loss, plain(hidden, weight, targets, "mean"), rtol=2e-2, atol=2e-2)


def test_nothing_to_score_is_zero() -> None:
    hidden, weight, targets = problem()
    loss = mean_nats(hidden, weight, torch.full_like(targets, IGNORE))
    loss.backward()
    assert loss == 0 and (hidden.grad == 0).all() and (weight.grad == 0).all()


def test_no_tensor_has_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGITS", 4 * 1000)
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            sizes.append(result.numel() if isinstance(result, torch.Tensor) else 0)
            return result

    hidden, weight = torch.randn(2, 32, 8, requires_grad=True), torch.randn(1000, 8, requires_grad=True)
    with Sizes():
        mean_nats(hidden, weight, torch.randint(1000, (2, 32))).backward()
    assert max(sizes) <= 1000 * 8 < 64 * 1000


def test_scores_follow_their_definitions() -> None:
    scores = LanguageScores()
    nats, scored = torch.rand(2, 1500), torch.rand(2, 1500) > 0.2
    scores.update(nats[:1], scored[:1], per_byte=0.25, per_word=1.5, tokenizer="gpt2")
    scores.update(nats[1:], scored[1:], per_byte=0.25, per_word=1.5, tokenizer="gpt2")
    total, tokens = (nats * scored).sum().item(), scored.sum().item()
    values = {name: value.item() for name, value in scores.compute().items()}
    first, middle = scored[:, :256], scored[:, 256:1024]
    expected = {
        "nats": total / tokens,
        "ppl_gpt2": torch.tensor(total / tokens).exp().item(),
        "bpb": total / (tokens / 0.25) / 0.6931472,
        "word_ppl": torch.tensor(total / (tokens / 1.5)).exp().item(),
        "nats_at_0": ((nats[:, :256] * first).sum() / first.sum()).item(),
        "nats_at_256": ((nats[:, 256:1024] * middle).sum() / middle.sum()).item(),
        "nats_at_1024": ((nats * scored)[:, 1024:].sum() / scored[:, 1024:].sum()).item(),
    }
    assert values == pytest.approx(expected, rel=1e-5)
