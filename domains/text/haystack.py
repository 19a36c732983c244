"""Sentences of books as tokens: what needles and facts are hidden in."""

import hashlib
import json
import os
import re
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from app.reading import reading
from data_prep import corpora
from data_prep.files import data_root
from data_prep.tokenizer import sha256

# Characters that Punkt reads at a time. NLTK gives up a search after five seconds of the clock, which is little where
# others keep the machine busy; this takes a hundredth of a second.
PIECE = 30_000


def following(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """Ids of texts as they are behind other text: no token or space that only begins a text."""
    before = len(tokenizer.encode(".", add_special_tokens=False).ids)
    encoded = tokenizer.encode_batch([f".{text}" for text in texts], add_special_tokens=False)
    return [np.array(e.ids[before:], np.int64) for e in encoded]


class Haystack:
    """The sentences of one part of a corpus, in order, tokenized once and kept in the data folder.

    Sentences are those of NLTK's untrained Punkt, which needs no download.

    Args:
        corpus: a corpus that `data_prep text` knows.
        part: `train` for training, `val` for what was never trained on.
        tokenizer: what turns the sentences into ids.
        characters: how much of the part is read.
        shortest: sentences with fewer tokens are left out.
        collapse: make any white space one space, as RULER does.
    """

    def __init__(
        self,
        corpus: str,
        part: str,
        tokenizer: Tokenizer,
        characters: int = 16_000_000,
        shortest: int = 1,
        collapse: bool = True,
    ) -> None:
        self.corpus = corpus
        self.part = part
        self.tokenizer = tokenizer
        self.characters = characters
        self.shortest = shortest
        self.collapse = collapse

    @cached_property
    def _files(self) -> list[Path]:
        """The part's files.

        Raises:
            FileNotFoundError: there is no such corpus.
            ValueError: it has no such part.
        """
        files = corpora.find(self.corpus)[self.part]
        if not files:
            raise ValueError(f"{self.corpus}: no {self.part} part to hide needles in; add files named {self.part}*")
        return files

    @cached_property
    def text(self) -> str:
        """The text itself, books one after another."""
        pieces = []
        left = self.characters
        for piece in (text for path in self._files for text, _ in corpora.documents(path)):
            pieces.append(piece[:left])
            left -= len(piece)
            if left <= 0:
                break
        text = "\n".join(pieces)
        return re.sub(r"\s+", " ", text).strip() if self.collapse else text

    @cached_property
    def key(self) -> str:
        """A short name for what depends on these sentences: other files or another tokenizer give another."""
        files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self._files]
        made_from = (files, self.characters, self.shortest, self.collapse, sha256(self.tokenizer))
        return f"{Path(self.corpus).name}-{self.part}-{hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]}"

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        path = data_root() / "text" / "tokens" / "haystack" / f"{self.key}.npz"
        if path.is_file():
            with reading(path, "tokens of a haystack", "delete it") as at, np.load(path) as stored:
                ids = stored["ids"]
                starts = stored["starts"]
                if ids.dtype != np.uint32 or starts.ndim != 1 or starts[-1] != len(ids) or (np.diff(starts) < 0).any():
                    raise at.error("not tokens and where sentences start")
                return ids, starts
        ids = [i for i in following(self.tokenizer, [f" {s}" for s in sentences(self.text)]) if len(i) >= self.shortest]
        sizes = np.array([len(i) for i in ids])
        arrays = np.concatenate(ids).astype(np.uint32), np.concatenate([[0], sizes.cumsum()])
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")  # other processes may write the same file
        with partial.open("wb") as file:
            np.savez(file, ids=arrays[0], starts=arrays[1])
        partial.replace(path)
        return arrays

    @property
    def ids(self) -> np.ndarray:
        """Tokens of all sentences, [N]."""
        return self._arrays[0]

    @property
    def starts(self) -> np.ndarray:
        """Where sentences start, [sentences + 1], the end included."""
        return self._arrays[1]

    def draw(self, tokens: int, generator: np.random.Generator, whole: bool) -> tuple[np.ndarray, np.ndarray]:
        """Consecutive sentences from a random one on, `tokens` long at most, or exactly with the last one cut.

        Args:
            tokens: how many.
            generator: draws where they start.
            whole: leave a last sentence out that does not fit, in place of cutting it.

        Returns:
            ids [at most tokens], and where sentences start in them, the end included.

        Raises:
            ValueError: the haystack is shorter than that.
        """
        if len(self.ids) < tokens:
            raise ValueError(
                f"{self.corpus}, {self.part}: {len(self.ids):,} tokens of haystack, {tokens:,} are needed; bring more"
            )
        last = int(np.searchsorted(self.starts, len(self.ids) - tokens, side="right"))
        first = int(generator.integers(last))
        start = self.starts[first]
        end = first + int(np.searchsorted(self.starts[first:], start + tokens, side="right")) - 1
        stops = self.starts[first : end + 1] - start
        if not whole and stops[-1] < tokens:
            stops = np.append(stops, tokens)
        return self.ids[start : start + stops[-1]].astype(np.int64), stops


def sentences(text: str) -> list[str]:
    """Sentences of a text by NLTK's untrained Punkt; one of more than PIECE characters may be cut.

    Raises:
        ValueError: NLTK is not installed.
    """
    try:
        from nltk import PunktSentenceTokenizer
    except ImportError as error:
        raise ValueError("sentences need NLTK: pip install -e '.[longcontext]'") from error
    punkt = PunktSentenceTokenizer()
    result = []
    start = 0
    while True:
        spans = list(punkt.span_tokenize(text[start : start + PIECE]))
        more = start + PIECE < len(text)
        # A piece may end inside its last sentence, so the next piece begins with that sentence.
        last = spans.pop()[0] if more and len(spans) > 1 else PIECE
        result += [text[start + first : start + end] for first, end in spans]
        if not more:
            return result
        start += last
