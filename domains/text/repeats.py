"""Far repeats: rare words that a document has used before, but too long ago for a window to know.

A word is a run of letters, digits and underscores that begins with none of the digits. It is rare if the training text
has it at most five times in a million words. A mean over all tokens would dilute what these show by fifty.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from app.tokens import Tokens
from data_prep.tokenizer import end_id, token_bytes

RARE = 5e-6  # largest share of the training words that a rare word has
WORD = re.compile(r"\b[^\W\d]\w*")
CHUNK = 1 << 22  # training tokens that are decoded to text at a time


@dataclass
class Words:
    """The words of a document.

    Args:
        texts: each as it stands there.
        first: token that its first byte lies in, [words].
        last: token that its last byte lies in, [words].
    """

    texts: list[str]
    first: np.ndarray
    last: np.ndarray


class Text:
    """Tokens back to words.

    Args:
        tokenizer: a byte-level one, so that every token is a string of bytes.

    Raises:
        ValueError: it is not byte-level.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.pieces = token_bytes(tokenizer)
        self.pieces[end_id(tokenizer)] = b"\n"  # so that the words of two documents do not meet
        self.sizes = np.array([len(piece) for piece in self.pieces])

    def bytes(self, ids: np.ndarray) -> bytes:
        """The bytes that ids stand for."""
        return b"".join(map(self.pieces.__getitem__, ids.tolist()))

    def words(self, document: np.ndarray) -> Words:
        """The words of a document, which may end within a character."""
        content = self.bytes(document)
        matches = [*WORD.finditer(content.decode(errors="ignore"))]
        # The place of each character's first byte: in UTF-8 the others are 0b10xxxxxx.
        places = np.flatnonzero((np.frombuffer(content, np.uint8) & 0xC0) != 0x80)
        places = np.append(places, len(content))
        begins = places[np.array([match.start() for match in matches], np.int64)]
        stops = places[np.array([match.end() for match in matches], np.int64)]
        ends = self.sizes[document].cumsum()
        first = np.searchsorted(ends, begins, side="right")
        last = np.searchsorted(ends, stops - 1, side="right")
        return Words([match.group() for match in matches], first, last)


def training_counts(train: Tokens, tokenizer: Tokenizer, wanted: set[str], cache: Path) -> tuple[dict[str, int], int]:
    """How often the training text has each wanted word, and how many words it has.

    Args:
        train: the training part.
        tokenizer: what made its tokens.
        wanted: words that may be asked for.
        cache: file that holds the answer after the first call; it must belong to this text and these words.
    """
    if cache.is_file():
        counts, total = json.loads(cache.read_text())
        return counts, total
    text = Text(tokenizer)
    counts: Counter = Counter()
    total = 0
    edges = np.r_[train.starts, len(train.ids)]  # a chunk ends where a document does
    edges = np.unique(edges[np.searchsorted(edges, np.arange(0, len(train.ids) + CHUNK, CHUNK).clip(max=edges[-1]))])
    for start, end in zip(edges, edges[1:], strict=False):
        words = WORD.findall(text.bytes(train.read(np.arange(start, end))).decode(errors="ignore"))
        total += len(words)
        counts.update(filter(wanted.__contains__, words))
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(f".{os.getpid()}.part")  # other processes may write the same file
    partial.write_text(json.dumps([counts, total]))
    partial.replace(cache)
    return dict(counts), total


def far_repeats(words: Words, rare: Sequence[bool], tokens: int, far: int, period: int) -> np.ndarray:
    """Which tokens of a document but the first belong to a far repeat, [tokens - 1] bool.

    A word's last use is far if it ended `far` tokens or more before it, and before the last multiple of `period`, so
    that a state which is reset there cannot know it.

    Args:
        words: the document's words.
        rare: which of them are rare.
        tokens: length of the document.
        far: least distance.
        period: tokens between two resets, the first of them before the first predicted token.
    """
    marks = np.zeros(tokens + 1, np.int64)  # +1 where a repeat begins and -1 behind it: their sum counts repeats
    seen: dict[str, int] = {}
    for word, is_rare, first, last in zip(words.texts, rare, words.first.tolist(), words.last.tolist(), strict=True):
        if is_rare:
            before = seen.get(word)
            # token t is predicted from the inputs up to t - 1, of which a reset state knows those since this place
            reset = (first - 1) // period * period
            if before is not None and first - before >= far and before < reset:
                marks[first] += 1
                marks[last + 1] -= 1
            seen[word] = last
    return marks[1:tokens].cumsum() > 0
