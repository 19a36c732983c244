"""Token bins on disk as arrays."""

import json
from pathlib import Path

import numpy as np

from app.tokens import Tokens
from data_prep.text import INDEX


def read_tokens(folder: Path) -> tuple[dict[str, Tokens], dict]:
    """Parts of a prepared corpus, memory-mapped, and its index.

    Raises:
        ValueError: a bin has not the size that the index says, or the index cannot be read.
    """
    try:
        index = json.loads((folder / INDEX).read_text())
        vocabulary, dtype = index["tokenizer"]["vocabulary"], np.dtype(index["dtype"]).newbyteorder("<")
        parts = index["parts"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / INDEX}: damaged ({error}); delete it and prepare the corpus again") from error
    tokens = {}
    for part, counts in parts.items():
        path = folder / f"{part}.bin"
        size, expected = path.stat().st_size, counts["tokens"] * dtype.itemsize
        if size != expected:
            raise ValueError(
                f"{path}: {size} bytes where the index says {expected}; it was cut or altered: delete {folder} and "
                "prepare the corpus again"
            )
        ids = np.memmap(path, dtype, "r")
        starts = np.array(counts["starts"], np.int64)
        tokens[part] = Tokens(ids, starts, counts["bytes"], counts["words"], vocabulary, str(path))
    return tokens, index
