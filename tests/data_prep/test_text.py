"""A corpus becomes bins: every byte comes back, whatever the file, the tokenizer, or where the command was cut."""

import bz2
import codecs
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer

from data_prep import public, source_code
from data_prep import text as prep
from data_prep.__main__ import main
from data_prep.corpora import documents, find
from data_prep.files import LOCK, DownloadError, data_root
from data_prep.index import read_index
from data_prep.tokenizer import end_id, load, sha256

STORIES = ["Ada went to the mill.\n", "Ünïcödé ☃ and \t tabs.\n\n\n  Spaces  end. ", 'He said "no".']
REAL = data_root() / "text"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TITANS_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def gz(content: bytes) -> bytes:
    return gzip.compress(
        content, mtime=0
    )  # without the time in it, which would give a test another name in each process of pytest-xdist


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    return sink.getvalue().to_pybytes()


def write(folder: Path, name: str, stories: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    lines = [json.dumps({"text": story}) + "\n" for story in stories]
    content = "".join(lines if "jsonl" in name.lower() else stories)
    opener = {".xz": lzma.open, ".bz2": bz2.open, ".gz": gzip.open}.get(path.suffix.lower(), open)
    if path.suffix == ".zst":
        path.write_bytes(zstd(content.encode()))
        return path
    if path.suffix.lower() == ".parquet":
        parquet.write_table(pyarrow.table({"text": stories}), path)
        return path
    with opener(path, "wt", encoding="utf-8", newline="\n") as file:
        file.write(content)
    return path


def read(folder: Path, part: str) -> tuple[list[str], dict]:
    """The documents of a bin, decoded, and the part's entry in the index."""
    index = json.loads((folder / "index.json").read_text())
    ids = np.fromfile(folder / f"{part}.bin", index["dtype"])
    counts, tokenizer = index["parts"][part], Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert len(ids) == counts["tokens"] and (ids[counts["starts"]] == index["tokenizer"]["end"]).all()
    pieces = np.split(ids, counts["starts"])[1:]
    return [tokenizer.decode(piece[1:].tolist()) for piece in pieces], counts


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.bz2", "x.JSONL.GZ", "x.jsonl.zst", "X.Parquet"])
def test_every_document_comes_back(root: Path, name: str) -> None:
    for part in ("train", "valid", "test"):
        write(root / "c", name.replace("x", part).replace("X", part.upper()), STORIES)
    folder = prep.prepare("c", "byte", workers=1)
    for part in ("train", "val", "test"):
        texts, counts = read(folder, part)
        assert texts == STORIES
        assert counts["bytes"] == sum(len(s.encode()) for s in STORIES) == counts["tokens"] - 3
        assert counts["words"] == sum(len(s.split()) for s in STORIES)


@pytest.mark.parametrize("name", ["input.txt", "input.txt.xz"])
def test_one_text_gives_its_last_tenth_to_validation(root: Path, name: str) -> None:
    story = "The quick brown fox. " * 50
    write(root / "c", name, [story])
    folder = prep.prepare("c", "byte", workers=1)
    assert "".join(read(folder, "train")[0] + read(folder, "val")[0]) == story
    assert read(folder, "train")[1]["bytes"] == 945


def test_of_many_documents_every_tenth_is_for_validation(root: Path) -> None:
    stories = [f"story {i}" for i in range(25)]
    write(root / "c", "all.jsonl", stories)
    folder = prep.prepare("c", "byte", workers=1)
    assert read(folder, "val")[0] == ["story 9", "story 19"]
    assert read(folder, "train")[0] == [s for i, s in enumerate(stories) if i not in (9, 19)]


def test_novels_share_their_held_out_books_between_validation_and_test(root: Path) -> None:
    text = root / "data" / "text"
    write(text / "novels", "train_00.jsonl", ["novel 0", "novel 1"])
    write(text / "books", "train_00.jsonl", ["book 0", "book 1"])
    write(text / "books", "valid.jsonl", [f"held out {i}" for i in range(5)])
    folder = prep.prepare("novels", "byte", workers=1)
    assert read(folder, "train")[0] == ["novel 0", "novel 1", "book 0", "book 1"]
    assert read(folder, "val")[0] == ["held out 0", "held out 2", "held out 4"]
    assert read(folder, "test")[0] == ["held out 1", "held out 3"]


def test_training_text_can_be_cut_behind_a_document(root: Path) -> None:
    write(root / "c", "train.jsonl", ["a" * 30, "b" * 30, "c" * 30])
    write(root / "c", "valid.jsonl", ["d" * 99])
    whole = prep.prepare("c", "byte", Path("whole"), workers=1)
    cut = prep.prepare("c", "byte", Path("cut"), workers=1, characters=31)
    assert read(cut, "train")[0] == read(whole, "train")[0][:2] and read(cut, "val") == read(whole, "val")


def test_code_is_made_of_installed_packages(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_code, "DOCUMENT", (400, 1000))
    packages = {"train": ("known",), "valid": ("held",), "test": ("other",)}

    def module(path: str, letter: str, size: int = 300) -> None:
        file = root / "site" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{letter} = 1\n" * (size // 6))

    for name in "abcdef":
        module(f"known/{name}.py", name)
    module("known/small/g.py", "g")  # alone in its folder, which is too small for a document
    module("known/_vendor/h.py", "h", 900)  # code of another project
    module("held/a.py", "a", 300)  # a copy of a training file
    module("held/i.py", "i", 900)
    module("other/j.py", "j", 100)  # too short to be taken
    with pytest.raises(FileNotFoundError, match=r"other2 not installed"):
        source_code.write(root / "out", {**packages, "test": ("other2",)}, root / "site")
    source_code.write(root / "out", packages, root / "site")
    documents = {
        part: [
            re.findall(r"^# file: (.*)$", json.loads(line)["text"], re.MULTILINE)
            for line in (root / "out" / f"{part}.jsonl").read_text().splitlines()
        ]
        for part in packages
    }
    assert sorted(documents["train"]) == [[f"known/{name}.py" for name in names] for names in ("abcd", "ef")]
    assert documents["valid"] == [["held/i.py"]] and documents["test"] == []


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


def test_what_was_left_out_is_said_and_kept(root: Path, capsys: pytest.CaptureFixture) -> None:
    (root / "c").mkdir()
    (root / "c" / "train.jsonl").write_text('"a story"\nnull\nnull\n')
    (root / "c" / "notes.pdf").write_text("no text")
    folder = prep.prepare("c", "byte", workers=1)
    said = capsys.readouterr().err
    assert "c: left out: 2 rows whose text is null; 1 file of other kinds (notes.pdf)" in said
    assert json.loads((folder / "index.json").read_text())["left_out"] == {"rows whose text is null": 2}


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


def test_a_cut_command_goes_on_where_it_stopped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "valid"):
        write(root / "c", f"{part}.jsonl", [f"{part} story number {i}" for i in range(40)])
    straight = prep.prepare("c", "bpe-300", Path("straight"), workers=1)
    monkeypatch.setattr(prep, "JOB", 100)
    whole = prep._join
    monkeypatch.setattr(
        prep, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )  # a command that is stopped after all its jobs
    with pytest.raises(KeyboardInterrupt):
        prep.prepare("c", "bpe-300", Path("cut"), workers=1)
    done = sorted(Path("cut/parts").glob("*.npz"))
    assert len(done) > 8 and not Path("cut/index.json").exists()
    for path in done[::2]:
        path.unlink()
    stamps = {path: path.stat().st_mtime_ns for path in done[1::2]}
    monkeypatch.setattr(prep, "_join", lambda *args: _unchanged(stamps) or whole(*args))
    folder = prep.prepare("c", "bpe-300", Path("cut"), workers=2)
    for part in ("train", "val"):
        assert (folder / f"{part}.bin").read_bytes() == (straight / f"{part}.bin").read_bytes()
        assert read(folder, part) == read(straight, part)
    assert not (folder / "parts").exists()


def _unchanged(stamps: dict[Path, int]) -> None:
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_processes_that_ask_at_once_prepare_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root / "c", "train.jsonl", [f"story {i}" for i in range(30)])
    made, whole = [], prep._write
    monkeypatch.setattr(prep, "_write", lambda *args: made.append(1) or whole(*args))
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(lambda _: prep.prepare("c", "byte", workers=1), range(3)))
    assert len(made) == 1 and len(set(folders)) == 1


def test_prepared_tokens_are_made_again_only_when_the_files_change(root: Path) -> None:
    write(root / "c", "train.txt", ["old text"])
    index = prep.prepare("c", "byte", workers=1) / "index.json"
    stamp = index.stat().st_mtime_ns
    assert prep.prepare("c", "byte", workers=1) / "index.json" == index and index.stat().st_mtime_ns == stamp
    os.utime(root / "c" / "train.txt", (1, 1))  # another time of change, the same checksum
    assert not prep.outdated(read_index(index.parent)["made_from"], "c")
    assert prep.prepare("c", "byte", workers=1) / "index.json" == index and index.stat().st_mtime_ns == stamp
    for text in ("new and longer text", "new but no longer: "):
        write(root / "c", "train.txt", [text])
        assert prep.outdated(read_index(index.parent)["made_from"], "c")
        prep.prepare("c", "byte", workers=1)
        assert not prep.outdated(read_index(index.parent)["made_from"], "c")
        assert "".join(read(index.parent, "train")[0] + read(index.parent, "val")[0]) == text
    write(root / "c", "test.txt", ["one more file"])
    (root / "c" / "train.txt").rename(root / "c" / "train_all.txt")
    assert prep.outdated(read_index(index.parent)["made_from"], "c")


def test_wikitext_words_count_the_ends_of_lines(root: Path) -> None:
    write(root / "data/text/wikitext-2", "wiki.train.tokens", [" \n = A = \n \n the <unk> . \n"])
    folder = prep.prepare("wikitext-2", "byte", workers=1)
    assert sum(read(folder, part)[1]["words"] for part in ("train", "val")) == 6 + 4


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


def offline(*_: object, **__: object) -> Path:
    raise DownloadError("no network")


def test_what_has_a_name_is_fetched_or_told_how(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for part in ("train", "valid", "test"):
            archive.writestr(f"wikitext-2/wiki.{part}.tokens", " \n = A = \n")

    def served(url: str, path: Path, sha256: str | None, retries: int) -> Path:
        asked.append((url, sha256))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed.getvalue())
        return path

    monkeypatch.setattr(public, "download", served)
    text = root / "data" / "text"
    for name in ("shakespeare", "gpt2", "neox", "mistral"):
        public.fetch(name)
        assert all((text / file.path).is_file() for file in public.FILES[name])
    assert [url for url, sha256 in asked if sha256 is None] == [public.FILES["neox"][0].url]
    assert (text / "tokenizers/neox" / LOCK).is_file()
    with pytest.raises(DownloadError, match="wikitext-2-v1.zip: md5 is .*, expected 542cc.* or put what is in http"):
        public.fetch("wikitext-2")
    whole = replace(public.FILES["wikitext-2"][0], md5=hashlib.md5(packed.getvalue()).hexdigest())
    monkeypatch.setitem(public.FILES, "wikitext-2", (whole,))
    public.fetch("wikitext-2")
    assert {part: len(files) for part, files in find("wikitext-2").items()} == {"train": 1, "val": 1, "test": 1}
    assert not [*text.rglob("*.zip"), *text.rglob("*.part")]
    known = len(asked)
    for name in public.FILES:
        if name != "wikitext-103":
            public.fetch(name)
    assert len(asked) == known  # a file that is there is not downloaded again
    with pytest.raises(DownloadError, match=f"books: no server has this selection: .* into {text}/books"):
        public.fetch("books")


def test_a_byte_is_a_token() -> None:
    tokenizer = load("byte")
    text = "Ünïcödé ☃\n"
    assert tokenizer.encode(text).ids == list(text.encode()) and tokenizer.get_vocab_size() == 257
    assert end_id(tokenizer) == 256 and sha256(tokenizer) == sha256(load("byte"))


def test_a_parts_name_is_read_from_the_file(root: Path) -> None:
    for name in ("wiki.test.tokens", "valid.jsonl", "train_00.jsonl", "train_01.jsonl"):
        write(root / "c", name, ["a"])
    assert {part: len(files) for part, files in find("c").items()} == {"train": 2, "val": 1, "test": 1}
    write(root / "c", "testimony.txt", ["a"])
    with pytest.raises(ValueError, match="testimony.txt: part unknown"):
        find("c")


@pytest.mark.skipif(not (REAL / "tokenizers").is_dir(), reason="needs the tokenizer files")
def test_files_of_known_tokenizers_give_the_known_ids() -> None:
    text = "Hello  world, it's 2024!\n\n  naïve ☃ 🎉"
    gpt2 = load("gpt2", root=REAL.parent)
    assert gpt2.get_vocab_size() == 50257 and end_id(gpt2) == 50256
    assert gpt2.encode("Hello world").ids == [15496, 995] and gpt2.decode(gpt2.encode(text).ids) == text
    mistral = load("mistral", root=REAL.parent)
    assert mistral.get_vocab_size() == 32000 and end_id(mistral) == 1
    assert mistral.encode("Hello world").ids == [22557, 1526] and mistral.decode(mistral.encode(text).ids) == text
    assert load("neox", root=REAL.parent).encode("Hello world").ids == [12092, 1533]


@pytest.mark.skipif(not (REAL / "wikitext-2").is_dir(), reason="needs WikiText-2")
def test_wikitext_2_has_its_published_counts(root: Path) -> None:
    for part, name in (
        ("train", "test"),
        ("valid", "valid"),
    ):  # the train part, tokenized as bytes, takes half a minute
        write(root / "data/text/wikitext-2", f"wiki.{part}.tokens", [])
        path = REAL / "wikitext-2" / f"wiki.{name}.tokens.xz"
        (root / f"data/text/wikitext-2/wiki.{part}.tokens").write_bytes(lzma.decompress(path.read_bytes()))
    folder = prep.prepare("wikitext-2", "byte", workers=2)
    words = {part: json.loads((folder / "index.json").read_text())["parts"][part]["words"] for part in ("train", "val")}
    assert words == {"train": 245_569, "val": 217_646}
