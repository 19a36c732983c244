"""Text comes as it would all at once, and bytes that are no character break nothing."""

import pytest
from tokenizers import Tokenizer, decoders, models

from domains.text.detokenizer import Detokenizer

WORDS = ["▁to", "▁", "a", "é"]


@pytest.fixture
def sentencepiece() -> Tokenizer:
    """Words and bytes, decoded as SentencePiece does: the first blank of a text is none."""
    vocabulary = [f"<0x{byte:02X}>" for byte in range(256)] + WORDS
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, [], byte_fallback=True))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return tokenizer


def pieces(tokenizer: Tokenizer, ids: list[int], before: tuple[int, ...] = ()) -> list[str]:
    decoder = Detokenizer(tokenizer, before)
    return [decoder.more(token) for token in ids]


def test_a_text_comes_as_it_is_whole(sentencepiece: Tokenizer) -> None:
    ids = [256, *"é€🎉".encode(), 259, 257, 256, *"🎉".encode(), 258]
    assert "".join(pieces(sentencepiece, ids)) == sentencepiece.decode(ids) == "to é€🎉é  to🎉a".replace("o é", "oé")
    assert pieces(sentencepiece, [*"€".encode()]) == ["", "", "€"]


def test_the_first_blank_is_there_behind_a_prompt(sentencepiece: Tokenizer) -> None:
    assert pieces(sentencepiece, [256]) == ["to"]
    assert pieces(sentencepiece, [256], (258,)) == [" to"]
    assert pieces(sentencepiece, [256], tuple("🎉".encode())) == [" to"]


def test_bytes_that_are_no_character_break_nothing(sentencepiece: Tokenizer) -> None:
    assert pieces(sentencepiece, [0x41, 0xE2, 0x82, 258, 256]) == ["A", "", "", "\ufffd\ufffda", " to"]
