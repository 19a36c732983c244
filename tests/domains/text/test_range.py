"""Losses along documents: three pasts of the same tokens, rare words that come again, and a cache of n-grams."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from app.module import TitansModule
from app.tokens import Tokens
from data_prep.tokenizer import load, token_bytes
from domains.text import copies as cache
from domains.text import repeats
from domains.text.copies import copies, fit, kinds, mixed
from domains.text.loss import token_nats
from domains.text.range import by_position, long_documents, mean, nats_along
from domains.text.repeats import Text, far_repeats, training_counts

PERIOD = 8
LENGTHS = (29, 30, 13, 21, 25)


def documents() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [np.r_[256, generator.integers(0, 256, length - 1)] for length in LENGTHS]


def expected(module: TitansModule, ids: np.ndarray, state: object = None) -> tuple[np.ndarray, object]:
    """Nats of all but the first of ids, read in one call, and the state after all but the last."""
    row = torch.from_numpy(ids)[None]
    with torch.inference_mode():
        hidden, state = module.backbone(module.head.embed_ids(row[:, :-1]), state)
        return token_nats(hidden, module.head.embedding.weight, row[:, 1:])[0].numpy(), state


@pytest.mark.parametrize("options", [{"variant": "lmm"}, {"variant": "mac"}, {"variant": "mag", "conv": 3}], ids=str)
def test_every_way_reads_the_past_that_it_says(model: Callable[..., TitansModule], options: dict) -> None:
    module = model(**options)
    read, nats = nats_along(module, documents(), batch=3, period=PERIOD)
    assert [len(ids) for ids in read] == [
        29,
        29,
        25,
        13,
        13,
    ]  # two batches, the longest of each cut to the length of the second
    for group in ([0, 1, 2], [3, 4]):
        for row in group:
            ids, of = read[row], nats[row]
            np.testing.assert_allclose(of["carried"], expected(module, ids)[0], atol=1e-9)
            for start in range(0, len(ids) - 1, PERIOD):
                piece, here = ids[start : start + PERIOD + 1], slice(start, start + PERIOD)
                np.testing.assert_allclose(of["reset"][here], expected(module, piece)[0], atol=1e-9)
                active = [other for other in group if len(read[other]) - 1 > start]
                other = read[active[active.index(row) - 1]]
                state = expected(module, other[: start + 1])[1] if start else None
                np.testing.assert_allclose(of["swapped"][here], expected(module, piece, state)[0], atol=1e-9)
            assert not np.allclose(of["carried"][PERIOD:], of["swapped"][PERIOD:], atol=1e-3)


def test_any_batch_carries_alike(model: Callable[..., TitansModule]) -> None:
    module = model(variant="mal")
    for batch in (2, 5):
        read, nats = nats_along(module, documents(), batch, PERIOD, swaps=False)
        for ids, of in zip(read, nats, strict=True):
            assert [*of] == ["carried"]
            np.testing.assert_allclose(of["carried"], expected(module, ids)[0], atol=1e-9)
    with pytest.raises(ValueError, match="at least two"):
        nats_along(module, documents()[:1], 4, PERIOD)


def test_every_token_is_counted_once_by_its_position() -> None:
    generator = np.random.default_rng(1)
    values = [generator.random(length) for length in (20_000, 70_000, 3)]
    means = by_position(values)
    assert {name: count for name, (_, count) in means.items()} == {
        "0-64": 131,
        "64-256": 384,
        "256-1K": 1536,
        "1K-4K": 6144,
        "4K-16K": 24576,
        "16K-64K": 3616 + 49152,
    }
    assert means["1K-4K"][0] == pytest.approx(np.r_[values[0][1024:4096], values[1][1024:4096]].mean())
    settled = by_position(values, lambda place: (place >= 4096) & (place % 4096 >= 1024))
    assert settled["4K-16K"][1] == 2 * 3 * 3072 and "1K-4K" not in settled
    assert mean(values, [own > 2 for own in values])[1] == 0


def test_documents_are_those_that_are_long_enough() -> None:
    tokens = Tokens(np.arange(100), np.array([0, 10, 60]), 100, "x")
    assert [(ids[0], ids[-1]) for ids in long_documents(tokens, 40, 45)] == [(10, 55), (60, 99)]
    with pytest.raises(ValueError, match="x: 1 documents of 41 tokens or more, of which two are needed"):
        long_documents(tokens, 41, 45)


def counted(document: np.ndarray) -> list[tuple[int, float]]:
    """Length of the longest context that has stood before, and the share of the token that came, of each token."""
    longest, ids = [], document.tolist()
    for at in range(1, len(ids)):
        for length in range(cache.ORDERS[-1] - 1, 0, -1):
            context = ids[at - length : at] if length <= at else None
            followed = [ids[j] for j in range(length, at) if ids[j - length : j] == context]
            if followed:
                longest.append((length, len(followed), followed.count(ids[at]) / len(followed)))
                break
        else:
            longest.append((0, 0, 0.0))
    return longest


@pytest.mark.parametrize("letters", [2, 5, 60])
def test_the_cache_counts_what_followed_the_longest_context(letters: int) -> None:
    document = np.random.default_rng(letters).integers(0, letters, 150)
    kind, share = copies(document)
    for k, s, (length, seen, right) in zip(kind, share, counted(document), strict=True):
        assert (k == 0) == (length == 0) and s == pytest.approx(right)
        if length:
            assert divmod(k - 1, len(cache.SEEN)) == (length - 1, np.searchsorted(cache.SEEN, seen, side="right") - 1)


def test_short_documents_have_nothing_to_copy() -> None:
    assert [part.tolist() for part in copies(np.array([3, 3]))] == [[0], [0.0]]
    assert [part.tolist() for part in copies(np.array([3]))] == [[], []]


def test_a_cache_counts_as_much_as_it_helps() -> None:
    generator = np.random.default_rng(0)
    kind, share = generator.integers(0, kinds(), 20_000), generator.random(20_000)
    share[(kind % 2 == 0) | (generator.random(20_000) < 0.3)] = 0.0  # half of the kinds of context are never right
    nats = np.full(20_000, 5.0)
    weights = fit([kind], [share], [nats])
    assert weights[0] == 0 and (weights[2::2] < 1e-3).all() and (weights[1::2] > 0.5).all() and (weights < 1).all()
    assert mixed(kind, share, nats, weights).mean() < nats.mean() - 1
    for change in (0.9, 1.1):
        moved = np.where(weights > 1e-3, (weights * change).clip(0, 0.999), weights)
        better = mixed(kind, share, nats, weights).mean(dtype=np.float64)
        assert mixed(kind, share, nats, moved).mean(dtype=np.float64) > better - 1e-6


TEXT = "Ünï zyxwv_2 and “zyxwv” 7up zyxwv_2 ☃ zyxwv_2x zyxwv_2."


@pytest.mark.parametrize("name", ["byte", "bpe-300"])
def test_words_are_found_in_tokens(name: str) -> None:
    tokenizer = load(name, [TEXT])
    ids = np.array([tokenizer.token_to_id("<|endoftext|>"), *tokenizer.encode(TEXT).ids])
    words, pieces = Text(tokenizer).words(ids), token_bytes(tokenizer)
    assert words.texts == ["Ünï", "zyxwv_2", "and", "zyxwv", "zyxwv_2", "zyxwv_2x", "zyxwv_2"]
    for word, first, last in zip(words.texts, words.first, words.last, strict=True):
        spelled = b"".join(pieces[i] for i in ids[first : last + 1]).decode()
        assert spelled.strip().startswith(word) and not b"".join(pieces[i] for i in ids[first + 1 : last]).count(b" ")
    cut = Text(tokenizer).words(
        ids[: np.flatnonzero(words.first == words.first[0])[0] + 2]
    )  # the document ends within a character
    assert cut.texts in ([], ["Ü"], ["Ün"], ["Ünï"])
    with pytest.raises(ValueError, match="no string of bytes"):
        tokenizer.add_tokens(["☃"])
        Text(tokenizer)


def test_far_repeats_are_rare_and_beyond_distance_and_reset() -> None:
    words = repeats.Words([*"abababb"], *(np.array([1, 4, 9, 12, 18, 19, 40]) + more for more in (0, 1)))
    rare = [word == "b" for word in words.texts]
    mask = far_repeats(words, rare, 42, far=7, period=10)
    # the b at 12 ended at 5, far enough and before the reset at 10; that at 19 ended at 13 after it, 40 at 20
    assert np.flatnonzero(mask).tolist() == [12 - 1, 13 - 1, 40 - 1, 41 - 1]
    assert np.flatnonzero(far_repeats(words, rare, 42, far=8, period=10)).tolist() == [39, 40]
    assert not far_repeats(words, [False] * 7, 42, far=7, period=10).any()


def test_training_words_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "CHUNK", 20)
    tokenizer, texts = load("byte"), ["one two two", "three two one", "two", "x " * 40]
    ids = [np.r_[256, np.array(tokenizer.encode(text).ids)] for text in texts]
    sizes = np.array([len(i) for i in ids])
    train = Tokens(np.concatenate(ids), sizes.cumsum() - sizes, 257, "train")
    counts, total = training_counts(train, tokenizer, {"one", "two", "four"}, tmp_path / "deep" / "words.json")
    assert counts == {"one": 2, "two": 4} and total == 47
    again = training_counts(train, tokenizer, {"never asked"}, tmp_path / "deep" / "words.json")
    assert again == (counts, total)
