"""From tokens back to text while they come."""

from collections.abc import Sequence

from tokenizers import Tokenizer

AROUND = 64  # tokens before a text that say how its first ones read; a character is far fewer


class Detokenizer:
    """The text of tokens as they come, whole characters only; special tokens have none.

    What a token reads as may depend on those before it: SentencePiece's first word has no blank, and a character may
    have a token for each of its bytes. So each is decoded together with the last ones that made a text. The library's
    own `DecodeStream` raises where bytes that are no character follow those of one, which a model may always write.

    Args:
        tokenizer: to decode with.
        before: ids that stand before the text, of which nothing is handed out.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.ids = [*before[-AROUND:]]
        self.known = len(self.ids)  # tokens of `ids` whose text was handed out

    def more(self, token: int) -> str:
        """The text that is known with one token more; nothing within a character."""
        self.ids.append(token)
        before = self.tokenizer.decode(self.ids[: self.known])
        text = self.tokenizer.decode(self.ids)
        if len(text) <= len(before) or text.endswith("\ufffd"):
            return ""
        del self.ids[: self.known]
        self.known = len(self.ids)
        return text[len(before) :]
