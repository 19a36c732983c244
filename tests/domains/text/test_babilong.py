"""BABILong: bAbI's stories in order between sentences of books, to the token, and scored as the benchmark does."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.files import data_root
from data_prep.tokenizer import load
from domains.text.babilong import ARCHIVE, BabiTask, is_right, parse, stories
from domains.text.haystack import Haystack

pytest.importorskip("nltk")

REAL = data_root() / "text" / ARCHIVE
BABI = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Daniel went back to the hallway.
5 Where is Daniel? \thallway\t4
1 Sandra travelled to the office.
2 Where is Sandra? \toffice\t1
"""


def test_every_question_has_the_facts_before_it() -> None:
    parsed = parse(BABI)
    assert [(len(s.facts), s.question, s.answer) for s in parsed] == [
        (2, "Where is Mary?", "bathroom"),
        (3, "Where is Daniel?", "hallway"),
        (1, "Where is Sandra?", "office"),
    ]


@pytest.mark.parametrize("length", [200, 1000])
def test_a_sample_has_its_length_its_facts_in_order_and_its_question_last(corpus: Path, length: int) -> None:
    tokenizer = load("byte")
    task = BabiTask("qa1", tokenizer, Haystack(str(corpus), "val", tokenizer, shortest=10, collapse=False), parse(BABI))
    for number, story in enumerate(task.stories):
        made = task.build(story, length, np.random.default_rng(number))
        assert len(made.prompt) + len(made.answer) == length
        text = bytes(made.prompt[1:].tolist()).decode(errors="replace")
        places = [text.index(f" {fact}") for fact in story.facts]
        assert places == sorted(places) and text.endswith(f" {story.question}")
        assert bytes(made.answer.tolist()).decode() == f" {story.answer}" and 0 <= made.depth <= 1
    ids, scored = task.sample(length, np.random.default_rng(0))
    assert (
        len(ids) == length + 1
        and ids[-1] == 256
        and bytes(ids[scored][:-1].tolist()).decode().strip() in text + "bathroom hallway office"
    )
    with pytest.raises(ValueError, match="longer than 50 tokens"):
        task.build(task.stories[1], 50, np.random.default_rng(0))
    assert len(task.usable(16)) == 2  # a sample of 16 tokens has room for two facts


@pytest.mark.parametrize(
    ("output", "right"),
    [
        (" bathroom", True),
        ("The most recent location of Mary is BATHROOM. Then kitchen.", True),
        ("bathroom or kitchen", False),
        ("the kitchen. bathroom", False),
        ("nowhere", False),
        ("bathroom <example> kitchen", True),
    ],
)
def test_the_official_score(output: str, right: bool) -> None:
    assert is_right("bathroom", output, "Where is Mary?", "qa1") == right


def test_labels_of_the_question_do_not_count() -> None:
    assert is_right("garden", "before the kitchen it was the garden", "Where was it before the kitchen?", "qa3")
    assert is_right("Fred", "Fred", "Who did Mary give the apple to?", "qa5")


def test_without_the_archive_one_line_says_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nope.tar.xz: no bAbI tasks there"):
        stories("qa1", "test", tmp_path / "nope.tar.xz")


@pytest.mark.skipif(not REAL.is_file(), reason="needs bAbI")
def test_bAbI_has_its_counts() -> None:
    questions = stories("qa1", "test", REAL)
    assert len(questions) == 1000 and {len(s.facts) for s in questions} == {2, 4, 6, 8, 10}
    assert {s.answer for s in questions} == {"bathroom", "bedroom", "garden", "hallway", "kitchen", "office"}
