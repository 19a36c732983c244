"""The index of prepared tokens: what stands in the bins beside it, sealed with checksums and looked at once, whole."""

import hashlib
import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from app.reading import Reading, reading

INDEX = "index.json"
VERSION = 2  # number of the layout; tokens of another layout are prepared anew
DTYPES = ("uint16", "uint32")


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """Write the index of a folder, with its own checksum; it appears whole or not at all."""
    partial = folder / (INDEX + ".part")
    partial.write_text(json.dumps({**index, "sha256": _checksum(index)}))
    partial.replace(folder / INDEX)


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a folder.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: it is damaged, of another version, or says what no index can.
    """
    path = folder / INDEX
    with reading(path, "an index of tokens", f"delete {folder} and prepare the corpus again") as at:
        index = json.loads(path.read_bytes())
        if not isinstance(index, dict) or index.get("sha256") != _checksum(index):
            raise at.error("damaged, or of another version")
        _check(index, at)
    return index


def file_sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(index: dict[str, Any]) -> str:
    """Checksum of everything in an index but the checksum itself."""
    said = {key: value for key, value in index.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _check(index: dict[str, Any], at: Reading) -> None:
    """Refuse what has another type or size than any index that we write; keys that are missing raise KeyError."""

    def counted(value: Any, name: str, least: int = 0) -> int:
        if type(value) is not int or value < least:
            raise at.error(f"{name} is {str(value)[:50]!r}, not a number of at least {least}")
        return value

    if index["dtype"] not in DTYPES:
        raise at.error(f"dtype is {str(index['dtype'])[:50]!r}, not {' or '.join(DTYPES)}")
    made_from = index["made_from"]
    if not isinstance(made_from["corpus"], str) or not isinstance(index["tokenizer"]["sha256"], str):
        raise at.error("made_from.corpus or tokenizer.sha256 is no text")
    if not isinstance(made_from["end_token"], str | None):
        raise at.error("made_from.end_token is no text")
    for known in chain.from_iterable(made_from["files"].values()):
        if not isinstance(known, list) or [type(value) for value in known] != [str, int, int, str]:
            raise at.error("made_from.files are not names, sizes, times and checksums")
    vocabulary = counted(index["tokenizer"]["vocabulary"], "tokenizer.vocabulary", least=1)
    if counted(index["tokenizer"]["end"], "tokenizer.end") >= vocabulary:
        raise at.error("tokenizer.end is outside the vocabulary")
    if not {*index["parts"]} <= {"train", "val", "test"}:
        raise at.error(f"its parts are {', '.join(index['parts'])[:50]}")
    for part, counts in index["parts"].items():
        tokens = counted(counts["tokens"], f"{part}.tokens", least=1)
        for name in ("documents", "bytes", "words"):
            counted(counts[name], f"{part}.{name}")
        starts = counts["starts"]
        if not isinstance(starts, list) or any(type(start) is not int for start in starts):
            raise at.error(f"{part}.starts is no list of numbers")
        places = np.array([-1, *starts, tokens])
        if len(starts) != counts["documents"] or (np.diff(places) <= 0).any():
            raise at.error(f"{part}.starts are not the places of {counts['documents']} documents in {tokens} tokens")
