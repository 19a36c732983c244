"""Train and test the classifier of DNA from scratch: `python -m benchmarks.genomics`, on one GPU.

Every run is `python -m app fit` and then `test` with a config conf/genomics_*.yaml and a task's options in its place;
with the Titans memory, with `attention` and `swa` instead, and with the memory switched off (no token is written), from
three seeds; on data sets also with a network of convolutions, `legnet`, and with tables of k-mers, `kmers`. The epoch
is chosen on validation, and the test part is read once. Finished runs are not run again. A row is written when all its
seeds are finished, and rows of what is not asked for stay, so that the table may be filled in several goes.
GenomicBenchmarks in full (`python -m data_prep genomics --set all`) is trained by `--tasks NAME` for its names and was
not run here. Options of `fit` may follow and change all runs alike, e.g. `--model.optim.lr 1e-3`.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from statistics import mean
from typing import Any

from app.door import respelled
from benchmarks.genomics.floors import floors_of
from benchmarks.genomics.tasks import GROUPS, METRICS, TASKS
from benchmarks.shared.rows import Row, command_line, earlier, spread, write
from benchmarks.shared.runs import Run, digest, finish, resolved, seeded, share_of_gpu
from data_prep.genomics import GENOMIC_BENCHMARKS

RENAMED = {"--at-once": "--workers", "--device": "--trainer.accelerator"}  # old spellings
_LOCAL = ["--model.backbone.variant=benchmarks.genomics.tokenwise.Nothing", "--model.head.read=forward"]
BACKBONES = {  # options of `fit`
    "lmm": ["--model.backbone.variant=lmm"],
    "memory off": ["--model.backbone.variant=lmm", "--trainer.callbacks+=benchmarks.genomics.controls.ReadStart"],
    "attention": ["--model.backbone.variant=attention"],
    "swa": ["--model.backbone.variant=swa"],
    "legnet": ["--model.head=benchmarks.genomics.legnet.LegNetHead", *_LOCAL, "--model.backbone.layers=1"],
    "kmers": ["--model.head=benchmarks.genomics.kmers.KmerHead", *_LOCAL],
}
LOCAL = ("legnet", "kmers")  # what is planted far apart, these cannot see
FLOORS = ("majority", "length only", "k-mer LR")
COLUMNS = ("floors", *BACKBONES)

Key = tuple[str, str]  # a task, and one of COLUMNS
Result = dict[str, Any]  # results.json of a finished run


def label_of(task: str, backbone: str) -> str:
    """What the folders of a cell's runs begin with."""
    return "dna_" + re.sub(r"[^\w.]+", "-", f"{task}_{backbone}")


def runs_of(task: str, backbone: str, seeds: int, more: Sequence[str]) -> list[Run]:
    """The runs of one model on one task, or the one run of its floors."""
    if backbone == "floors":
        options = [*TASKS[task].command, *more]
        return [Run(f"{label_of(task, backbone)}_{digest(resolved(options))}", tuple(options))]
    quiet = ["--data.floors=false"] if TASKS[task].floors else []
    return seeded(label_of(task, backbone), [*TASKS[task].command, *BACKBONES[backbone], *quiet, *more], seeds)


def rows_of(results: dict[Key, list[Result]], command: str) -> list[Row]:
    """The table of all that is finished."""
    rows = []
    for name in dict.fromkeys(task for task, _ in results):
        task = TASKS[name]
        for found in results.get((name, "floors"), []):
            commit = found["versions"]["commit"]
            for floor in FLOORS:
                value = found["floors"][floor][METRICS[task.metric]]
                rows.append(Row(f"{name}: {floor}", value, None, task.metric, "", "", [], "CPU", command, commit))
        for backbone in BACKBONES:
            if found := results.get((name, backbone)):
                bounds = (task.must, task.aim) if backbone == "lmm" else ("", "")
                values = [result["metrics"][f"test/{METRICS[task.metric]}"] for result in found]
                rows.append(_row(f"{name}: {backbone}", task.metric, values, found, bounds, command))
    for group, bounds in GROUPS.items():
        members = [name for name, task in TASKS.items() if task.group == group]
        for backbone in BACKBONES:
            cells = [results.get((name, backbone), []) for name in members]
            if not all(cells) or len({len(cell) for cell in cells}) > 1:
                continue
            by_seed = [*zip(*cells, strict=True)]
            values = [mean(result["metrics"]["test/mcc"] for result in one) for one in by_seed]
            whole = [result for one in by_seed for result in one]
            wanted = bounds if backbone == "lmm" else ("", "")
            rows.append(_row(f"mean of {group}: {backbone}", "MCC", values, whole, wanted, command))
    return rows


def _row(
    metric: str, unit: str, values: list[float], found: list[Result], bounds: tuple[str, str], command: str
) -> Row:
    validation, seconds = (mean(result[name] for result in found) for name in ("validation", "seconds"))
    parameters, steps = (max(result[name] for result in found) for name in ("parameters", "steps"))
    cut = ", PARTIAL: test batches left out" if any(result["partial"] for result in found) else ""
    return Row(
        metric=metric,
        value=mean(values),
        spread=spread(values),
        unit=unit,
        must="" if cut else bounds[0],
        aim="" if cut else bounds[1],
        seeds=sorted({result["seed"] for result in found}),
        device=", ".join(sorted({result["device"] for result in found})),
        command=command,
        commit=", ".join(sorted({str(result["versions"]["commit"]) for result in found})),
        note=f"validation MCC {validation:.3f}, {parameters:,} parameters, {steps:,} steps, {seconds:.0f} s a run{cut}",
    )


def save(name: str, rows: list[Row]) -> None:
    """Write these rows among those of the file that were not measured now, in the order of the whole table."""
    found = {row.metric: row for row in [*earlier("genomics", name), *rows]}
    whats = [*TASKS, *(f"mean of {group}" for group in GROUPS)]
    order = [f"{what}: {column}" for what in whats for column in (*FLOORS, *BACKBONES)]
    write("genomics", name, [found[metric] for metric in order if metric in found])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.genomics", description=__doc__)
    tasks = [name for name in TASKS if name not in GENOMIC_BENCHMARKS]
    parser.add_argument("--tasks", default=",".join(tasks), help="names or parts of names, by commas")
    parser.add_argument("--backbones", default=",".join(COLUMNS), help="separated by commas (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of every run (%(default)s)")
    parser.add_argument("--workers", type=int, help="runs at a time (a core each with a GPU, else two)")
    parser.add_argument("--name", default="genomics", help="of the file in results/genomics (%(default)s)")
    given, more = parser.parse_known_args(respelled(sys.argv[1:], RENAMED))  # options of `fit`, for all tasks
    wanted = [part.strip() for part in given.tasks.split(",")]
    for part in wanted:
        if not any(part in name for name in TASKS):
            parser.error(f"--tasks {part}: no such task; there are {', '.join(TASKS)}")
    backbones = given.backbones.split(",")
    for backbone in backbones:
        if backbone not in COLUMNS:
            parser.error(f"--backbones {backbone}: no such model; there are {', '.join(COLUMNS)}")
    names = [name for name in TASKS if any(name == part or (part in name and part not in TASKS) for part in wanted)]
    cells: dict[Key, list[Run]] = {}
    for name in names:
        for backbone in backbones:
            if backbone in ("floors", *LOCAL) and not TASKS[name].floors:
                continue
            cells[name, backbone] = runs_of(name, backbone, given.seeds, more)
    command = command_line("genomics")
    finished: dict[Run, Result] = {}

    def table() -> None:
        whole = {key: runs for key, runs in cells.items() if all(run in finished for run in runs)}
        results = {key: [finished[run] for run in runs] for key, runs in whole.items()}
        save(given.name, rows_of(results, command))

    floors = [run for (_, backbone), runs in cells.items() if backbone == "floors" for run in runs]
    # the longest tasks stand last, and are begun first, so that none runs alone in the end
    trained = [run for (_, backbone), runs in reversed(cells.items()) if backbone != "floors" for run in runs]
    workers = share_of_gpu(given.workers)
    for todo, work in ((floors, (floors_of,)), (trained, ())):
        for run, result in finish(todo, workers, *work):
            finished[run] = result
            print(f"{len(finished)} of {len(floors) + len(trained)}: {run.name}", flush=True)
            table()


if __name__ == "__main__":
    main()
