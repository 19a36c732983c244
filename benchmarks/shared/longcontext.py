"""What the long-context benchmarks share: answers of a model to questions, kept samples, a picture of the scores."""

import json
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from app.module import TitansModule, load_module
from app.versions import device_name
from benchmarks.shared.rows import Row, command_line, write
from data_prep.files import data_root
from domains.text.generate import completions
from domains.text.needle import Question
from domains.text.sampling import Sampling
from memory.config import CONTROLS

BINS = 10  # of depth, in the picture
Bounds = tuple[str, str]  # must and aim


@dataclass
class Answer:
    """What a model wrote to a question.

    Args:
        text: as far as it was generated.
        exact: whether the first tokens are those of the answer.
    """

    question: Question
    text: str
    exact: bool


def arguments(name: str, about: str) -> ArgumentParser:
    """What every command here takes."""
    parser = ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--ckpt", required=True, nargs="+", help="one or several models, one after another")
    parser.add_argument("--seed", type=int, default=42, help="of the samples (%(default)s)")
    parser.add_argument("--corpus", default="books", help="whose validation part is the haystack (%(default)s)")
    parser.add_argument("--tokens", type=int, default=262_144, help="read at a time, in all prompts of a batch")
    parser.add_argument("--no_forgetting", action="store_true", help="read with alpha = 0, whatever was learned")
    parser.add_argument("--name", default=name, help="of the results (%(default)s)")
    return parser


def models(given: Namespace) -> Iterator[TitansModule]:
    """The checkpoints, one after another, as they are to read."""
    for path in given.ckpt:
        module = load_module(path)
        if given.no_forgetting:
            module.backbone.stop_forgetting()
        yield module


class Report:
    """Rows and pictures of one command, written anew after each length, so that a cut command leaves those it has.

    Args:
        command: the module's name.
        given: its arguments.
    """

    def __init__(self, command: str, given: Namespace) -> None:
        self.name = command
        self.command = command_line(command)
        self.given = given
        self.rows: list[Row] = []
        self.scores: dict[str, dict[int, list[tuple[float, bool]]]] = {}  # by task and model, and length

    def add(
        self, module: TitansModule, task: str, length: int, scores: list[tuple[float, bool]], bounds: Bounds, note: str
    ) -> None:
        """Count one length of a task, [(depth, right)]; what it must and should reach binds models with memory."""
        variant = module.backbone.config.variant
        control = variant in CONTROLS
        must, aim = ("", "") if control else bounds
        model = f"{variant}, no forgetting" if self.given.no_forgetting and not control else variant
        row = Row(
            metric=f"{task} {length:,} {model}",
            value=100 * sum(right for _, right in scores) / len(scores),
            spread=None,
            unit="%",
            must=must,
            aim=aim,
            seeds=[self.given.seed],
            device=device_name(module.device),
            command=self.command,
            note=f"{len(scores)} samples, {sum(p.numel() for p in module.parameters()):,} parameters, {note}",
        )
        print(f"{row.metric}: {row.value:.1f} % ({row.note})", flush=True)
        self.rows.append(row)
        name = f"{task} {model}"
        self.scores.setdefault(name, {})[length] = scores
        path = write(self.name, self.given.name, self.rows)
        drawn = path.with_name(f"{path.stem}_{name.replace(', ', '_').replace(' ', '_')}.png")
        draw(drawn, self.scores[name], name)


def kept(name: str, make: Callable[[], Iterator[Question]]) -> list[Question]:
    """Samples from the data folder, made and written there where they are not.

    Args:
        name: file name, in which the tokenizer's checksum stands.
        make: makes them.
    """
    path = data_root() / "text" / "tokens" / "questions" / f"{name}.jsonl"
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [
            Question(**{**row, "prompt": np.array(row["prompt"]), "answer": np.array(row["answer"])}) for row in rows
        ]
    questions = list(make())
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")  # others may be making it too
    with partial.open("w") as file:
        for q in questions:
            row = {**vars(q), "prompt": q.prompt.tolist(), "answer": q.answer.tolist()}
            file.write(json.dumps(row) + "\n")
    partial.replace(path)
    return questions


def answers(
    module: TitansModule, questions: list[Question], batch: int, tokens: int, done: Callable[[str, Question], bool]
) -> list[Answer]:
    """Greedy answers to all questions, in any order.

    Args:
        module: the model.
        questions: what it is asked.
        batch: prompts at a time.
        tokens: most tokens of an answer.
        done: whether a text needs no more tokens; so is one that the model ended.
    """
    found, prompts = [], [q.prompt for q in questions]
    greedy = Sampling(temperature=0)
    written = completions(module, prompts, batch, tokens, greedy, lambda i, text: done(text, questions[i]))
    for number, ids, text in written:
        q = questions[number]
        found.append(Answer(q, text, ids[: len(q.answer)] == q.answer.tolist()))
    return found


def draw(path: Path, scores: dict[int, list[tuple[float, bool]]], title: str) -> None:
    """Accuracy by length and depth, {length: [(depth, right)]}."""
    lengths = sorted(scores)
    grid = np.full((BINS, len(lengths)), np.nan)
    for column, length in enumerate(lengths):
        for row in range(BINS):
            inside = [right for depth, right in scores[length] if min(int(depth * BINS), BINS - 1) == row]
            grid[row, column] = np.mean(inside) if inside else np.nan
    figure = Figure(figsize=(1.5 + 0.9 * len(lengths), 4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(grid, vmin=0, vmax=1, aspect="auto", cmap="RdYlGn")
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
    axes.set_yticks(range(BINS), [f"{100 * row // BINS}" for row in range(BINS)])
    axes.set(xlabel="length, tokens", ylabel="depth of the needle, %", title=title)
    figure.colorbar(image, label="accuracy")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
