"""A corpus becomes bins: every byte comes back, whatever the tokenizer, or where the command was cut."""

import json
import lzma
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_prep import text as prep
from data_prep.files import data_root
from data_prep.index import read_index
from tests.data_prep.corpus import STORIES, read, write

REAL = data_root() / "text"


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


def test_what_was_left_out_is_said_and_kept(root: Path, capsys: pytest.CaptureFixture) -> None:
    (root / "c").mkdir()
    (root / "c" / "train.jsonl").write_text('"a story"\nnull\nnull\n')
    (root / "c" / "notes.pdf").write_text("no text")
    folder = prep.prepare("c", "byte", workers=1)
    said = capsys.readouterr().err
    assert "c: left out: 2 rows whose text is null; 1 file of other kinds (notes.pdf)" in said
    assert json.loads((folder / "index.json").read_text())["left_out"] == {"rows whose text is null": 2}


def test_a_cut_command_goes_on_where_it_stopped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "valid"):
        write(root / "c", f"{part}.jsonl", [f"{part} story number {i}" for i in range(40)])
    straight = prep.prepare("c", "bpe-300", Path("straight"), workers=1)
    monkeypatch.setattr(prep, "JOB", 100)
    whole = prep._join
    # A command that is stopped after all its jobs.
    monkeypatch.setattr(prep, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
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


@pytest.mark.skipif(not (REAL / "wikitext-2").is_dir(), reason="needs WikiText-2")
def test_wikitext_2_has_its_published_counts(root: Path) -> None:
    # The train part, tokenized as bytes, takes half a minute.
    for part, name in (("train", "test"), ("valid", "valid")):
        write(root / "data/text/wikitext-2", f"wiki.{part}.tokens", [])
        path = REAL / "wikitext-2" / f"wiki.{name}.tokens.xz"
        (root / f"data/text/wikitext-2/wiki.{part}.tokens").write_bytes(lzma.decompress(path.read_bytes()))
    folder = prep.prepare("wikitext-2", "byte", workers=2)
    words = {part: json.loads((folder / "index.json").read_text())["parts"][part]["words"] for part in ("train", "val")}
    assert words == {"train": 245_569, "val": 217_646}
