"""Files of a corpus are read as they are: each text once and whole, whatever stands around it."""

import bz2
import codecs
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from data_prep.corpora import documents, find
from data_prep.tokenizer import load
from tests.data_prep.corpus import STORIES, gz, write, zstd


def test_a_parts_name_is_read_from_the_file(root: Path) -> None:
    for name in ("wiki.test.tokens", "valid.jsonl", "train_00.jsonl", "train_01.jsonl", "train2.jsonl"):
        write(root / "c", name, ["a"])
    assert {part: len(files) for part, files in find("c").items()} == {"train": 3, "val": 1, "test": 1}
    write(root / "c", "testimony.txt", ["a"])
    with pytest.raises(ValueError, match="testimony.txt: part unknown"):
        find("c")


@pytest.mark.parametrize(
    ("name", "content", "texts", "left"),
    [
        ("a.txt", codecs.BOM_UTF8 + "é\r\n".encode(), ["é\r\n"], {}),
        ("a.txt", codecs.BOM_UTF8, [], {"files without a character": 1}),
        ("a.jsonl", codecs.BOM_UTF8 + b'{"text": "a"}', ["a"], {}),
        ("a.jsonl", b'{"text": null, "content": "x"}\n"a"\nnull', ["a"], {"rows whose text is null": 2}),
        ("a.jsonl", b'{"text": ""}\n{"story": "a"}\n', ["a"], {"rows whose text is empty": 1}),
        ("a.jsonl", b'"\\ud800a\\ud83d\\ude00"', ["\ufffda\U0001f600"], {"halves of surrogates, read as U+FFFD": 1}),
        ("a.txt.gz", gz(b"a ") + gz(b"b"), ["a b"], {}),
        ("a.txt.bz2", bz2.compress(b"a ") + bz2.compress(b"b"), ["a b"], {}),
        ("a.txt.zst", zstd(b"a ") + zstd(b"b"), ["a b"], {}),
    ],
)
def test_what_is_left_out_is_counted(root: Path, name: str, content: bytes, texts: list[str], left: dict) -> None:
    counted = Counter()
    (root / name).write_bytes(content)
    assert [text for text, _ in documents(root / name, counted)] == texts
    assert +counted == left


def test_a_column_is_text_or_refused(root: Path) -> None:
    for column in ([None, "a", ""], pyarrow.array(["a"]).dictionary_encode()):
        parquet.write_table(pyarrow.table({"text": column}), root / "a.parquet")
        assert [text for text, _ in documents(root / "a.parquet")] == ["a"]
    for column in ([1], [["a"]], [b"a"]):
        parquet.write_table(pyarrow.table({"text": column}), root / "a.parquet")
        with pytest.raises(ValueError, match="a.parquet: column text holds .*, no text; write one string a row"):
            list(documents(root / "a.parquet"))


def test_lines_and_pieces_do_not_depend_on_the_blocks_of_a_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(root, "a.jsonl", STORIES * 3)
    (root / "a.txt").write_text("".join(STORIES))
    for size in (1, 2, 3, 7, 1000):
        monkeypatch.setattr("data_prep.unpack.BLOCK", size)
        assert [text for text, _ in documents(path)] == STORIES * 3
        assert [text for text, _ in documents(root / "a.txt")] == ["".join(STORIES)]


def test_a_long_text_is_cut_where_no_token_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = "".join(np.random.default_rng(0).choice(list("ab,\n    "), 5000))
    path = write(root / "c", "train.txt", [story])
    whole = load("bpe-300", [story]).encode(story).ids
    monkeypatch.setattr("data_prep.corpora.PIECE", 700)
    pieces = list(documents(path))
    assert len(pieces) > 5 and [first for _, first in pieces] == [True] + [False] * (len(pieces) - 1)
    tokenizer = load("bpe-300", [story])
    assert [i for text, _ in pieces for i in tokenizer.encode(text).ids] == whole


def test_a_long_text_without_spaces_is_cut_all_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.corpora.PIECE", 700)
    pieces = list(documents(write(root / "c", "train.txt", ["記憶" * 1000])))
    assert "".join(text for text, _ in pieces) == "記憶" * 1000
    assert [first for _, first in pieces] == [True, False, False] and max(len(text) for text, _ in pieces) == 700
