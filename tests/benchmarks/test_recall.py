"""The recall study: what its tasks ask is answered by what they showed, and a run learns."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from app.door import main
from app.errors import UserError
from app.runs import run_folder
from benchmarks.recall import RecallData, RecallHead
from benchmarks.recall import __main__ as recall
from benchmarks.recall import data as recall_data
from benchmarks.recall.tasks import KEYS, SLICES, TASKS, Examples, Task, aftermath, mqar, rewritten
from benchmarks.shared.rows import Row, read
from benchmarks.shared.runs import Run, resolved

CONF = Path(__file__).parents[2] / "conf"
SIZES = {"variant": "lmm", "dim": 32, "layers": 1, "persistent": 0, "memory": {"heads": 2, "conv": 0}}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a task that is learned in seconds: two lengths of training and test."""
    one, two = (partial(aftermath, pairs=pairs, kinds=4, lasts=1) for pairs in (1, 2))
    train = {"one": (one, 256), "two": (two, 64)}
    monkeypatch.setitem(TASKS, "small", Task(train, {"one": (one, 64), "two": (two, 32)}, classes=8, symbols=10))
    yield "small"
    recall_data.examples.cache_clear()


def make(task, rows: int = 20, **sizes: int) -> Examples:
    return task(rows, torch.Generator().manual_seed(0), **sizes)


def asked(x: Examples, row: int) -> dict[int, int]:
    """Every key that one sequence asks for, and the right answer."""
    return dict(zip(x.inputs[row, x.at[row]].tolist(), x.answers[row].tolist(), strict=True))


@pytest.mark.parametrize(("time", "pairs"), SLICES)
def test_mqar_asks_for_every_pair_once(time: int, pairs: int) -> None:
    x = make(mqar, time=time, pairs=pairs)
    for row in range(len(x.inputs)):
        shown = x.inputs[row, : 2 * pairs].tolist()
        assert asked(x, row) == dict(zip(shown[::2], shown[1::2], strict=True)) and len(set(shown[::2])) == pairs
    assert x.inputs.shape == (20, time) and (x.at >= 2 * pairs).all() and (x.at % 2 == 0).all()
    assert ((x.answers >= KEYS) & (x.answers < 2 * KEYS)).all()


def test_mqar_gaps_follow_a_power_law() -> None:
    x = make(mqar, rows=4000, time=256, pairs=1)
    gap = (x.at[:, 0] - 2) // 2
    near = torch.arange(1, 128.0) ** (0.01 - 1)
    assert abs((gap < 3).float().mean() - near[:3].sum() / near.sum()) < 0.03


def test_the_last_value_of_a_rewritten_key_is_asked_for() -> None:
    x = make(rewritten, keys=4, rounds=3, noise=5)
    for row in range(len(x.inputs)):
        shown = x.inputs[row, :24].tolist()
        assert asked(x, row) == dict(zip(shown[::2], shown[1::2], strict=True))  # a dict keeps the last
        assert len({frozenset(shown[i : i + 8 : 2]) for i in (0, 8, 16)}) == 1
    assert not x.inputs[:, 24:29].any()


def test_only_a_pair_with_an_aftermath_counts() -> None:
    x = make(aftermath, pairs=3, kinds=16, lasts=4)
    for row in range(len(x.inputs)):
        events = x.inputs[row, :-3].view(6, 10)
        assert not events[:, 2:6].any()  # beyond what a convolution over four tokens joins
        assert asked(x, row) == {key: value for key, value, mark in events[:, [0, 1, 9]].tolist() if mark == 32}


def test_a_batch_is_of_one_set_and_every_sequence_comes_once_a_round(small: str) -> None:
    data = RecallData(small, batch_size=32, seed=3)
    data.setup()
    loader = data.train_dataloader()
    batches = [*loader]
    assert len(batches) == len(loader) == 8 + 2
    assert sorted(batch.inputs.shape[1] for batch in batches) == [9] * 8 + [18] * 2
    short = torch.cat([batch.inputs for batch in batches if batch.inputs.shape[1] == 9])
    (drawn, _) = recall_data.examples(small, "train", 3).values()
    assert torch.equal(short.unique(dim=0), drawn.inputs.unique(dim=0)) and len(short) == 256
    loader.sampler.start = 7  # a resumed run has these behind it
    assert all(map(torch.equal, next(iter(loader)), batches[7]))
    assert sum(len(batch.inputs) for batch in data.test_dataloader()) == len(data.test_dataloader().dataset) == 96


def test_the_sequences_of_a_seed_are_its_own(small: str) -> None:
    of = {seed: RecallData(small, seed=seed).provenance()["sha256"] for seed in (0, 1)}
    assert of[0] != of[1] and of[0] == RecallData(small).provenance()["sha256"]
    first = recall_data.examples("aftermath", "train", 5)["all"]
    assert all(map(torch.equal, first, TASKS["aftermath"].train["all"][0](6400, torch.Generator().manual_seed(6))))
    with pytest.raises(UserError, match="batch_size is 65; a set of small has 64"):
        RecallData(small, batch_size=65).setup()
    with pytest.raises(ValueError, match="choose mqar, rewritten, aftermath"):
        RecallData("mqra")


def test_the_mean_is_over_kinds_of_sequences() -> None:
    metrics = RecallHead(8, 4, 4).metrics()
    for right, length in (([[True, False]], 6), ([[True, True]], 6), ([[True], [False], [False], [False]], 9)):
        metrics.update(torch.tensor(right), length)
    assert {name: value.item() for name, value in metrics.compute().items()} == {
        "accuracy": 0.5,
        "accuracy_6_2": 0.75,
        "accuracy_9_1": 0.25,
    }


def test_one_matrix_serves_both_ends_where_classes_are_symbols() -> None:
    head = RecallHead(8, 4, 4)
    assert head.out.weight is head.embedding.weight
    assert RecallHead(8, 4, 3).out.weight.shape == (3, 8)
    batch = Examples(torch.tensor([[0, 1, 2]]), torch.tensor([[2, 1]]), torch.tensor([[1, 3]]))
    hidden = torch.randn(1, 3, 8)
    torch.testing.assert_close(head.readout(hidden, batch), head.out(hidden[:, [2, 1]]))
    table = head.predict(lambda given: torch.eye(4)[None, :2], batch)
    assert table.to_dict("list") == {"asked": [2, 1], "answer": [0, 1], "truth": [1, 3]}


def test_the_application_trains_it(small: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    options = [f"--data.task={small}", "--model.backbone.dim=16", "--data.batch_size=32", "--trainer.max_epochs=12"]
    options += ["--trainer.log_every_n_steps=10", "--model.optim.lr=0.02"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    command = ["--config", str(CONF / "recall_aftermath.yaml"), *options, *quiet]
    fitted = main(["fit", *command])
    assert fitted.trainer.global_step == 120
    assert not any(p.numel() for p in fitted.model.backbone.blocks[0].feed_forward.parameters())
    tested = main(["test", *command])
    scores = json.loads((run_folder(tested.checkpoint) / "results.json").read_text())["metrics"]
    assert scores["test/accuracy"] > 0.5 and set(scores) == {f"test/accuracy{of}" for of in ("", "_9_1", "_18_2")}


def test_a_study_takes_the_rate_that_validates_best(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def finished(runs: Sequence[Run], workers: int) -> Iterator[tuple[Run, dict]]:
        for run in runs:
            rate = float(run.options[-3].removeprefix("--model.optim.lr="))
            asked.append((run.options[1], rate, int(run.options[-1])))
            scores = {"test/accuracy": rate * 10, "test/accuracy_256_64": 0.5}
            made = {
                "metrics": scores,
                "validation": -rate,
                "seed": asked[-1][2],
                "device": "cpu",
                "steps": 3,
                "partial": False,
            }
            yield run, made | {"versions": {"commit": "abc"}, "parameters": 7, "config": {"model": {"backbone": SIZES}}}

    monkeypatch.setattr(recall, "finish", finished)
    few = [
        recall.Entry("mqar", "default", [], 3, [0.01, 0.02], ">= 0.5"),
        recall.Entry("mqar", "matrix", ["--model.backbone.memory.depth=1"], 1),
    ]
    monkeypatch.setattr(recall, "GAINS", [("mqar", "all", "default", ["matrix"], ">= 0")])
    study = recall.Study(few, ["--trainer.max_steps=1"], 2, "command")
    study.run()
    assert [(rate, seed) for _, rate, seed in asked] == [(0.01, 0), (0.02, 0), (0.01, 0), (0.01, 1), (0.01, 2)]
    first, second, third, gain = study.rows()
    assert (first.seeds, first.must, first.misses()) == ([0, 1, 2], ">= 0.5", ["must"]) and second.must == ""
    assert first.note == "256/64 0.500; lowest seed 0.100; state 4096, 7 parameters, 3 steps"
    assert third.metric == "mqar, matrix, learning rate 1.0e-02" and gain.value == pytest.approx(0)


@pytest.mark.parametrize("entry", recall.entries(), ids=lambda entry: f"{entry.task}, {entry.name}")
def test_what_floats_a_state_holds(entry: recall.Entry) -> None:
    runs = entry.runs([])
    config = resolved(next(iter(runs.values()))[0].options)
    floats = {"mqar": 131_072, "rewritten": 131_072, "aftermath": 16_384 * (1 + ("no momentum" not in entry.name))}
    task = config["data"]["init_args"]["task"]
    assert recall.state_floats(config["model"]["backbone"]) == floats[task]
    assert len(runs) == (4 if entry.task == "mqar" else 1) and task == {"exact": "mqar"}.get(entry.task, entry.task)


def test_a_command_for_one_task_keeps_the_rows_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    def rows(*names: str) -> list[Row]:
        return [Row(f"{name}, default", 1.0, None, "", "", "", [0], "device", "command") for name in names]

    recall.save("recall", rows("mqar", "aftermath"), {"mqar", "aftermath"})
    recall.save("recall", rows("mqar"), {"mqar"})
    assert [row.metric for row in read(tmp_path / "results/recall/recall.json")] == [
        "aftermath, default",
        "mqar, default",
    ]


def test_a_learning_rate_too_large_to_train_with_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    entry = next(entry for entry in recall.entries() if entry.seeds > 1)
    study = recall.Study([entry], [], 1, "command")
    rates = [*study.planned[entry.task, entry.name]]
    result = {"validation": 0.5, "metrics": {"test/accuracy": 0.5}}

    def finish(runs: list, workers: int) -> Iterator[tuple]:
        large = study.planned[entry.task, entry.name][rates[-1]]
        yield from ((run, result) for run in runs if run not in large)
        if any(run in large for run in runs):
            raise RuntimeError("1 runs failed: too_large")

    monkeypatch.setattr(recall, "finish", finish)
    study.run()
    assert "left out: 1 runs failed: too_large" in capsys.readouterr().err
    assert study.rates(entry) == rates[:-1]
    monkeypatch.setattr(recall, "finish", lambda runs, workers: (_ for _ in [()]).throw(RuntimeError("all failed")))
    with pytest.raises(RuntimeError, match="all failed"):
        recall.Study([entry], [], 1, "command").run()
