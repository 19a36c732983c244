"""Train and test the classifier of DNA from scratch: `python -m benchmarks.genomics`, on one GPU.

Every task has a config of `python -m app fit`, conf/genomics_gue.yaml or conf/genomics_sites.yaml, and options in its
place; it is trained with the Titans memory, with `attention` and `swa` instead, and with the memory switched off (no
token is written), from three seeds. The epoch is chosen on validation, and the test part is read once. That is 192 runs
of 233,952 steps in all: half an hour leaves 7.7 ms for a step, captures and validations included. A finished run is
kept, so that a stopped command goes on where it was. GenomicBenchmarks in full (`python -m data_prep genomics --set
all`) is trained by `--tasks NAME` for its names and was not run here. Options of `fit` may follow and change all runs
alike, e.g. `--model.optim.lr 1e-3`.
"""

import argparse
import json
import shlex
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.genomics.tasks import GROUPS, TASKS, load
from benchmarks.genomics.training import BACKBONES, Job, Run
from benchmarks.shared.at_once import train
from benchmarks.shared.rows import Row, spread, write
from data_prep.genomics import GENOMIC_BENCHMARKS
from domains.genomics.report import floors


def floors_of(job: Job) -> dict[str, Any]:
    """What says nothing about biology, on the test part of a job's task."""
    torch.set_num_threads(1)
    _, parts = load(job.task)
    split = [(sequences, labels.numpy()) for sequences, labels in (parts[p] for p in ("train", "val", "test"))]
    key = {"accuracy": "accuracy", "MCC": "mcc", "macro-F1": "macro_f1"}[TASKS[job.task].metric]
    return {"floors": {name: scores[key] for name, scores in floors(*split).items()}}


def rows_of(results: dict[tuple[str, str, int], dict[str, Any]], command: str) -> list[Row]:
    """The table of all finished jobs, by (task, backbone, seed)."""
    rows = []
    tasks = list(dict.fromkeys(name for name, _, _ in results))
    for name in tasks:
        task = TASKS[name]
        for floor in ("majority", "length only", "k-mer LR"):
            if found := results.get((name, "floors", 0)):
                about = {"unit": task.metric, "must": "", "aim": "", "seeds": [], "device": "CPU", "command": command}
                rows.append(Row(metric=f"{name}: {floor}", value=found["floors"][floor], spread=None, **about))
        for backbone in BACKBONES:
            found = {seed: one for (n, b, seed), one in results.items() if (n, b) == (name, backbone)}
            if found:
                bounds = (task.must, task.aim) if backbone == "lmm" else ("", "")
                rows.append(_row(f"{name}: {backbone}", task.metric, found, bounds, command))
    for group, bounds in GROUPS.items():
        members = [name for name, task in TASKS.items() if task.group == group]
        for backbone in BACKBONES:
            seeds = {seed for n, b, seed in results if n in members and b == backbone}
            whole = {
                seed: {
                    **results[members[0], backbone, seed],
                    "test": mean(results[name, backbone, seed]["test"] for name in members),
                    "val": mean(results[name, backbone, seed]["val"] for name in members),
                    "steps": sum(results[name, backbone, seed]["steps"] for name in members),
                    "seconds": sum(results[name, backbone, seed]["seconds"] for name in members),
                    "parameters": max(results[name, backbone, seed]["parameters"] for name in members),
                }
                for seed in seeds
                if all((name, backbone, seed) in results for name in members)
            }
            if whole:
                wanted = bounds if backbone == "lmm" else ("", "")
                rows.append(_row(f"mean of {group}: {backbone}", "MCC", whole, wanted, command))
    return rows


def _row(metric: str, unit: str, found: dict[int, dict[str, Any]], bounds: tuple[str, str], command: str) -> Row:
    values = [one["test"] for _, one in sorted(found.items())]
    seconds, parameters = mean(one["seconds"] for one in found.values()), max(o["parameters"] for o in found.values())
    first = next(iter(found.values()))
    return Row(
        metric=metric,
        value=mean(values),
        spread=spread(values),
        unit=unit,
        must=bounds[0],
        aim=bounds[1],
        seeds=sorted(found),
        device=first["device"],
        command=command,
        commit=first["commit"],
        note=f"validation {mean(one['val'] for one in found.values()):.3f}, {parameters:,} parameters, "
        f"{first['steps']:,} steps, {seconds:.0f} s beside others",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.genomics", description=__doc__)
    tasks = [name for name in TASKS if name not in GENOMIC_BENCHMARKS]
    parser.add_argument("--tasks", default=",".join(tasks), help="names or parts of names, by commas")
    parser.add_argument("--backbones", default=",".join(BACKBONES), help="separated by commas (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of every run (%(default)s)")
    parser.add_argument("--at-once", type=int, help="runs that share the device; by default 6 on a GPU, 1 on a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench_genomics"), help="finished runs (%(default)s)")
    parser.add_argument("--name", default="genomics", help="of the file in results/genomics (%(default)s)")
    given, more = parser.parse_known_args()  # options of `fit`, for all tasks
    wanted = [part.strip() for part in given.tasks.split(",")]
    names = [name for name in TASKS if any(name == part or (part in name and part not in TASKS) for part in wanted)]
    jobs = []
    for name in names:
        recipe = TASKS[name].recipe(more)
        if not TASKS[name].distance:
            jobs.append(Job(name, "floors", 0, {}, "cpu"))
        for backbone in given.backbones.split(","):
            jobs += [Job(name, backbone, seed, recipe, given.device) for seed in range(given.seeds)]
    given.runs.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "benchmarks.genomics", *more])
    results = {}
    for job in jobs:
        if (file := given.runs / job.file).is_file():
            results[job.task, job.backbone, job.seed] = json.loads(file.read_text())
    left = [job for job in jobs if (job.task, job.backbone, job.seed) not in results]
    left.sort(key=lambda job: -TASKS[job.task].distance)  # the longest first, so that none runs alone in the end
    order = {(job.task, job.backbone, job.seed): index for index, job in enumerate(jobs)}

    def table() -> None:
        write("genomics", given.name, rows_of(dict(sorted(results.items(), key=lambda item: order[item[0]])), command))

    at_once = given.at_once or (1 if given.device == "cpu" else 6)
    with ProcessPoolExecutor(4, get_context("spawn")) as pool:
        fitted = [job for job in left if job.backbone == "floors"]
        waiting = zip(fitted, pool.map(floors_of, fitted), strict=True)  # beside the training, on other cores
        for job, result in chain(train([job for job in left if job.backbone != "floors"], Run, at_once), waiting):
            (given.runs / job.file).write_text(json.dumps(result))
            results[job.task, job.backbone, job.seed] = result
            print(f"{job.task}: {job.backbone}, seed {job.seed}: {result}", flush=True)
            table()
    table()


if __name__ == "__main__":
    main()
