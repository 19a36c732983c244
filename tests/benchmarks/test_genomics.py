"""The benchmark of genomics: recipes that build, controls that are controls, and a table that can be resumed."""

from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from benchmarks.genomics import training as genomics_training
from benchmarks.genomics.__main__ import rows_of
from benchmarks.genomics.tasks import TASKS, DataSet, Planted
from benchmarks.genomics.training import BACKBONES, Job, Run, build, evaluate
from benchmarks.shared.at_once import train
from benchmarks.shared.runs import resolved
from data_prep.genomics import GENOMIC_BENCHMARKS, SETS
from domains.genomics.sample import sample_records

SMALL = (
    *("--trainer.max_epochs=2", "--data.batch_size=32", "--model.backbone.dim=16", "--model.backbone.layers=1"),
    *("--model.backbone.memory.heads=1", "--model.head.conv_layers=1"),
)


def small(*changes: str) -> dict:
    """The recipe of a task, made small."""
    return TASKS["gue/tf_0"].recipe((*SMALL, *changes))


class Generated(DataSet):
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
        module = build(Job(name, backbone, 0, TASKS[name].recipe(), "cpu"), 5)
        assert sum(p.numel() for p in module.parameters()) <= 1_000_000


def test_the_tasks_are_those_of_the_goals() -> None:
    assert len([task for task in TASKS.values() if task.group == "nine whole GUE tasks"]) == 9
    assert set(GENOMIC_BENCHMARKS) < set(TASKS)
    assert {name for name, task in TASKS.items() if task.group} < set(SETS)


def test_the_switched_off_memory_is_one_that_takes_no_steps() -> None:
    still, off = (build(Job("gue/tf_0", backbone, 0, small(), "cpu"), 2).eval() for backbone in ("lmm", "memory off"))
    assert [p.shape for p in still.parameters()] == [p.shape for p in off.parameters()]
    batch = Generated().batch("val", torch.arange(8))  # of several lengths
    written = still(batch)
    still.backbone.blocks[0].mixers[0].memory.theta_max = 0.0
    torch.testing.assert_close(off(batch), still(batch))
    assert not torch.allclose(off(batch), written)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_training_keeps_the_best_epoch(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.3, 0.9])
    seen = []

    def evaluated(module, source, part, job):
        seen.append((part, module.head.out.weight.clone()))
        return next(scores)

    monkeypatch.setattr(genomics_training, "evaluate", evaluated)
    monkeypatch.setattr(genomics_training, "source_of", lambda *_: Generated())
    job = Job("gue/tf_0", backbone, 0, small("--trainer.max_epochs=3"), "cpu")
    [(trained, result)] = train([job], Run, 2)
    assert trained is job and (result["val"], result["test"], result["steps"]) == (0.5, 0.9, 9)
    assert [part for part, _ in seen] == ["val", "val", "test"]  # nothing is kept of the first epoch
    assert torch.equal(seen[2][1], seen[0][1]) and not torch.equal(seen[1][1], seen[0][1])


def test_runs_beside_each_other_learn_what_they_learn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genomics_training, "source_of", lambda *_: Generated())
    recipe = small(
        "--trainer.max_epochs=1", "--model.backbone.dropout=0", "--model.head.dropout=0"
    )  # else they would draw from one generator
    jobs = [Job("gue/tf_0", "swa", seed, recipe, "cpu") for seed in range(2)]
    alone = [next(train([job], Run, 1))[1] for job in jobs]
    both = {job.seed: result for job, result in train(jobs, Run, 2)}
    assert [both[seed]["val"] for seed in range(2)] == [result["val"] for result in alone]


@pytest.mark.gpu
def test_a_captured_step_is_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genomics_training, "source_of", lambda *_: source)
    source = Generated()
    source.parts = {part: (found.to("cuda"), labels.cuda()) for part, (found, labels) in source.parts.items()}
    recipe = small("--model.backbone.dim=64", "--model.backbone.dropout=0", "--model.head.dropout=0")
    captured, plain = (Run(Job("gue/tf_0", "lmm", 0, recipe, "cuda")) for _ in range(2))
    before = parameters_to_vector(plain.module.parameters()).detach().clone()
    batches = [source.batch("train", made) for made in source.batches(0, 32, 0)]
    for run in (captured, plain):
        run.lr.fill_(1e-3)
    for batch in (batches[0], *batches):
        with torch.cuda.stream(plain.stream):
            plain._update(batch)
    for batch in batches:  # the first is taken twice, before the capture
        with torch.cuda.stream(captured.stream):
            captured._step(batch)
    torch.cuda.synchronize()
    ours, theirs = (parameters_to_vector(run.module.parameters()).detach() - before for run in (captured, plain))
    assert (ours - theirs).norm() < 0.1 * theirs.norm()  # Adam turns what rounding does to small gradients into steps


def test_seeds_differ_in_their_batches() -> None:
    source = Generated()
    first, again, other = (torch.cat(source.batches(0, 16, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_scores_count_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    job, source = Job("gue/tf_0", "lmm", 0, small(), "cpu"), Generated()
    shapes = []

    def metric(truth, found):
        shapes.append((truth.shape, found.shape))
        return 0.25

    monkeypatch.setitem(genomics_training.METRICS, "MCC", metric)
    assert evaluate(build(job, 3), source, "test", job) == 0.25
    assert shapes == [((len(source.parts["test"][1]),),) * 2]


def test_planted_distances_grow_to_the_one_that_is_asked() -> None:
    source = object.__new__(Planted)
    source.distance, source.epochs = 8192, 30
    distances = [{made[1] for made in source.batches(epoch, 32, 0)} for epoch in range(30)]
    assert distances[0] == distances[6] == {16} and distances[-1] == distances[-7] == {8192}
    assert all(len(d) == 1 for d in distances) and sorted(map(max, distances)) == [*map(max, distances)]
    rows = {made[1]: made[2] for epoch in range(30) for made in source.batches(epoch, 32, 0)}
    assert (rows[16], rows[2048], rows[4096], rows[8192]) == (128, 128, 64, 32)  # short ones cost less
    seeds = [made[0] for run in range(2) for epoch in range(30) for made in source.batches(epoch, 32, run)]
    assert len(set(seeds)) == len(seeds)


def test_the_config_of_a_task_is_what_the_table_trains(capsys: pytest.CaptureFixture) -> None:
    config = Path(__file__).parents[2] / "conf" / TASKS["gue/prom_core_tata"].config
    assert TASKS["gue/prom_core_tata"].recipe() == resolved(["--config", str(config)])
    recipe = small("--model.optim.lr=0.01", "--model.head.pool=attention")
    module = build(Job("gue/tf_0", "attention", 0, recipe, "cpu"), 2)
    assert module.optim.lr == 0.01 and module.backbone.config.variant == "attention"
    assert Job("a", "lmm", 0, recipe, "cpu").file != Job("a", "lmm", 0, small(), "cpu").file
    with pytest.raises(SystemExit, match="2"):
        small("--model.optim.lrr=1")
    assert "lrr" in capsys.readouterr().err


def result(test: float) -> dict:
    return {"val": 0.7, "test": test, "parameters": 10, "steps": 5, "seconds": 1.0, "device": "x", "commit": "c"}


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
