"""Batches of text: tokens, and what the scores of a language model need beside them."""

from dataclasses import dataclass

from torch import Tensor

from app.tokens import TokenBatch
from app.windows import Step, Windows


@dataclass
class TextBatch(TokenBatch):
    """Tokens of text and what follows each of them.

    Args:
        per_byte: scored tokens per UTF-8 byte of the text that is evaluated.
        per_word: scored tokens per word.
        exact: the targets of a row are one answer, right only as a whole.
        scored: which of the batch's tokens, row after row, have a target, [N] int64; None where most of them do.
    """

    per_byte: float = float("nan")
    per_word: float = float("nan")
    exact: bool = False
    scored: Tensor | None = None


class TextWindows(Windows):
    """Windows of a tokenized corpus, whose batches know how long the text was before it was tokenized."""

    def __getitem__(self, index: Step | Tensor) -> TextBatch:
        """The pieces of a training step, or whole windows [B] of one piece in evaluation."""
        scored = max(len(self.tokens.ids) - len(self.tokens.starts), 1)  # the ends of documents are no text
        per_byte = scored / max(self.tokens.bytes, 1)
        per_word = scored / max(self.tokens.words, 1)
        return TextBatch(**vars(super().__getitem__(index)), per_byte=per_byte, per_word=per_word)
