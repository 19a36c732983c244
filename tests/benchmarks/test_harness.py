"""The nine sets from a user's files, asked as lm-evaluation-harness asks them; what needs it is skipped without it."""

import json
import lzma
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from app.errors import UserError
from app.module import TitansModule
from benchmarks.harness import __main__ as harness
from benchmarks.harness.sets import STARTS, TASKS, articles, find, rows, task
from benchmarks.shared.rows import read
from domains.text import LanguageHead
from domains.text.published import COLUMNS, published_scores
from memory import BackboneConfig, MemoryConfig
from tests.domains.text.conftest import FromSample

PAGE = (
    ' \n = A river = \n \n It is 3 @,@ 000 m long ( about 2 @.@ 5 miles ) ; its " bed " is deep . \n = = Name = = \n '
)
PUBLISHED = {  # rows with the fields of the sets as they are published
    "wikitext": [{"page": PAGE}, {"page": PAGE.replace("river", "lake")}],
    "lambada_openai": [{"text": "Ada saw the lake. It was the\nbig old lake"}, {"text": "No, said Ada"}],
    "piqa": [
        {"goal": "open a jar", "sol1": "turn the lid", "sol2": "eat it", "label": 0},
        {"goal": 'cook\'s "egg"', "sol1": "freeze it", "sol2": "boil it", "label": 1},
    ],
    "hellaswag": [
        {
            "activity_label": "Cooking",
            "ctx_a": "A man stands. [header] Then [title] he",
            "ctx_b": "the Man",
            "endings": ["sits  down.", "[step] flies.", "is a fish.", "sings."],
            "label": "3",
        },
        {"activity_label": "Rowing", "ctx_a": "Two row.", "ctx_b": "", "endings": ["a", "b", "c", "d"], "label": "0"},
    ],
    "winogrande": [
        {
            "sentence": "Ada's cup hit the jar so the _ broke at once.",
            "option1": "cup",
            "option2": "jar",
            "answer": "2",
        },
        {"sentence": "_ slept.", "option1": "Ada", "option2": "Bob", "answer": "1"},
    ],
    "arc_easy": [
        {"question": "Which is warm?", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]}, "answerKey": "B"},
        {"question": "What flies?", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "answerKey": "1"},
    ],
    "social_iqa": [
        {
            **{"context": "Ada fell.", "question": "Why?", "label": "3"},
            **{"answerA": "ice", "answerB": "joy", "answerC": "mud"},
        },
        {
            **{"context": "Bob ran.", "question": "How does he feel?", "label": "1"},
            **{"answerA": "tired", "answerB": "blue", "answerC": "old"},
        },
    ],
    "boolq": [
        {"question": "is ice warm", "passage": "Ice is cold.", "label": 0},
        {"question": "is fire warm", "passage": "Fire -- it burns.", "label": 1},
    ],
}
PUBLISHED["arc_challenge"] = PUBLISHED["arc_easy"]
PLAIN = {  # the first of these rows in the plainer form that copies of the sets often have
    "hellaswag": {
        "query": "Cooking: A man stands. Then. he The man",
        "choices": ["sits down.", " flies.", "is a fish.", "sings."],
        "label": 3,
    },
    "arc_easy": {"question": "Which is warm?", "choices": ["ice", "fire"], "label": 1},
    "social_iqa": {"question": "Ada fell. Why?", "choices": ["ice", "joy", "mud"], "label": 2},
    "boolq": {"question": "is ice warm", "passage": "Ice is cold.", "answer": False},
}
needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm_eval is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file of each set."""
    for name, content in PUBLISHED.items():
        lines = "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / f"{name}_validation.jsonl").write_text(lines)
    return tmp_path


@pytest.fixture(scope="module")
def manager() -> Any:
    """The harness's own tasks, which take seconds to list."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def build(variant: str = "mac") -> TitansModule:
    """An untrained model of bytes."""
    torch.manual_seed(0)
    sizes = {"dim": 16, "layers": 1, "heads": 2, "window": 8, "segment": 16, "persistent": 2}
    config = BackboneConfig(variant, **sizes, memory=MemoryConfig(heads=2, chunk=4))
    module = TitansModule(LanguageHead(16, 257), config).eval()
    module.head.fit_to(FromSample())
    return module


def request(*args: object) -> SimpleNamespace:
    """What the harness hands to a model."""
    return SimpleNamespace(args=args)


# without the harness


@pytest.mark.parametrize("name", STARTS)
def test_every_set_has_its_task_file(name: str, folder: Path) -> None:
    config = task(name, find(folder, name))
    assert config["task"] == name and config["metric_list"]
    assert {metric for column, (own, metric) in harness.SOURCES.items() if own == name} <= {
        entry["metric"] for entry in config["metric_list"]
    }
    assert {path.stem for path in TASKS.glob("*.yaml")} == set(STARTS)
    assert len(rows(name, find(folder, name))) == 2


def test_plain_rows_are_the_published_ones(folder: Path) -> None:
    for name, plain in PLAIN.items():
        path = folder / f"plain_{name}.jsonl.xz"
        path.write_bytes(lzma.compress(json.dumps(plain).encode()))
        assert rows(name, path)[0] == rows(name, find(folder, name))[0]


def test_parquet_is_read_like_jsonl(folder: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    for name in STARTS:
        jsonl, path = find(folder, name), folder / f"{name}.parquet"
        write_table(pyarrow.Table.from_pylist(PUBLISHED[name]), path)
        assert rows(name, path) == rows(name, jsonl)


def test_articles_begin_at_their_titles(tmp_path: Path) -> None:
    other = PAGE.removeprefix(" \n").replace("river", "lake")
    assert list(articles(PAGE + "\n" + other)) == [PAGE.removeprefix(" \n"), other]
    (tmp_path / "wiki.test.tokens").write_text(PAGE + "\n" + other)
    (river, _) = rows("wikitext", find(tmp_path, "wikitext"))
    assert river["text"] == ' = A river =\n\nIt is 3,000 m long (about 2.5 miles); its "bed" is deep.\n== Name ==\n'
    assert (river["words"], river["bytes"]) == (33, len(PAGE.removeprefix(" \n").encode()))


def test_what_is_wrong_with_a_file_is_one_line_that_names_it(folder: Path) -> None:
    with pytest.raises(UserError, match=r"/nowhere: no piqa.parquet or .jsonl is there for piqa; .*README"):
        find(Path("/nowhere"), "piqa")
    (folder / "piqa2.jsonl").write_text("")
    with pytest.raises(UserError, match="piqa2.jsonl and piqa_validation.jsonl are both there for piqa"):
        find(folder, "piqa")
    with pytest.raises(UserError, match="piqa2.jsonl: no row is in it"):
        rows("piqa", folder / "piqa2.jsonl")
    for content, message in (
        ('{"goal": "x", "sol1": "y", "label": 0}', "row 1 has no 'sol2' of piqa; it has goal, sol1, label"),
        ('{"goal": "x", "sol1": "y", "sol2": "z", "label": ""}', "row 1 cannot be read .*: give the part with answers"),
        ('["x"]', "row 1 cannot be read"),
        ('\n{"goal', r"piqa.jsonl, line 2: damaged .*; fetch it again"),
    ):
        path = folder / "piqa.jsonl"
        path.write_text(content)
        with pytest.raises(UserError, match=message) as error:
            rows("piqa", path)
        assert "\n" not in str(error.value)
    (folder / "piqa.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="piqa.parquet: damaged"):
        rows("piqa", folder / "piqa.parquet")


def test_published_lines_are_whole() -> None:
    scores = published_scores()
    assert all(tuple(line) == COLUMNS for line in scores.values()) and set(harness.SOURCES) == set(COLUMNS)
    # as the paper prints them
    assert harness.average(scores["Titans MAC, 340 M, 15 B tokens"]) == pytest.approx(47.36, abs=0.01)
    assert harness.average(scores["Transformer++, 1.3 B, 100 B tokens"]) == pytest.approx(52.25, abs=0.01)


def test_wrong_commands_end_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def end(*options: str) -> str:
        monkeypatch.setattr("sys.argv", ["harness", "--ckpt", str(folder / "no.ckpt"), *options])
        with pytest.raises(SystemExit) as error:
            harness.main()
        return str(error.value)

    monkeypatch.setattr(harness, "find_spec", lambda _: None)
    assert end() == "error: lm-evaluation-harness is not installed: pip install -e '.[harness]'"
    monkeypatch.setattr(harness, "find_spec", lambda _: "there")
    assert "mmlu is not read from files, but wikitext, " in end("--data", str(folder), "--tasks", "mmlu")
    (folder / "boolq_validation.jsonl").unlink()
    assert f"{folder}: no boolq.parquet or .jsonl is there for boolq" in end("--data", str(folder))
    assert "there is no file" in end("--data", str(folder), "--tasks", "piqa")
    monkeypatch.setattr(harness, "load_module", lambda _: SimpleNamespace(head=torch.nn.Identity()))
    assert "holds a Identity, which is no language model" in end("--data", str(folder), "--tasks", "piqa")


# with it


@needs_harness
@pytest.mark.parametrize("name", STARTS)
def test_the_harness_asks_the_same_of_its_own_tasks(
    name: str, folder: Path, manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset
    from lm_eval.api import task as of_harness

    content = Dataset.from_list(PUBLISHED[name])
    splits = dict.fromkeys(("train", "validation", "test"), content)
    monkeypatch.setattr(of_harness.datasets, "load_dataset", lambda **_: splits)
    stock = manager.load([name])["tasks"][name]
    ours = manager.load([task(name, find(folder, name))])["tasks"][name]

    def asked(made: object) -> list[tuple]:
        made.build_all_requests(rank=0, world_size=1)
        return [(instance.request_type, instance.doc_id, instance.args) for instance in made.instances]

    assert asked(ours) == asked(stock) != []
    results = [[(-3.0 - i, i == 0) for i in range(len(group))] for group in _by_document(ours)]
    if name == "wikitext":
        results = [[-40.0], [-50.0]]
    for document, result in zip(range(2), results, strict=True):
        theirs = stock.process_results(stock.eval_docs[document], result)
        mine = ours.process_results(ours.eval_docs[document], result)
        assert mine == {metric: theirs[metric] for metric in mine} and mine


def _by_document(made: object) -> list[list]:
    documents: dict[int, list] = {}
    for instance in made.instances:
        documents.setdefault(instance.doc_id, []).append(instance)
    return list(documents.values())


@needs_harness
def test_the_model_scores_what_stands_behind_the_context() -> None:
    from benchmarks.harness.model import TitansLM

    module = build()
    asked = [request("Ada ", "went"), request("", "Ada"), request("To the lake", " she went"), request("A", "da")]
    one, many = (TitansLM(module, batch).loglikelihood(asked, disable_tqdm=True) for batch in (1, 4))
    assert [nats for nats, _ in one] == pytest.approx([nats for nats, _ in many], abs=1e-5)
    ids = [256, *b"Ada went"]
    with torch.no_grad():
        hidden, _ = module.backbone(module.head.embed_ids(torch.tensor([ids[:-1]])))
        logs = module.head.logits(hidden[0]).log_softmax(-1)
    # the space before the word is the continuation's, as in every model of the harness
    expected = sum(logs[place - 1, ids[place]].item() for place in range(4, len(ids)))
    assert one[0][0] == pytest.approx(expected, abs=1e-4)


@needs_harness
@pytest.mark.parametrize("variant", ("lmm", "mac", "mag", "mal", "swa", "attention"))
def test_a_document_is_scored_once_from_its_first_token(variant: str) -> None:
    from benchmarks.harness.model import TitansLM

    module, text = build(variant), "Ada went to the lake. " * 9
    (ours, short) = TitansLM(module, 2).loglikelihood_rolling([request(text), request("Ada")])
    ids = [256, *text.encode()]

    def plain(ids: list[int], before: int) -> float:
        with torch.no_grad():
            hidden, _ = module.backbone(module.head.embed_ids(torch.tensor([ids[:-1]])))
            logs = module.head.logits(hidden[0]).log_softmax(-1)
        return sum(logs[place - 1, ids[place]].item() for place in range(before, len(ids)))

    expected = plain(ids, 1)
    if variant == "attention":  # windows of the 64 tokens it was trained on, the last one filled up from before
        ends = [*range(64, len(ids) - 1, 64), len(ids) - 1]
        expected = plain(ids[:65], 1) + sum(
            plain(ids[max(end - 64, 0) : end + 1], before - max(end - 64, 0) + 1)
            for before, end in zip(ends, ends[1:], strict=False)
        )
    assert ours == pytest.approx(expected, rel=1e-5)
    assert short == pytest.approx(plain([256, *b"Ada"], 1), rel=1e-5)


@needs_harness
def test_attention_is_kept_to_its_length() -> None:
    from benchmarks.harness.model import TitansLM

    model = TitansLM(build("attention"))
    long, cut = ("x" * 100 + " lake", " went"), ("x" * 55 + " lake", " went")
    (one, _), (other, _) = model.loglikelihood([request(*long), request(*cut)], disable_tqdm=True)
    ids, before = model._scored([*b"x" * 100], [*b" went"])
    assert (len(ids), before, ids[0]) == (65, 60, ord("x"))
    assert one == pytest.approx(other, abs=1e-4)
    with pytest.raises(UserError, match="70 tokens is longer than attention's context of 64"):
        model.loglikelihood([request("x", "y" * 70)], disable_tqdm=True)


@needs_harness
def test_what_is_written_ends_at_the_stop_string(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.harness.model import TitansLM
    from tests.benchmarks.test_longcontext import Parrot

    module = build()
    module.head.embedding = torch.nn.Embedding.from_pretrained(torch.eye(320))
    module.backbone = Parrot("q123. So\n", module.head.embedding)
    module.backbone.config = SimpleNamespace(variant="mac")
    asked = [
        request("q", {"until": ["3", "S"], "max_gen_toks": 20}),
        request("xxq", {"until": ["\n"], "max_gen_toks": 20}),
        request("q", {"until": "\n", "max_gen_toks": 2}),
        request("rq", {"until": ["3", "S"], "max_gen_toks": 20}),
    ]
    assert TitansLM(module, 2).generate_until(asked) == ["12", "123. So", "12", "12"]


@needs_harness
def test_one_command_gives_every_column(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(harness, "load_module", lambda _: build())
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["harness", "--ckpt", "x", "--data", str(folder)])
    harness.main()
    measured = {row.metric: row for row in read(folder / "results/harness/harness.json")}
    assert {f"{column} mac" for column in (*COLUMNS, "average")} <= measured.keys()
    assert measured["PIQA mac"].value in (0, 50, 100)
    assert measured["PIQA mac"].note.startswith("acc, 2 samples of piqa_validation.jsonl; 10,686 parameters")
    assert measured["wikitext bits_per_byte mac"].unit == "bits"
    text = capsys.readouterr().out
    assert "| **mac, " in text and "| Titans MAC, 760 M, 30 B tokens | 19.93 | 20.12 |" in text
