"""A corpus or a tokenizer that cannot be read ends the command in one line, which names the place."""

import bz2
import codecs
import lzma
from pathlib import Path

import pytest

from data_prep import public
from data_prep.__main__ import main
from data_prep.files import DownloadError
from data_prep.tokenizer import load
from tests.data_prep.corpus import gz, write, zstd


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train.txt", b"", "the corpus is empty"),
        ("train.txt", b"caf\xe9 au lait", "train.txt line 1: byte 3 is not UTF-8"),
        ("train.txt", "é\n".encode() * 99999 + b"a\xff", "train.txt line 100000: byte 299998 is not UTF-8"),
        ("train.txt", codecs.BOM_UTF8 + b"a\nb\xff", "train.txt line 2: byte 6 is not UTF-8"),
        ("train.txt", "é".encode()[:1], "train.txt line 1: byte 0 is not UTF-8 (unexpected end of data)"),
        ("train.jsonl", b'{"text": "a"}\n\n{"text": "\xff"}', "train.jsonl line 3: byte 25 is not UTF-8"),
        ("train.jsonl", b'{"text": "a"}\n{"text": ', "train.jsonl line 2: not JSON (Expecting value at character 10)"),
        ("train.jsonl", b'{"text": "a"}\n' + b"[" * 99999, "train.jsonl line 2: not JSON that can be read (maxim"),
        ("train.jsonl", b"9" * 9999, "train.jsonl line 1: not JSON that can be read (Exceeds the limit"),
        ("train.jsonl", b'{"title": "a"}', "train.jsonl line 1: no field text, content, story, document among title;"),
        ("train.jsonl", b"7", "train.jsonl line 1: the text is a number; write one string a row"),
        ("train.jsonl", b'{"text": ["a", "b"]}', "train.jsonl line 1: the text is a list; write one string a row"),
        ("train.jsonl", b'["a", "b"]', "train.jsonl line 1: the text is a list; write one string a row"),
        ("train.parquet", b"PAR1" * 9, "train.parquet: not a parquet file that can be read"),
        ("train.txt.xz", lzma.compress(b"abc" * 999)[:40], "train.txt.xz: not a .xz file that can be read"),
        ("train.txt.bz2", b"abc" * 99, "train.txt.bz2: not a .bz2 file that can be read"),
        ("train.txt.gz", gz(b"")[:12] + b"x" * 40, "train.txt.gz: not a .gz file that can be read"),
        ("train.txt.gz", b"", "train.txt.gz: not a .gz file that can be read (it ends early)"),
        ("train.txt.gz", gz(b"a") + b"\0" + gz(b"b"), "train.txt.gz: not a .gz file"),
        ("train.txt.bz2", bz2.compress(b"a") + b"x" + bz2.compress(b"b"), "train.txt.bz2: not a .bz2 file"),
        ("train.txt.zst", b"", "train.txt.zst: not a .zst file that can be read (it ends early)"),
        ("train.txt.zst", zstd(b"a" * 999)[:-1], "train.txt.zst: not a .zst file that can be read"),
        ("train.pdf", b"abc", "no txt, jsonl or parquet file is there"),
    ],
)
def test_bad_corpora_end_in_one_line(
    root: Path, name: str, content: bytes, says: str, capsys: pytest.CaptureFixture
) -> None:
    (root / "c").mkdir()
    (root / "c" / name).write_bytes(content)
    assert main(["text", "--corpus", "c", "--tokenizer", "byte", "--workers", "1"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and says in error[0]


def offline(*_: object, **__: object) -> Path:
    raise DownloadError("no network")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bpe-8", "N of at least 257"),
        ("nope.json", "there is no file nope.json"),
        ("gpt2", f"no network; or put {public.TIKTOKEN}/encoder.json there as "),
    ],
)
def test_bad_tokenizers_end_in_one_line(
    root: Path, name: str, says: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public, "download", offline)
    write(root / "c", "train.txt", ["abc"])
    assert main(["text", "--corpus", "c", "--tokenizer", name]) == 2
    assert says in capsys.readouterr().err
    Path("broken.json").write_text("{}")
    with pytest.raises(ValueError, match=r"broken.json: not a tokenizer"):
        load("broken.json")
