"""Questions are asked and scored: a model that knows the answer gets it, batches and early stops change nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from app.module import TitansModule
from benchmarks.babilong import main as babilong
from benchmarks.needle import main as needle
from benchmarks.needle import matches
from benchmarks.shared.longcontext import answers, draw, kept
from benchmarks.streaming import main as streaming
from domains.text import LanguageHead
from domains.text.needle import Question
from memory import BackboneConfig, MemoryConfig
from tests.domains.text.conftest import FromSample


@pytest.fixture
def model() -> TitansModule:
    config = BackboneConfig("lmm", 16, 1, 2, memory=MemoryConfig(heads=2, chunk=4))
    module = TitansModule(LanguageHead(16, 257), config).eval()
    module.head.fit_to(FromSample())
    return module


def question(prompt: str, answer: str) -> Question:
    return Question(np.array([256, *prompt.encode()]), np.array([*f" {answer}".encode()]), answer, 0.5, prompt)


class Parrot(nn.Module):
    """In place of the backbone: the successor of a byte is the byte after it in a text."""

    def __init__(self, text: str, embedding: nn.Embedding) -> None:
        super().__init__()
        self.after = {a: b for a, b in zip(text.encode(), text.encode()[1:], strict=False)}
        self.embedding = embedding

    def forward(self, x: torch.Tensor, state: object) -> tuple[torch.Tensor, object]:
        ids = (x @ self.embedding.weight.T).argmax(-1)
        following = ids.apply_(lambda i: self.after.get(i, 256))
        return self.embedding(following), state


def test_answers_are_scored_by_what_stands_in_them(model: TitansModule) -> None:
    model.head.embedding = nn.Embedding.from_pretrained(torch.eye(320))
    model.backbone = Parrot("q 123.", model.head.embedding)
    asked = [question("q", "123"), question("xq", "999"), question("yq", "23"), question("zzq", "123")]
    found = answers(model, asked, 2, 10, matches)
    by_question = {answer.question.question: answer for answer in found}
    assert {name: answer.text for name, answer in by_question.items()} == {
        n: " 123." for n in ("q", "xq", "yq", "zzq")
    } | {
        "q": " 123",  # alone in its batch, and done
        "zzq": " 123",
    }
    assert [by_question[n].exact for n in ("q", "xq", "yq", "zzq")] == [True, False, False, True]
    assert [matches(by_question[n].text, by_question[n].question) for n in ("q", "xq", "yq")] == [True, False, True]


def test_any_batch_gives_the_same_answers(model: TitansModule) -> None:
    asked = [question(text, "x") for text in ("abc", "bcd", "wxyz", "cde", "vwxyz")]
    texts = [
        {a.question.question: a.text for a in answers(model, asked, batch, 12, lambda *_: False)} for batch in (1, 2, 8)
    ]
    assert texts[0] == texts[1] == texts[2] and len(texts[0]) == 5


def test_samples_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TITANS_DATA", str(tmp_path))
    made = kept("x", lambda: iter([question("a", "b"), question("c", "d")]))
    again = kept("x", lambda: pytest.fail("made twice"))
    assert [(q.prompt.tolist(), q.answer.tolist(), q.expected, q.depth) for q in again] == [
        (q.prompt.tolist(), q.answer.tolist(), q.expected, q.depth) for q in made
    ]


def test_the_picture_shows_lengths_and_depths(tmp_path: Path) -> None:
    draw(tmp_path / "x.png", {1024: [(0.0, True), (1.0, False)], 2048: [(0.55, True)]}, "title")
    assert (tmp_path / "x.png").stat().st_size > 5000


def test_every_command_writes_its_rows(model: TitansModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nltk")
    pytest.importorskip("wonderwords")
    from benchmarks import babilong as b
    from benchmarks import needle as n
    from benchmarks import streaming as s
    from benchmarks.shared import longcontext as shared
    from benchmarks.shared.rows import read
    from domains.text.babilong import Story
    from domains.text.sample import documents

    monkeypatch.setenv("TITANS_DATA", str(tmp_path))
    (tmp_path / "hay").mkdir()
    for part in ("train", "valid"):
        (tmp_path / "hay" / f"{part}.txt").write_text(" ".join(documents(10, 1)))
    story = Story(["Mary moved to the garden."], "Where is Mary?", "garden")
    for module in (shared, s):
        monkeypatch.setattr(module, "load_module", lambda _: model)
    monkeypatch.setattr(b, "stories", lambda *_: [story, story])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(n, "ROOM", 8)  # tokens of an answer

    def run(command, *options: str) -> list:
        monkeypatch.setattr("sys.argv", ["x", "--ckpt", "x", *options])
        command()
        name = command.__module__.rpartition(".")[2]
        return read(results / name / f"{name}.json")

    results = tmp_path / "results"
    corpus = ("--corpus", str(tmp_path / "hay"))
    rows = run(needle, "--lengths", "1024,2048", "--samples", "2", "--tasks", "niah_single_1,niah_single_3", *corpus)
    assert [row.metric for row in rows] == [
        f"{name} {length} lmm" for name in ("S-NIAH-PK", "S-NIAH-W") for length in ("1,024", "2,048")
    ]
    assert all(row.value == 0 and "not RULER's essays" in row.note for row in rows)
    assert (results / "needle" / "needle_S-NIAH-W_lmm.png").is_file()
    (row,) = run(babilong, "--lengths", "300", "--samples", "2", *corpus)
    assert row.command.startswith("python -m benchmarks.babilong --ckpt x --lengths 300 --samples 2 --corpus")
    assert row.metric == "BABILong qa1 300 lmm" and row.value in (0, 100)
    assert (results / "babilong" / "babilong_BABILong_qa1_lmm.png").is_file()
    model.backbone.record(True)
    model.backbone(torch.randn(1, 4, 16))
    assert model.backbone.health()["layer0/alpha_mean"] > 0
    (row,) = run(babilong, "--lengths", "300", "--samples", "2", "--no_forgetting", *corpus)
    assert row.metric == "BABILong qa1 300 lmm, no forgetting" and model.backbone.health()["layer0/alpha_mean"] == 0
    model.backbone.record(False)
    assert (results / "babilong" / "babilong_BABILong_qa1_lmm_no_forgetting.png").is_file()
    rows = run(streaming, "--tokens", "512", "--piece", "64")
    assert [row.metric for row in rows if "second" in row.metric] == [
        f"lmm tokens per second, up to {tokens}" for tokens in (64, 128, 256, 512)
    ]
    assert {row.must for row in rows} == {"", "<= 2", "<= 10"}
