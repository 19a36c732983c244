"""Does the memory learn to recall, and which part of it for what: `python -m benchmarks.recall`, on a GPU.

Memory alone: no attention, no feed-forward, no persistent tokens. Every run is `python -m app fit` and then `test` with
conf/recall_TASK.yaml and what an entry changes. Multi-query associative recall is trained with the published mix of
lengths, whose two longest test sets are never trained on, at four learning rates; the one that validates best with seed
0 is run with more seeds. "State" counts weights and momentum of all layers. Finished runs are not run again. Options of
`fit` may follow and change all runs alike, e.g. `--trainer.max_epochs 1 --trainer.limit_train_batches 10`.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from app.door import respelled
from benchmarks.shared.models import backbone_of
from benchmarks.shared.rows import Row, command_line, earlier, spread, write
from benchmarks.shared.runs import CONF, Run, finish, resolved, seeded, share_of_gpu
from memory import TitansBackbone

RENAMED = {"--at-once": "--workers", "--device": "--trainer.accelerator"}  # old spellings
RATES = [1e-3, 10**-2.5, 1e-2, 10**-1.5]  # as published
Result = dict[str, Any]  # results.json of a finished run


@dataclass
class Entry:
    """A memory on a task, trained with seeds 0, 1, ... at the learning rate that validates best with seed 0.

    Args:
        task: one with a config conf/recall_TASK.yaml.
        name: of the memory.
        options: of `fit`, in place of what the config says.
        seeds: how many.
        rates: largest learning rates that are tried; the config's own where there is none.
        must: bound on the accuracy at the best rate.
        aim: likewise.
    """

    task: str
    name: str
    options: list[str]
    seeds: int
    rates: list[float] = field(default_factory=list)
    must: str = ""
    aim: str = ""

    def runs(self, more: Sequence[str]) -> dict[float, list[Run]]:
        """All seeds at every learning rate."""
        options = ["--config", str(CONF / f"recall_{self.task}.yaml"), *self.options, *more]
        rates = self.rates or [resolved(options)["model"]["optim"]["lr"]]
        label = f"recall_{self.task}_{self.name.replace(' ', '-').replace(',', '')}"
        return {rate: seeded(label, [*options, f"--model.optim.lr={rate}"], self.seeds) for rate in rates}


def entries() -> list[Entry]:
    """Everything that is measured. The matrix has heads of 128 and so the same state as two layers."""
    still = "--model.backbone.memory.momentum=false"
    return [
        Entry("mqar", "default", [], 5, RATES, ">= 0.95", ">= 0.995"),
        Entry("mqar", "matrix", ["--model.backbone.dim=256", "--model.backbone.memory.depth=1"], 3, RATES),
        Entry("exact", "default", [], 3, [], ">= 0.99", ">= 0.995"),
        Entry("aftermath", "default", [], 3),
        Entry("aftermath", "no momentum", [still], 3),
        Entry("aftermath", "no momentum, theta_max 30", [still, "--model.backbone.memory.theta_max=30"], 3),
        Entry("rewritten", "default", [], 3),
        Entry("rewritten", "no forgetting", ["--model.backbone.memory.forgetting=false"], 3),
    ]


GAINS = [  # a task, a test set or all, what should win there, over what, and by how many points of accuracy
    ("mqar", "all", "default", ["matrix"], ">= 0"),
    ("mqar", "256/64", "default", ["matrix"], ">= 0"),
    ("mqar", "512/128", "default", ["matrix"], ">= 0"),
    ("mqar", "1024/256", "default", ["matrix"], ">= 10"),  # twice as many pairs as the matrix has key channels
    ("aftermath", "all", "default", ["no momentum", "no momentum, theta_max 30"], ">= 5"),
    ("rewritten", "all", "default", ["no forgetting"], ">= 5"),
]


def state_floats(backbone: dict[str, Any]) -> int:
    """Numbers that one sequence's memory holds: weights of all layers and, with momentum, as many again.

    Args:
        backbone: the `model.backbone` of a config.
    """
    config = backbone_of(backbone)
    memories = TitansBackbone(config).memories().values()
    return sum(w.numel() for memory in memories for w in memory.init) * (1 + config.memory.momentum)


def score(result: Result, part: str = "all") -> float:
    """Accuracy of a run on a test set, or the mean of all."""
    name = "accuracy" if part == "all" else f"accuracy_{part.replace('/', '_')}"
    return result["metrics"][f"test/{name}"]


class Study:
    """Runs entries, and keeps a row for everything that was tried.

    Args:
        chosen: what is measured.
        more: options of `fit` for all of it.
        workers: runs at a time.
        command: command line that measures it again.
    """

    def __init__(self, chosen: list[Entry], more: Sequence[str], workers: int, command: str) -> None:
        self.chosen = chosen
        self.workers = workers
        self.command = command
        self.planned = {(entry.task, entry.name): entry.runs(more) for entry in chosen}
        self.results: dict[tuple[str, str, float], dict[int, Result]] = defaultdict(dict)

    def run(self) -> None:
        """All learning rates with seed 0, of which some may be too large to end, then the other seeds at the best.

        Raises:
            RuntimeError: no learning rate of an entry has trained, or another seed at the best has not.
        """
        try:
            self._train([(entry, rate, 0) for entry in self.chosen for rate in self.planned[entry.task, entry.name]])
        except RuntimeError as error:
            print(f"left out: {error}", file=sys.stderr)
            if not all(self.rates(entry) for entry in self.chosen):
                raise
        self._train([(entry, self.best(entry), seed) for entry in self.chosen for seed in range(1, entry.seeds)])

    def rates(self, entry: Entry) -> list[float]:
        """Those that have trained."""
        return [rate for rate in self.planned[entry.task, entry.name] if (entry.task, entry.name, rate) in self.results]

    def best(self, entry: Entry) -> float:
        """The rate that validates best with seed 0."""
        return max(self.rates(entry), key=lambda rate: self.results[entry.task, entry.name, rate][0]["validation"])

    def _train(self, jobs: list[tuple[Entry, float, int]]) -> None:
        runs = {self.planned[entry.task, entry.name][rate][seed]: (entry, rate, seed) for entry, rate, seed in jobs}
        for run, result in finish([*runs], self.workers):
            entry, rate, seed = runs[run]
            self.results[entry.task, entry.name, rate][seed] = result
            print(f"{entry.task}, {entry.name}, {rate:.1e}, seed {seed}: {score(result):.3f}", flush=True)

    def rows(self) -> list[Row]:
        """One for each learning rate of each entry, then one for each gain."""
        rows: list[Row] = []
        best: dict[tuple[str, str], list[Result]] = {}
        for entry in self.chosen:
            for rate in self.rates(entry):
                by_seed = self.results[entry.task, entry.name, rate]
                results = [by_seed[seed] for seed in sorted(by_seed)]
                chosen = rate == self.best(entry)
                values = [score(result) for result in results]
                what = f"{entry.task}, {entry.name}, learning rate {rate:.1e}"
                bounds = (entry.must, entry.aim) if chosen and not _cut(results) else ("", "")
                rows.append(self._row(what, values, "accuracy", bounds, results, _note(results)))
                if chosen:
                    best[entry.task, entry.name] = results
        for task, part, name, others, must in GAINS:
            if all((task, other) in best for other in (name, *others)):
                means = {other: mean(score(result, part) for result in best[task, other]) for other in (name, *others)}
                points = 100 * (means[name] - max(means[other] for other in others))
                what = f"{task}, test set {part}: {name} less {' or '.join(others)}"
                cut = any(_cut(best[task, other]) for other in means)
                rows.append(self._row(what, [points], "points", ("" if cut else must, ""), best[task, name]))
        return rows

    def _row(
        self, what: str, values: list[float], unit: str, bounds: tuple[str, str], results: list[Result], note: str = ""
    ) -> Row:
        return Row(
            metric=what,
            value=mean(values),
            spread=spread(values),
            unit=unit,
            must=bounds[0],
            aim=bounds[1],
            seeds=[result["seed"] for result in results] if note else [],
            device=results[0]["device"],
            command=self.command,
            commit=results[0]["versions"]["commit"],
            note=note,
        )


def _cut(results: list[Result]) -> bool:
    """Whether test batches were left out, so that a score is held to no bound."""
    return any(result["partial"] for result in results)


def _note(results: list[Result]) -> str:
    """What a reader should know of an entry at one learning rate."""
    first = results[0]
    kinds = [name for name in first["metrics"] if name.startswith("test/accuracy_")]
    means = {name: mean(result["metrics"][name] for result in results) for name in kinds}
    parts = [f"{name.removeprefix('test/accuracy_').replace('_', '/')} {value:.3f}" for name, value in means.items()]
    if len(results) > 1:
        parts.append(f"lowest seed {min(map(score, results)):.3f}")
    size = f"state {state_floats(first['config']['model']['backbone'])}"
    if _cut(results):
        parts.append("PARTIAL: test batches left out")
    return "; ".join([*parts, f"{size}, {first['parameters']} parameters, {first['steps']} steps"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recall", description=__doc__)
    parser.add_argument("--only", help="tasks, separated by commas (all)")
    parser.add_argument("--workers", type=int, help="runs at a time (a core each with a GPU, else two)")
    parser.add_argument("--name", default="recall", help="of the file in results/recall (%(default)s)")
    given, more = parser.parse_known_args(respelled(sys.argv[1:], RENAMED))  # options of `fit`, for all runs
    chosen = entries()
    if given.only:
        known = {entry.task for entry in chosen}
        for task in given.only.split(","):
            if task not in known:
                parser.error(f"--only {task}: no such task; there are {', '.join(sorted(known))}")
        chosen = [entry for entry in chosen if entry.task in given.only.split(",")]
    command = command_line("recall")
    study = Study(chosen, more, share_of_gpu(given.workers), command)
    study.run()
    save(given.name, study.rows(), {entry.task for entry in chosen})


def save(name: str, rows: list[Row], tasks: set[str]) -> None:
    """Write the rows of these tasks beside those of others that an earlier command left."""
    kept = [row for row in earlier("recall", name) if row.metric.split(",")[0] not in tasks]
    write("recall", name, kept + rows)


if __name__ == "__main__":
    main()
