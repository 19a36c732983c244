"""Token bins on disk as arrays."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from app.reading import reading
from app.tokens import Bin, Tokens
from data_prep.index import file_sha256, read_index
from data_prep.tokenizer import from_json


@dataclass
class TextTokens(Tokens):
    """One part of a tokenized corpus.

    Args:
        bytes: UTF-8 bytes of the text.
        words: words of the text.
    """

    bytes: int = 0
    words: int = 0


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a prepared corpus.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it cannot be read.
    """
    path = folder / "tokenizer.json"
    with reading(path, "a tokenizer", f"delete {folder} and prepare the corpus again"):
        return from_json(path.read_text(encoding="utf-8"))


def read_tokens(folder: Path) -> tuple[dict[str, TextTokens], dict]:
    """Parts of a prepared corpus, which stay on disk, and its index; every byte is checked once (some 1 GB/s).

    Raises:
        FileNotFoundError: a bin or the index is missing.
        ValueError: a bin is not the one that the index was written for, or the index cannot be read.
    """
    index = read_index(folder)
    dtype = np.dtype(index["dtype"]).newbyteorder("<")
    tokens = {}
    for part, counts in index["parts"].items():
        path = folder / f"{part}.bin"
        with reading(path, "a bin of tokens", f"delete {folder} and prepare the corpus again") as at:
            size = path.stat().st_size
            expected = counts["tokens"] * dtype.itemsize
            if size != expected:
                raise at.error(f"{size} bytes where the index says {expected}; it was cut or altered")
            if file_sha256(path) != counts["sha256"]:
                raise at.error("its checksum is not that of the index; it was altered or damaged")
            ids = Bin(path, dtype)
        starts = np.array(counts["starts"], np.int64)
        vocabulary = index["tokenizer"]["vocabulary"]
        counted = {name: counts[name] for name in ("sha256", "bytes", "words")}
        tokens[part] = TextTokens(ids, starts, vocabulary, str(path), **counted)
    return tokens, index
