"""Does the memory learn to recall, and which part of it for what: `python -m benchmarks.recall`, on a GPU.

Memory alone: no attention, no feed-forward, no persistent tokens. Multi-query associative recall is trained with the
published mix of lengths, whose two longest test sets are never trained on, for EPOCHS rounds of it (published: 32) at
four learning rates; the best one, by seed 0, is run with more seeds. "State" counts weights and momentum of all layers.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import mean

import torch

from app.versions import device_name
from benchmarks.recall.training import Job, Run
from benchmarks.shared.at_once import train
from benchmarks.shared.rows import Row, path_of, read, spread, write
from memory import BackboneConfig, MemoryConfig, TitansBackbone

RATES = [1e-3, 10**-2.5, 1e-2, 10**-1.5]  # as published
EPOCHS = 4


@dataclass
class Entry:
    """A memory on a task, trained with seeds 0, 1, ... at the learning rate that is best for seed 0."""

    task: str
    name: str
    backbone: BackboneConfig
    epochs: int
    seeds: int
    rates: list[float] = field(default_factory=lambda: [RATES[1]])
    must: str = ""
    aim: str = ""

    def job(self, rate: float, seed: int) -> Job:
        return Job(self.name, self.task, self.backbone, rate, seed, self.epochs)


def backbone(dim: int, layers: int = 2, **memory: object) -> BackboneConfig:
    """Memory alone; heads of 64 unless it says otherwise."""
    memory = {"heads": dim // 64} | memory
    return BackboneConfig(dim=dim, layers=layers, heads=1, persistent=0, memory=MemoryConfig(**memory))


def entries() -> list[Entry]:
    """Everything that is measured. The matrix has heads of 128 and so the same state as two layers."""
    return [
        Entry("mqar", "default", backbone(128), EPOCHS, 5, RATES, ">= 0.95", ">= 0.995"),
        Entry("mqar", "matrix", backbone(256, heads=2, depth=1), EPOCHS, 3, RATES),
        # one block: a second could look the pair up again once it is known to matter
        Entry("aftermath", "default", backbone(64, layers=1), 8, 3),
        Entry("aftermath", "no momentum", backbone(64, layers=1, momentum=False), 8, 3),
        Entry("aftermath", "no momentum, theta_max 30", backbone(64, layers=1, momentum=False, theta_max=30.0), 8, 3),
        Entry("rewritten", "default", backbone(128), 6, 3),
        Entry("rewritten", "no forgetting", backbone(128, forgetting=False), 6, 3),
    ]


GAINS = [  # a task, a test set or all, what should win there, over what, and by how many points of accuracy
    ("mqar", "all", "default", ["matrix"], ">= 0"),
    ("mqar", "256/64", "default", ["matrix"], ">= 0"),
    ("mqar", "512/128", "default", ["matrix"], ">= 0"),
    ("mqar", "1024/256", "default", ["matrix"], ">= 10"),  # twice as many pairs as the matrix has key channels
    ("aftermath", "all", "default", ["no momentum", "no momentum, theta_max 30"], ">= 5"),
    ("rewritten", "all", "default", ["no forgetting"], ">= 5"),
]


def state_floats(config: BackboneConfig) -> int:
    """Numbers that one sequence's memory holds: weights of all layers and, with momentum, as many again."""
    memories = TitansBackbone(config).memories().values()
    return sum(w.numel() for memory in memories for w in memory.init) * (1 + config.memory.momentum)


def average(result: dict) -> float:
    """Mean accuracy over test sets."""
    return mean(result["scores"].values())


class Study:
    """Runs entries, and keeps a row for everything that was tried."""

    def __init__(self, chosen: list[Entry], device: str, at_once: int, command: str) -> None:
        self.chosen, self.device, self.at_once, self.command = chosen, device, at_once, command
        self.results: dict[tuple[str, str, float], dict[int, dict]] = defaultdict(dict)

    def run(self) -> None:
        """All learning rates with seed 0, then the other seeds at each entry's best."""
        self._train([entry.job(rate, 0) for entry in self.chosen for rate in entry.rates])
        self._train([e.job(self.best(e), seed) for e in self.chosen for seed in range(1, e.seeds)])

    def best(self, entry: Entry) -> float:
        return max(entry.rates, key=lambda rate: average(self.results[entry.task, entry.name, rate][0]))

    def _train(self, jobs: list[Job]) -> None:
        for job, result in train(jobs, lambda job: Run(job, self.device), self.at_once):
            self.results[job.task, job.name, job.lr][job.seed] = result
            scores = " ".join(f"{name} {score:.3f}" for name, score in result["scores"].items())
            losses = " ".join(f"{x:.2f}" for x in result["losses"][::4])
            print(f"{job.task}, {job.name}, {job.lr:.1e}, seed {job.seed}: {scores}; loss {losses}", flush=True)

    def rows(self) -> list[Row]:
        """One for each learning rate of each entry, then one for each gain."""
        rows, best = [], {}
        for entry in self.chosen:
            for rate in entry.rates:
                results, chosen = self.results[entry.task, entry.name, rate], rate == self.best(entry)
                values = self._scores(results, "all")
                what = f"{entry.task}, {entry.name}, learning rate {rate:.1e}"
                bounds = (entry.must, entry.aim) if chosen else ("", "")
                rows.append(self._row(what, values, "accuracy", bounds, list(results), self._note(entry, results)))
                if chosen:
                    best[entry.task, entry.name] = results
        for task, part, name, others, must in GAINS:
            if all((task, other) in best for other in (name, *others)):
                theirs = max(mean(self._scores(best[task, other], part)) for other in others)
                points = 100 * (mean(self._scores(best[task, name], part)) - theirs)
                what = f"{task}, test set {part}: {name} less {' or '.join(others)}"
                rows.append(self._row(what, [points], "points", (must, ""), []))
        return rows

    @staticmethod
    def _scores(results: dict[int, dict], part: str) -> list[float]:
        """Accuracy of each seed on a test set, or the mean of all."""
        return [average(r) if part == "all" else r["scores"][part] for r in results.values()]

    def _row(self, what: str, values: list[float], unit: str, bounds: tuple, seeds: list[int], note: str = "") -> Row:
        device = device_name(torch.device(self.device))
        return Row(what, mean(values), spread(values), unit, *bounds, seeds, device, self.command, note=note)

    def _note(self, entry: Entry, results: dict[int, dict]) -> str:
        first = next(iter(results.values()))
        slices = [f"{s} {mean(r['scores'][s] for r in results.values()):.3f}" for s in first["scores"]]
        lowest = f"lowest seed {min(map(average, results.values())):.3f}"
        parts = [*(slices if len(slices) > 1 else []), *([lowest] if len(results) > 1 else [])]
        sizes = f"state {state_floats(entry.backbone)}, {first['parameters']} parameters, {first['steps']} steps"
        return "; ".join([*parts, sizes])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recall", description=__doc__)
    parser.add_argument("--only", help="tasks, separated by commas (all)")
    parser.add_argument("--at-once", type=int, default=3, help="runs that share the device (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    given = parser.parse_args(argv)
    chosen, known = entries(), {entry.task for entry in entries()}
    if given.only:
        for task in given.only.split(","):
            if task not in known:
                parser.error(f"--only {task}: no such task; there are {', '.join(sorted(known))}")
        chosen = [entry for entry in chosen if entry.task in given.only.split(",")]
    command = f"python -m benchmarks.recall --device {given.device}" + (f" --only {given.only}" if given.only else "")
    study = Study(chosen, given.device, given.at_once, command)
    study.run()
    save(study.rows(), {entry.task for entry in chosen})


def save(rows: list[Row], tasks: set[str]) -> None:
    """Write the rows of these tasks beside those of others that an earlier command left."""
    path = path_of("recall", "recall")
    kept = [row for row in read(path) if row.metric.split(",")[0] not in tasks] if path.exists() else []
    write("recall", "recall", kept + rows)


if __name__ == "__main__":
    main()
