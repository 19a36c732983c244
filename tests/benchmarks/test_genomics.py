"""The benchmark of genomics: recipes that build, controls that are controls, and a table that can be resumed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import genomics
from benchmarks.genomics import BACKBONES, TASKS, Job, Planted, Recipe, build, overridden, rows_of, train
from data_prep.genomics import GENOMIC_BENCHMARKS, SETS
from domains.genomics.sample import sample_records

SMALL = Recipe(epochs=2, batch=32, dim=16, layers=1, memory_heads=1, head={"conv_layers": 1})


class Generated(genomics.DataSet):
    """A small set in the place of a task's."""

    def __init__(self) -> None:
        self.classes = ["gata", "none", "tata"]
        records = sample_records(rows=160)
        labels = torch.tensor([self.classes.index(label) for label in records.labels])
        parts = {part: torch.tensor((records.splits == part).nonzero()[0]) for part in ("train", "val", "test")}
        self.parts = {part: (records.sequences.select(rows), labels[rows]) for part, rows in parts.items()}
        self.width, self.padded, self.rows = 140, True, len(parts["train"])


@pytest.mark.parametrize("name", TASKS)
def test_every_recipe_keeps_the_budget(name: str) -> None:
    for backbone in BACKBONES:
        module = build(Job(name, backbone, 0, TASKS[name].recipe, "cpu"), ["a", "b", "c", "d", "e"])
        assert sum(p.numel() for p in module.parameters()) <= 1_000_000


def test_the_tasks_are_those_of_the_goals() -> None:
    assert len([task for task in TASKS.values() if task.group == "nine whole GUE tasks"]) == 9
    assert set(GENOMIC_BENCHMARKS) < set(TASKS)
    assert {name for name, task in TASKS.items() if task.group} < set(SETS)


def test_the_switched_off_memory_never_moves() -> None:
    on, off = (build(Job("gue/tf_0", backbone, 0, SMALL, "cpu"), ["a", "b"]) for backbone in ("lmm", "memory off"))
    assert [p.shape for p in on.parameters()] == [p.shape for p in off.parameters()]
    x = torch.randn(2, 40, 16)
    for module, moves in ((on, True), (off, False)):
        memory = module.backbone.blocks[0].mixers[0].memory
        before = memory.initial_state(2).fast.weights
        after = memory(x)[1].fast.weights
        gap = max((a - b).abs().max() for a, b in zip(after, before, strict=True))
        assert (gap > 1e-4) == moves


@pytest.mark.parametrize("backbone", BACKBONES)
def test_training_keeps_the_best_epoch(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.3, 0.9])
    seen = []

    def evaluate(module, source, part, job, metric):
        seen.append((part, module.head.out.weight.clone()))
        return next(scores)

    monkeypatch.setattr(genomics, "evaluate", evaluate)
    job = Job("gue/tf_0", backbone, 0, SMALL, "cpu")
    source = Generated()
    assert train(build(job, source.classes), source, job, genomics.METRICS["MCC"]) == (0.5, 0.9)
    assert [part for part, _ in seen] == ["val", "val", "test"]
    assert torch.equal(seen[2][1], seen[0][1]) and not torch.equal(seen[1][1], seen[0][1])


def test_scores_count_every_row() -> None:
    job, source = Job("gue/tf_0", "lmm", 0, SMALL, "cpu"), Generated()
    module = build(job, source.classes)
    shapes = []

    def metric(truth, found):
        shapes.append((truth.shape, found.shape))
        return 0.25

    assert genomics.evaluate(module, source, "test", job, metric) == 0.25
    assert shapes == [((len(source.parts["test"][1]),),) * 2]


def test_planted_distances_grow_to_the_one_that_is_asked() -> None:
    source = object.__new__(Planted)
    source.distance, source.epochs = 8192, 30
    distances = [{made[1] for made in source.batches(epoch, 32)} for epoch in range(30)]
    assert distances[0] == distances[6] == {16} and distances[-1] == distances[-7] == {8192}
    assert all(len(d) == 1 for d in distances) and sorted(map(max, distances)) == [*map(max, distances)]
    seeds = [made[0] for epoch in range(30) for made in source.batches(epoch, 32)]
    assert len(set(seeds)) == len(seeds)


def test_a_recipe_is_overridden_by_name() -> None:
    recipe = overridden(SMALL, ["lr=0.01", "head.pool=attention", "head.bins=3"])
    assert recipe == replace(SMALL, lr=0.01, head={"conv_layers": 1, "pool": "attention", "bins": 3})
    assert Job("a", "lmm", 0, recipe, "cpu").file != Job("a", "lmm", 0, SMALL, "cpu").file
    with pytest.raises(ValueError, match="--override lrr: no such key; choose epochs"):
        overridden(SMALL, ["lrr=1"])


def result(test: float) -> dict:
    return {"val": 0.7, "test": test, "parameters": 10, "seconds": 1.0, "device": "x", "commit": "c"}


def test_the_table_has_means_spreads_floors_and_the_groups_mean(tmp_path: Path) -> None:
    members = [name for name, task in TASKS.items() if task.group]
    results = {(name, "lmm", seed): result(0.6 + seed / 10) for name in members for seed in range(3)}
    results["gue/tf_0", "floors", 0] = {"floors": {"majority": 0.0, "length only": 0.1, "k-mer LR": 0.62}}
    results["gue/tf_0", "swa", 0] = result(0.5)
    rows = {row.metric: row for row in rows_of(results, "x")}
    assert rows["gue/tf_0: lmm"].value == pytest.approx(0.7) and rows["gue/tf_0: lmm"].spread == pytest.approx(0.1)
    assert rows["gue/tf_0: k-mer LR"].value == 0.62
    whole = rows["mean of nine whole GUE tasks: lmm"]
    assert whole.value == pytest.approx(0.7) and whole.misses() == [] and whole.seeds == [0, 1, 2]
    assert "mean of nine whole GUE tasks: swa" not in rows  # it lacks tasks
    assert rows["gue/prom_core_tata: lmm"].must == ">= 0.70" and rows["gue/tf_0: swa"].must == ""
