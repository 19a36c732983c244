"""Needles: RULER's sentences to the letter, inside the prompt, within the length, the same for the same seed."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from app.errors import UserError
from app.tokens import IGNORE, loader
from app.windows import Step, StreamBatches
from data_prep.tokenizer import load
from domains.text import TaskData, needle
from domains.text.haystack import Haystack, following, sentences
from domains.text.needle import NOISE, TASKS, NeedleTraining, RulerTask
from domains.text.sample import documents
from domains.text.tasks import Samples
from tests.processes import forking

pytest.importorskip("nltk")
pytest.importorskip("wonderwords")

ESSAYS = " ".join(documents(40, 3))
LENGTH = 4000  # tokens, which are bytes here
PATTERN = {
    "number": r"One of the special magic numbers for ([\w-]+) is: (\d{7})\.",
    "uuid": r"One of the special magic uuids for ([\w-]+) is: "
    r"([0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})\.",
}


def task(name: str, length: int = LENGTH, seed: int = 42) -> RulerTask:
    return RulerTask(name, load("byte"), length, ESSAYS, seed)


def test_a_training_without_wonderwords_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wonderwords.random_word", None)
    needle._words.cache_clear()
    with pytest.raises(ValueError, match=r"wonderwords: pip install -e '.\[longcontext\]'"):
        NeedleTraining("niah_single_1", load("byte"), None)


@pytest.mark.parametrize("name", TASKS)
def test_a_sample_is_rulers_to_the_letter(name: str) -> None:
    kind = TASKS[name][1]
    for number in range(5):
        sample = task(name).sample(number)
        assert sample.prompt[0] == 256 and len(sample.prompt) + 128 <= LENGTH < len(sample.prompt) + 128 + 130
        prompt = bytes(sample.prompt[1:].tolist()).decode()
        (key, value), *more = re.findall(PATTERN[kind], prompt)
        assert not more and value == sample.expected and bytes(sample.answer.tolist()).decode() == f" {value}"
        context = prompt.removeprefix(
            f"A special magic {kind} is hidden within the following text. Make sure to memorize it. I will quiz you "
            f"about the {kind} afterwards.\n"
        ).removesuffix(
            f"\nWhat is the special magic {kind} for {key} mentioned in the provided text? The special magic {kind} "
            f"for {key} mentioned in the provided text is"
        )
        needle = f"One of the special magic {kind}s for {key} is: {value}."
        if TASKS[name][0] == "noise":
            lines = context.split("\n")
            assert lines.count(needle) == 1 and set(lines) == {needle, NOISE}
            assert lines.index(needle) == round(sample.depth * (len(lines) - 1))
        else:
            assert f" {needle} " in context
            assert " ".join(context.replace(needle, "").split()) in " ".join((ESSAYS + " ").split()) * 3


def test_samples_depend_on_the_seed_the_length_and_their_number_only() -> None:
    def prompts(**options: int) -> list[bytes]:
        return [task("niah_single_3", **options).sample(number).prompt.tobytes() for number in (0, 1)]

    assert prompts() == prompts() and len({*prompts(), *prompts(seed=1), *prompts(length=3000)}) == 6


def test_depths_cover_the_haystack() -> None:
    made = task("niah_single_2")
    samples = {sample.depth: sample for sample in map(made.sample, range(150))}
    assert min(samples) == 0 and max(samples) == 1 and len(samples) > 20
    first, last = (bytes(samples[depth].prompt[1:].tolist()).decode() for depth in (0, 1))
    assert "afterwards.\n One of the special" in first and ". \nWhat is the special" in last  # RULER joins them so


def test_a_length_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="niah_single_2: 300 tokens leave no room"):
        task("niah_single_2", 300)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("needles", [1, 4])
def test_training_samples_read_as_rulers_do(name: str, needles: int, corpus: Path) -> None:
    tokenizer = load("byte")
    maker = NeedleTraining(name, tokenizer, Haystack(str(corpus), "train", tokenizer), needles)
    for number in range(8):
        ids, scored = maker.sample(3000, np.random.default_rng(number))
        assert len(ids) <= 3000 and len(ids) > 2800 and ids[0] == ids[-1] == 256 and scored[-1]
        text = bytes(ids[1:-1].tolist()).decode()
        facts = dict(re.findall(PATTERN[TASKS[name][1]], text))
        asked = re.findall(
            r"What is .*? for ([\w-]+) mentioned .*?\? The .* for \1 mentioned in the provided text is (\S+)", text
        )
        assert dict(asked) == facts and len(facts) == needles
        runs = np.flatnonzero(np.diff(scored.astype(int)) == 1)
        ends = np.flatnonzero(np.diff(scored.astype(int)) == -1).tolist() + [len(ids) - 2]  # the end token is scored
        answers = [bytes(ids[a + 1 : b + 1].tolist()).decode() for a, b in zip(runs, ends, strict=True)]
        assert answers == [f" {value}" for _, value in asked]


def test_a_short_sample_has_fewer_needles_and_one_too_short_is_refused() -> None:
    maker = NeedleTraining("niah_single_1", load("byte"), None, needles=4)
    ids, _ = maker.sample(900, np.random.default_rng(0))
    assert 1 <= bytes(ids[1:-1].tolist()).decode().count("One of the special magic") < 4 and len(ids) <= 900
    with pytest.raises(UserError, match="300 has no room for a needle"):
        maker.sample(300, np.random.default_rng(0))


def test_text_behind_other_text_begins_with_no_space_of_its_own() -> None:
    assert [i.tolist() for i in following(load("byte"), [" a", "b"])] == [[32, 97], [98]]


def test_a_haystack_is_tokenized_once_and_gives_whole_sentences(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load("byte")
    hay = Haystack(str(corpus), "train", tokenizer)
    assert bytes(hay.ids.tolist()).decode().strip() == hay.text
    monkeypatch.setattr("domains.text.haystack.sentences", None)
    assert (Haystack(str(corpus), "train", tokenizer).ids == hay.ids).all()
    for whole in (True, False):
        ids, stops = hay.draw(500, np.random.default_rng(1), whole)
        text = bytes(ids.tolist()).decode()
        assert text in " " + hay.text and stops[0] == 0 and stops[-1] == len(ids)
        assert (len(ids) == 500) != whole or text.rstrip()[-1] in '."?'
        assert all(text[stop] == " " for stop in stops[:-1])
    with pytest.raises(ValueError, match="tokens of haystack, 1,000,000 are needed"):
        hay.draw(1_000_000, np.random.default_rng(1), True)


def test_the_data_module_scores_answers_and_grows(corpus: Path) -> None:
    data = TaskData(
        ["niah_single_1"], "byte", str(corpus), 8192, batch_size=3, length_warmup=6, shortest=1024, val_samples=5
    )
    data.setup("fit")
    batches = [batch for batch, _ in zip(data.train_dataloader(), range(7), strict=False)]
    assert [tuple(b.inputs.shape) for b in batches[::2]] == [(24, 1024), (12, 2048), (6, 4096), (3, 8192)]
    again = next(iter(data.train_dataloader()))
    assert torch.equal(again.inputs, batches[0].inputs) and not torch.equal(batches[0].inputs, batches[1].inputs)
    samples = data.parts["train"]
    other = samples[Step(torch.arange(3), epoch=1)]
    first = samples[Step(torch.arange(3))]
    assert not torch.equal(other.inputs, first.inputs) and first.exact
    scored = first.targets != IGNORE
    assert scored.any(1).all() and scored.float().mean() < 0.05
    assert first.scored.equal(scored.flatten().nonzero()[:, 0])
    val = torch.cat([batch.inputs for batch in data.val_dataloader()])
    assert len(val) == 5 and data.provenance()["data"] == "niah_single_1"
    with pytest.raises(ValueError, match=r"\['qa9'\] unknown; choose from niah_single_1"):
        TaskData(["qa9"])


def test_other_processes_make_the_same_samples(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one is started like a worker but for its imports: it is forked from a server that has made them."""

    def forked(*args: object, multiprocessing_context: str | None = None, **options: object) -> DataLoader:
        context = multiprocessing_context and forking()
        return DataLoader(*args, multiprocessing_context=context, **options)

    monkeypatch.setattr("app.tokens.DataLoader", forked)
    data = TaskData(["niah_single_2"], "byte", str(corpus), 1024, batch_size=2, haystack=0.01)
    data.prepare_data()
    data.setup("fit")
    sampler = StreamBatches(data.parts["train"], 2)
    here, there = (next(iter(loader(data.parts["train"], sampler, workers))) for workers in (0, 1))
    assert here.inputs.equal(there.inputs) and here.scored.equal(there.scored)


@pytest.mark.parametrize("cuts", [1, 8])
def test_tasks_take_turns(cuts: int) -> None:
    class Maker:
        def __init__(self, name: int) -> None:
            self.name = name

        def sample(self, length: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            return np.full(length + 1, self.name), np.ones(length + 1, bool)

    samples = Samples([Maker(0), Maker(1)], 64, 10, 256, everything=False)
    read = samples[Step(torch.tensor([3, 4, 7, 8]), cuts=cuts)].inputs
    assert read.float().mean() == 0.5 and (read[:, 0] == read[:, -1]).all()


def test_training_on_needles_by_the_command_line(run: Callable, corpus: Path) -> None:
    """The checkpoint then answers RULER's questions, wrongly after three steps, and the benchmark says so."""
    data = {"tasks": ["niah_single_1"], "tokenizer": "byte", "corpus": str(corpus), "length": 768, "batch_size": 2}
    from app.door import main
    from tests.domains.text.conftest import QUIET, SMALL

    config = Path(SMALL[1]).with_name("text_needle.yaml")
    options = [o for o in SMALL[2:] if not o.startswith("--data.")] + [f"--data.{k}={v}" for k, v in data.items()]
    options += [
        "--data.val_samples=2",
        "--data.length_warmup=0",
        "--trainer.max_steps=3",
        "--trainer.val_check_interval=3",
    ]
    fitted = main(["fit", "--config", str(config), *options, *QUIET, "--model.backbone.memory.heads=2"])
    metrics = fitted.trainer.callback_metrics
    assert {"val/nats", "val/exact", "val/ppl_byte"} <= metrics.keys() and "val/bpb" not in metrics


def test_sentences_are_the_same_in_one_piece_or_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = 'He said: "Stop!" Then (it was late.) nothing. . . Mr. Smith went home?  A. B. Cole, at 3.5 miles, sat.\n\n'
    text = f"  {40 * words}The end"
    whole = sentences(text)
    assert len(whole) > 100
    for piece in range(150, 250):
        monkeypatch.setattr("domains.text.haystack.PIECE", piece)
        assert sentences(text) == whole
