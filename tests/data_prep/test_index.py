"""An index that is damaged, crafted or of another version is one line."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from app.reading import Unreadable
from data_prep.index import INDEX, read_index, write_index

COUNTS = {"tokens": 9, "documents": 2, "bytes": 7, "words": 2, "starts": [0, 4], "sha256": "abc"}
GOOD = {
    "made_from": {"corpus": "c", "end_token": None, "files": {"train": [["c/train.txt", 7, 1, "abc"]]}},
    "tokenizer": {"sha256": "def", "vocabulary": 257, "end": 256},
    "dtype": "uint16",
    "parts": {"train": COUNTS},
}


def changed(*keys: str, to: Any) -> dict:
    index = copy.deepcopy(GOOD)
    part = index
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    return index


def test_an_index_comes_back(tmp_path: Path) -> None:
    write_index(tmp_path, GOOD)
    read = read_index(tmp_path)
    assert {key: read[key] for key in GOOD} == GOOD and [file.name for file in tmp_path.iterdir()] == [INDEX]


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    write_index(tmp_path, GOOD)
    content = (tmp_path / INDEX).read_bytes()
    for at in range(len(content)):
        for bit in range(0, 8, 3):
            (tmp_path / INDEX).write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            with pytest.raises(Unreadable, match=INDEX):
                read_index(tmp_path)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (changed("dtype", to="object"), "dtype is 'object', not uint16 or uint32"),
        (changed("dtype", to=None), "dtype is 'None'"),
        (changed("tokenizer", to=[]), "TypeError list indices"),
        (changed("tokenizer", to={"sha256": "x"}), "KeyError 'vocabulary'"),
        (changed("tokenizer", "vocabulary", to=0), "tokenizer.vocabulary is '0', not a number of at least 1"),
        (changed("tokenizer", "vocabulary", to=True), "tokenizer.vocabulary is 'True'"),
        (changed("tokenizer", "end", to=257), "tokenizer.end is outside the vocabulary"),
        (changed("parts", to={"../x": COUNTS}), "its parts are ../x"),
        (changed("parts", "train", "tokens", to=-1), "train.tokens is '-1'"),
        (changed("parts", "train", "bytes", to=1.5), "train.bytes is '1.5'"),
        (changed("parts", "train", "starts", to=[0, "4"]), "train.starts is no list of numbers"),
        (changed("parts", "train", "starts", to=[4, 0]), "train.starts are not the places of 2 documents in 9 tokens"),
        (changed("parts", "train", "starts", to=[0, 9]), "train.starts are not the places of 2 documents"),
        (changed("parts", "train", "starts", to=[0, 10**30]), "train.starts are not the places|too large"),
        (changed("made_from", "corpus", to=5), "made_from.corpus or tokenizer.sha256 is no text"),
        (changed("made_from", "end_token", to=5), "made_from.end_token is no text"),
        (changed("made_from", to={"corpus": "c"}), "KeyError 'end_token'"),
        (changed("made_from", "files", to={"train": [["c", 7, 1]]}), "made_from.files are not names, sizes"),
        (changed("made_from", "files", to={"train": "abcd"}), "made_from.files are not names, sizes"),
    ],
)
def test_what_no_index_can_say_is_refused(tmp_path: Path, index: dict, says: str) -> None:
    write_index(tmp_path, index)
    with pytest.raises(Unreadable, match=f"{INDEX}: .*({says}).*; delete {tmp_path} and prepare the corpus again"):
        read_index(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", "5", "null", json.dumps(GOOD)])
def test_an_index_without_its_seal_is_of_another_version(tmp_path: Path, content: str) -> None:
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(Unreadable, match="damaged, or of another version; delete"):
        read_index(tmp_path)
