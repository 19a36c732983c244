"""The recall study: what its tasks ask is answered by what they showed, and a run learns."""

from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.recall import __main__ as recall
from benchmarks.recall import tasks as recall_tasks
from benchmarks.recall import training as recall_training
from benchmarks.recall.tasks import KEYS, Examples, Task, aftermath, mqar, rewritten, same
from benchmarks.shared.rows import Row, read


def make(task, rows: int = 20, **sizes: int) -> Examples:
    return task(rows, torch.Generator().manual_seed(0), **sizes)


def asked(x: Examples, row: int) -> dict[int, int]:
    """Every key that one sequence asks for, and the right answer."""
    return dict(zip(x.inputs[row, x.at[row]].tolist(), x.answers[row].tolist(), strict=True))


@pytest.mark.parametrize(("time", "pairs"), recall_tasks.SLICES)
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


def test_a_study_learns_and_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Task(**same(partial(aftermath, pairs=1, kinds=4, lasts=1), 256, 64), classes=8, symbols=10, batch=32)
    monkeypatch.setitem(recall_training.TASKS, "small", small)
    entries = [
        recall.Entry("small", name, recall.backbone(16, layers=1, heads=1, chunk=4, **memory), 2, 2, [1e-3, 1e-2])
        for name, memory in (("default", {}), ("matrix", {"depth": 1}))
    ]
    monkeypatch.setattr(recall, "GAINS", [("small", "all", "default", ["matrix"], ">= -100")])
    study = recall.Study(entries, "cpu", 2, "command")
    study.run()
    rows = study.rows()
    assert len(rows) == 5 and sorted(len(row.seeds) for row in rows[:2]) == [1, 2] and not rows[-1].misses()
    run = study.results["small", "default", 1e-2][0]
    assert run["losses"][-1] < run["losses"][0] and run["steps"] == 16


def test_what_floats_a_state_holds() -> None:
    assert {recall.state_floats(entry.backbone) for entry in recall.entries() if entry.task == "mqar"} == {131_072}


def test_a_command_for_one_task_keeps_the_rows_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    def rows(*names: str) -> list[Row]:
        return [Row(f"{name}, default", 1.0, None, "", "", "", [0], "device", "command") for name in names]

    recall.save(rows("mqar", "aftermath"), {"mqar", "aftermath"})
    recall.save(rows("mqar"), {"mqar"})
    assert [row.metric for row in read(tmp_path / "results/recall/recall.json")] == [
        "aftermath, default",
        "mqar, default",
    ]
