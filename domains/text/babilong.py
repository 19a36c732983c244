"""BABILong (arXiv 2406.10149; booydar/babilong): bAbI's facts between sentences of books, a question behind them.

As the benchmark's fine-tuned models do it: context, question, and the answer in one word. Training reads bAbI's train
questions and books of the train part; evaluation its test questions and books that were never trained on. (The
published samples are drawn from bAbI's train file, which is no test for a model trained on it.)
"""

import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from app.reading import reading
from data_prep.files import data_root
from data_prep.tokenizer import end_id
from domains.text.haystack import Haystack, following
from domains.text.needle import Question

ARCHIVE = "babi_tasks_1-20_v1-2_en.tar.xz"
PLACES = {"bathroom", "bedroom", "garden", "hallway", "kitchen", "office"}
LABELS = {  # the words that the official scoring looks for in an answer, by task
    **dict.fromkeys(("qa1", "qa2", "qa3", "qa4"), PLACES),
    "qa5": {"bill", "fred", "jeff", "mary", "apple", "football", "milk"},
}
SHORTEST = 10  # least tokens of a background sentence
PER_FACT = 8  # a sample has at least so many tokens per fact of its story; stories with more facts are not used for it


@dataclass
class Story:
    """Facts, a question about them, and its answer."""

    facts: list[str]
    question: str
    answer: str


def stories(task: str, part: str, archive: Path | None = None) -> list[Story]:
    """All questions of a bAbI task (en-10k), each with the facts told before it.

    Args:
        task: qa1 to qa5.
        part: `train` or `test`.
        archive: the tar file; by default text/babi_tasks_1-20_v1-2_en.tar.xz in the data folder.

    Raises:
        FileNotFoundError: there is no archive.
        ValueError: it holds no such task.
    """
    archive = archive or data_root() / "text" / ARCHIVE
    if not archive.is_file():
        raise FileNotFoundError(f"{archive}: no bAbI tasks there; fetch tasks_1-20_v1-2 and pack it under that name")
    with reading(archive, "an archive of bAbI tasks", "fetch it again") as at, tarfile.open(archive) as tar:
        for member in tar:
            at.place = member.name
            name = Path(member.name)
            if "en-10k" in name.parts and name.name.startswith(f"{task}_") and name.name.endswith(f"_{part}.txt"):
                file = tar.extractfile(member)
                assert file is not None, "a folder whose name ends in .txt"
                return parse(file.read().decode())
    raise ValueError(f"{archive}: holds no en-10k {task} {part} questions; choose qa1, qa2, qa4 or qa5")


def parse(text: str) -> list[Story]:
    """Stories of a bAbI file: numbered lines, 1 begins a story, a question has its answer behind a tab."""
    stories_read = []
    facts = []
    for line in text.strip().splitlines():
        number, _, rest = line.partition(" ")
        facts = [] if number == "1" else facts
        if "\t" in rest:
            question, answer, *_ = rest.split("\t")
            stories_read.append(Story(list(facts), question.strip(), answer.strip()))
        else:
            facts.append(rest.strip())
    return stories_read


class BabiTask:
    """Stories in a background of books, of exactly the length that is asked for.

    Args:
        task: qa1 to qa5.
        tokenizer: the model's.
        background: sentences of at least SHORTEST tokens.
        questions: facts with a question and its answer, as `stories` reads them.
    """

    def __init__(self, task: str, tokenizer: Tokenizer, background: Haystack, questions: list[Story]) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self.background = background
        self.stories = questions
        self.end = end_id(tokenizer)
        # All stories use the same few hundred sentences, and every training sample tells one: tokenize each only once.
        texts = sorted({f" {text}" for story in questions for text in (*story.facts, story.question, story.answer)})
        self.ids = dict(zip(texts, following(tokenizer, texts), strict=True))
        self.short: dict[int, list[Story]] = {}  # what `usable` has answered, by length

    def usable(self, length: int) -> list[Story]:
        """Stories that are short enough for a length."""
        if length not in self.short:
            self.short[length] = [story for story in self.stories if len(story.facts) <= length // PER_FACT]
        return self.short[length]

    def build(self, story: Story, length: int, generator: np.random.Generator) -> Question:
        """One of the stories in a context such that prompt and answer have exactly `length` tokens, end token included.

        Raises:
            ValueError: the facts do not fit.
        """
        texts = [f" {fact}" for fact in story.facts] + [f" {story.question}", f" {story.answer}"]
        *facts, question, answer = (self.ids[text] for text in texts)
        room = length - 1 - sum(map(len, facts)) - len(question) - len(answer)
        if room < 0:
            raise ValueError(f"{self.task}: a story of {len(facts)} facts is longer than {length} tokens")
        hay, stops = self.background.draw(room, generator, whole=False)
        places = np.sort(generator.choice(stops, len(facts)))
        cuts = np.split(hay, places)
        context = [part for cut, fact in zip(cuts, facts, strict=False) for part in (cut, fact)]
        prompt = np.concatenate([[self.end], *context, cuts[-1], question])
        assert len(prompt) + len(answer) == length, "the sample has not the length that was asked for"
        depth = float(places[-1]) / max(room, 1)
        return Question(prompt, answer, story.answer, depth, story.question)

    def sample(self, length: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random story to train on: ids of `length` + 1 tokens, and which of them are the answer and the end."""
        usable = self.usable(length)
        made = self.build(usable[int(generator.integers(len(usable)))], length, generator)
        ids = np.concatenate([made.prompt, made.answer, [self.end]])
        return ids, np.arange(len(ids)) >= len(made.prompt)


def is_right(expected: str, output: str, question: str, task: str) -> bool:
    """The benchmark's own score of one answer.

    The first sentence of the output must name exactly one of the task's labels beside those in the question: the
    expected one.
    """
    output = output.lower().split(".")[0].split("<context>")[0].split("<example>")[0]
    named = {label for label in LABELS[task] if label in question.lower()}
    return {label for label in LABELS[task] if label in output} - named == {expected.lower()}
