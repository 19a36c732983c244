"""Train and test the classifier of DNA from scratch: `python -m benchmarks.genomics`, on one GPU.

Every task has a recipe; every recipe is trained with the Titans memory, with `attention` and `swa` in its place, and
with the memory switched off (its inner steps are zero), from three seeds. The epoch is chosen on validation, and the
test part is read once. A finished run is kept, so that a stopped command goes on where it was. GenomicBenchmarks in
full (`python -m data_prep genomics --set all`) is trained by `--tasks NAME` for its names and was not run here.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor
from torch.multiprocessing import get_context

from app.module import TitansModule
from app.optim import OptimConfig
from app.versions import device_name, git_commit
from benchmarks.rows import Row, spread, write
from data_prep.files import data_root
from data_prep.genomics import GENOMIC_BENCHMARKS, PARTS
from domains.genomics import GenomicsData, SequenceHead
from domains.genomics.bases import Sequences
from domains.genomics.data import Batch
from domains.genomics.readers import Layout, read_records
from domains.genomics.report import floors
from domains.genomics.sample import planted_pairs
from memory import BackboneConfig, MemoryConfig

Part = tuple[Sequences, Tensor]  # sequences and class numbers
METRICS = {
    "accuracy": accuracy_score,
    "MCC": matthews_corrcoef,
    "macro-F1": lambda truth, found: f1_score(truth, found, average="macro"),
}
BACKBONES = {  # variant, and whether the memory writes
    "lmm": ("lmm", True),
    "memory off": ("lmm", False),
    "attention": ("attention", True),
    "swa": ("swa", True),
}
OFF = 1e-9  # inner steps of so many times the stability bound: the memory stays what training made its start
SHORTEST = 16  # planted distance that training begins with, so near that a convolution sees both motifs
EVALUATED = 2_000_000  # bases of an evaluated batch, at most


@dataclass(frozen=True)
class Recipe:
    """How a task is trained.

    Args:
        epochs: passes over the train part (planted tasks: over as many new sequences).
        batch: sequences per step.
        lr: peak learning rate.
        weight_decay: of the matrices.
        dim: width.
        layers: blocks.
        memory_heads: memories per block.
        chunk: of the memory.
        window: of `swa`.
        dropout: of the blocks and the head.
        head: further arguments of SequenceHead.
    """

    epochs: int = 12
    batch: int = 256
    lr: float = 2e-3
    weight_decay: float = 0.1
    dim: int = 128
    layers: int = 2
    memory_heads: int = 2
    chunk: int = 16
    window: int = 64
    dropout: float = 0.1
    head: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One data set.

    Args:
        metric: key of METRICS, also of the choice on validation.
        recipe: how it is trained.
        must: bound on the metric with `lmm`.
        aim: likewise.
        group: rows whose mean is a row of its own.
        distance: of a planted task; 0 for a data set.
    """

    metric: str
    recipe: Recipe
    must: str = ""
    aim: str = ""
    group: str = ""
    distance: int = 0


def _tasks() -> dict[str, Task]:
    peak = Recipe(head={"reverse_complement": "average", "hide": 0.05})  # a bound factor has no strand
    few = replace(peak, epochs=25, batch=64, head={"reverse_complement": "average", "hide": 0.1, "dropout": 0.2})
    promoter = Recipe(head={"bins": 7, "hide": 0.05})
    tata = replace(promoter, epochs=30, batch=64, head={"bins": 7, "hide": 0.1, "dropout": 0.2})
    wide = replace(tata, head={**tata.head, "bins": 15})
    splice = Recipe(epochs=30, batch=64, head={"bins": 20, "hide": 0.05, "dropout": 0.2})
    region = Recipe(epochs=20, batch=64, head={"reverse_complement": "average", "hide": 0.1, "dropout": 0.2})
    genome = Recipe(epochs=30, batch=32, dim=64, memory_heads=1, head={"stride": 16, "conv_layers": 1})
    far = Recipe(80, 32, 2e-3, 0.01, 64, 2, 1, 16, 64, 0.0, {"stride": 16, "conv_width": 15, "pool": "attention"})
    gue = {"tf_0": peak, "tf_1": peak, "tf_3": peak, "mouse_0": few, "mouse_3": few}
    gue |= {"prom_core_all": promoter, "prom_core_notata": promoter, "prom_core_tata": tata, "prom_300_tata": wide}
    tasks = {f"gue/{name}": Task("MCC", recipe, group="nine whole GUE tasks") for name, recipe in gue.items()}
    tasks["gue/prom_core_tata"] = replace(tasks["gue/prom_core_tata"], must=">= 0.70", aim=">= 0.75")
    tasks |= {
        "splice_reconstructed dev to test": Task("MCC", splice, ">= 0.50", ">= 0.70"),
        "nontata group resplit": Task("accuracy", region, ">= 0.82", ">= 0.84"),
        "Cohn resplit": Task("accuracy", region, ">= 0.72", ">= 0.75"),
        "vertebrate mtDNA at 16.6 kb": Task("macro-F1", genome, ">= 0.94", ">= 0.97"),
        "planted pair at 8k": Task("accuracy", far, ">= 0.95", ">= 0.99", distance=8192),
        "planted pair at 32k": Task("accuracy", far, ">= 0.90", ">= 0.98", distance=32768),
        "planted pair at 131k": Task("accuracy", replace(far, batch=16), "", ">= 0.95", distance=131072),
    }
    return tasks | {name: Task("accuracy", region) for name in GENOMIC_BENCHMARKS}


TASKS = _tasks()
GROUPS = {"nine whole GUE tasks": (">= 0.66", ">= 0.684")}


@dataclass(frozen=True)
class Job:
    """One training run: a task, a key of BACKBONES (or `floors`), a seed, and where it runs."""

    task: str
    backbone: str
    seed: int
    recipe: Recipe
    device: str

    @property
    def file(self) -> str:
        """Name of its result: other recipes have other names."""
        text = json.dumps([self.task, self.backbone, self.seed, asdict(self.recipe)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16] + ".json"


def load(name: str) -> tuple[list[str], dict[str, Part]]:
    """Class names, and train, val and test of a data set."""
    folder = data_root() / "genomics"
    resplit = {"nontata group resplit": "human_nontata_promoters", "Cohn resplit": "human_enhancers_cohn"}
    if name in resplit:
        file = folder / "genomic_benchmarks" / f"{resplit[name]}.test.csv.gz"
        data = GenomicsData(train=str(file), layout=Layout(split_col="resplit"), floors=False)
    elif name.startswith("splice"):
        train, test = (str(folder / "gue" / "splice_reconstructed" / f"{part}.csv.gz") for part in ("dev", "test"))
        data = GenomicsData(train=train, test=test, floors=False)
    elif name.startswith("vertebrate"):
        return _mitochondria(folder / "mldsp")
    else:
        data = GenomicsData(set=name, source="file", floors=False)
    data.setup()
    return data.classes, {part: (found.sequences, found.labels) for part, found in data.parts.items()}


def _mitochondria(folder: Path, longest: int = 20480) -> tuple[list[str], dict[str, Part]]:
    """Vertebrate mtDNA by its table of group-wise parts; the few of more than `longest` bases are cut."""
    records = read_records(folder / "vertebrates_mtdna.fasta.xz", Layout(label_from="header"))
    table = pd.read_csv(folder / "splits.csv.gz", dtype=str)
    splits = table[table["set"] == "vertebrates_mtdna"].set_index("accession")["split"].reindex(records.ids)
    classes, labels = np.unique(records.labels.astype(str), return_inverse=True)
    parts = {part: torch.from_numpy(np.flatnonzero(splits == name)) for part, name in PARTS.items()}
    return classes.tolist(), {
        part: (records.sequences.select(rows, longest), torch.from_numpy(labels)[rows]) for part, rows in parts.items()
    }


def measure(job: Job) -> dict[str, Any]:
    """The result of one job."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    task = TASKS[job.task]
    if job.backbone == "floors":
        _, parts = load(job.task)
        split = [(sequences, labels.numpy()) for sequences, labels in (parts[p] for p in ("train", "val", "test"))]
        key = {"accuracy": "accuracy", "MCC": "mcc", "macro-F1": "macro_f1"}[task.metric]
        return {"floors": {name: scores[key] for name, scores in floors(*split).items()}}
    device = torch.device(job.device)
    source = Planted(task.distance, job.recipe.epochs, device) if task.distance else DataSet(job.task, device)
    module = build(job, source.classes).to(device)
    best, test = train(module, source, job, METRICS[task.metric])
    return {
        "val": best,
        "test": test,
        "parameters": sum(p.numel() for p in module.parameters()),
        "seconds": time.perf_counter() - start,
        "device": device_name(device),
        "commit": git_commit(),
    }


def build(job: Job, classes: list[str]) -> TitansModule:
    """The model of a job, from its seed."""
    torch.manual_seed(job.seed)
    recipe = job.recipe
    variant, writes = BACKBONES[job.backbone]
    head = SequenceHead(recipe.dim, len(classes), **{"dropout": recipe.dropout, **recipe.head})
    head.classes = classes
    memory = MemoryConfig(heads=recipe.memory_heads, chunk=recipe.chunk, theta_max=None if writes else OFF)
    backbone = BackboneConfig(
        variant, recipe.dim, recipe.layers, heads=4, window=recipe.window, dropout=recipe.dropout, memory=memory
    )
    return TitansModule(head, backbone, OptimConfig(lr=recipe.lr, weight_decay=recipe.weight_decay, final=0.01))


class DataSet:
    """A data set on the device: a batch costs the host a few launches and no wait.

    Args:
        name: of the task.
        device: where it lies.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.classes, parts = load(name)
        self.parts = {part: (found.to(device), labels.to(device)) for part, (found, labels) in parts.items()}
        lengths = torch.cat([found.lengths for found, _ in parts.values()])
        self.width = int(lengths.max())
        self.padded = bool((lengths < self.width).any())
        self.rows = len(parts["train"][1])

    def batches(self, epoch: int, size: int) -> list[Tensor]:
        """Indices of the train batches of one epoch, in an order of its own, the incomplete one dropped."""
        generator = torch.Generator().manual_seed(epoch)
        order = torch.randperm(self.rows, generator=generator)[: self.rows // size * size]
        return [*order.to(self.parts["train"][1].device).split(size)]

    def batch(self, part: str, index: Tensor) -> Batch:
        """Rows of a part."""
        sequences, labels = self.parts[part]
        lengths = sequences.offsets[index + 1] - sequences.offsets[index] if self.padded else None
        return Batch(sequences.gather(index, self.width), lengths, labels[index])

    def evaluated(self, part: str) -> Iterator[Batch]:
        """All rows of a part, in order."""
        rows = torch.arange(len(self.parts[part][1]), device=self.parts[part][1].device)
        for index in rows.split(max(1, EVALUATED // self.width)):
            yield self.batch(part, index)


class Planted:
    """The planted pair: train distances grow from 16 to the one that is asked, sequences are new at every step.

    Train, validation and test are windows of different stretches of E. coli's genome.

    Args:
        distance: bases from motif to motif in validation and test.
        epochs: passes over 1,024 sequences: a quarter at 16, half at growing distances, a quarter at the asked one.
        device: where sequences are made.
    """

    classes = ["different", "same"]
    rows = 1024

    def __init__(self, distance: int, epochs: int, device: torch.device) -> None:
        genome = read_records(data_root() / "genomics" / "genomes" / "ecoli_W.fasta.gz").sequences.codes.to(device)
        cuts = [0, int(0.8 * len(genome)), int(0.88 * len(genome)), len(genome)]
        pieces = zip(("train", "val", "test"), cuts, cuts[1:], strict=False)
        self.genome = {part: genome[start:end] for part, start, end in pieces}
        self.distance, self.epochs = distance, epochs

    def batches(self, epoch: int, size: int) -> list[tuple[int, int, int]]:
        """Seed, distance and rows of each train batch of one epoch."""
        doublings = (self.distance // SHORTEST).bit_length() - 1
        grown = min(max(2 * epoch / self.epochs - 0.5, 0), 1)  # 0 for a quarter of the epochs, 1 for the last quarter
        stage = round(doublings * grown)
        return [(epoch * self.rows + step, SHORTEST << stage, size) for step in range(self.rows // size)]

    def batch(self, part: str, made: tuple[int, int, int]) -> Batch:
        """Sequences from a seed, at a distance, so many."""
        seed, distance, rows = made
        sequences, labels = planted_pairs(self.genome[part], rows, distance, seed)
        return Batch(sequences.codes.view(rows, -1), None, labels)

    def evaluated(self, part: str) -> Iterator[Batch]:
        """200 validation or 1,000 test sequences at the distance that is asked, always the same ones."""
        rows = max(1, min(EVALUATED // self.distance, 100))
        for seed in range({"val": 200, "test": 1000}[part] // rows):
            yield self.batch(part, (2**31 + seed, self.distance, rows))


def train(module: TitansModule, source: DataSet | Planted, job: Job, metric: Callable) -> tuple[float, float]:
    """Train for the recipe's epochs; the best epoch's score on validation, and what it reaches on test."""
    recipe = job.recipe
    steps = recipe.epochs * (source.rows // recipe.batch)
    optimizer, schedule = module.optim.build(module, steps)
    parameters = [*module.parameters()]
    best, kept = -float("inf"), {}
    for epoch in range(recipe.epochs):
        module.train()
        for made in source.batches(epoch, recipe.batch):
            batch = source.batch("train", made)
            with precision(job.device):
                loss = module.head.loss(module(batch), batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
        if (score := evaluate(module, source, "val", job, metric)) > best:
            best, kept = score, {name: value.clone() for name, value in module.state_dict().items() if _is(value)}
    module.load_state_dict(kept, strict=False)
    return best, evaluate(module, source, "test", job, metric)


def precision(device: str) -> torch.autocast:
    """bf16 on a GPU, as the application's default is."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")


def _is(value: Any) -> bool:
    return isinstance(value, Tensor)  # a head's class names are none


@torch.no_grad()
def evaluate(module: TitansModule, source: DataSet | Planted, part: str, job: Job, metric: Callable) -> float:
    """The task's metric on every row of a part; the host waits for the device once."""
    module.eval()
    found, truth = [], []
    for batch in source.evaluated(part):
        with precision(job.device):
            found.append(module(batch).argmax(1))
        truth.append(batch.labels)
    return float(metric(torch.cat(truth).cpu().numpy(), torch.cat(found).cpu().numpy()))


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
        note=f"validation {mean(one['val'] for one in found.values()):.3f}, {parameters:,} parameters, {seconds:.0f} s",
    )


def overridden(recipe: Recipe, changes: list[str]) -> Recipe:
    """A recipe with `key=value` (or `head.key=value`) changed; values are JSON or plain text.

    Raises:
        ValueError: no such key.
    """
    for change in changes:
        key, _, text = change.partition("=")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        if key.startswith("head."):
            recipe = replace(recipe, head={**recipe.head, key[5:]: value})
        elif key in asdict(recipe):
            recipe = replace(recipe, **{key: value})
        else:
            raise ValueError(f"--override {key}: no such key; choose {', '.join(asdict(recipe))} or head.KEY")
    return recipe


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.genomics", description=__doc__)
    tasks = [name for name in TASKS if name not in GENOMIC_BENCHMARKS]
    parser.add_argument("--tasks", default=",".join(tasks), help="names or parts of names, by commas")
    parser.add_argument("--backbones", default=",".join(BACKBONES), help="separated by commas (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of every run (%(default)s)")
    parser.add_argument("--workers", type=int, default=8, help="runs at a time on the device (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench_genomics"), help="finished runs (%(default)s)")
    parser.add_argument("--override", action="append", default=[], help="KEY=VALUE of every recipe, or head.KEY=VALUE")
    parser.add_argument("--name", default="genomics", help="of the table in benchmarks/results (%(default)s)")
    given = parser.parse_args()
    wanted = [part.strip() for part in given.tasks.split(",")]
    names = [name for name in TASKS if any(name == part or (part in name and part not in TASKS) for part in wanted)]
    jobs = []
    for name in names:
        recipe = overridden(TASKS[name].recipe, given.override)
        if not TASKS[name].distance:
            jobs.append(Job(name, "floors", 0, TASKS[name].recipe, "cpu"))
        for backbone in given.backbones.split(","):
            jobs += [Job(name, backbone, seed, recipe, given.device) for seed in range(given.seeds)]
    given.runs.mkdir(parents=True, exist_ok=True)
    command = "python -m benchmarks.genomics" + "".join(f" --override {change}" for change in given.override)
    results = {}
    for job in jobs:
        if (file := given.runs / job.file).is_file():
            results[job.task, job.backbone, job.seed] = json.loads(file.read_text())
    left = [job for job in jobs if (job.task, job.backbone, job.seed) not in results]
    left.sort(key=lambda job: -TASKS[job.task].distance)  # the longest first, so that none runs alone in the end
    with get_context("spawn").Pool(given.workers) as pool:
        for job, result in pool.imap_unordered(_measured, left):
            (given.runs / job.file).write_text(json.dumps(result))
            results[job.task, job.backbone, job.seed] = result
            print(f"{job.task}: {job.backbone}, seed {job.seed}: {result}", flush=True)
            _write(given.name, results, jobs, command)
    _write(given.name, results, jobs, command)


def _write(name: str, results: dict, jobs: list[Job], command: str) -> None:
    order = {(job.task, job.backbone, job.seed): index for index, job in enumerate(jobs)}
    write(name, rows_of(dict(sorted(results.items(), key=lambda item: order[item[0]])), command))


def _measured(job: Job) -> tuple[Job, dict[str, Any]]:
    return job, measure(job)


if __name__ == "__main__":
    main()
