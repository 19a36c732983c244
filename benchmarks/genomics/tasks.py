"""The tasks of the DNA benchmark: config and bounds of each, and its batches, made on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor

from benchmarks.shared.runs import resolved
from data_prep.files import data_root
from data_prep.genomics import GENOMIC_BENCHMARKS, PARTS
from domains.genomics import GenomicsData
from domains.genomics.bases import Sequences
from domains.genomics.data import Batch
from domains.genomics.readers import Layout, read_records
from domains.genomics.sample import planted_pairs

CONF = Path(__file__).parents[2] / "conf"
Part = tuple[Sequences, Tensor]  # sequences and class numbers
METRICS = {
    "accuracy": accuracy_score,
    "MCC": matthews_corrcoef,
    "macro-F1": lambda truth, found: f1_score(truth, found, average="macro"),
}
SHORTEST = 16  # planted distance that training begins with: the motifs are in neighbouring tokens
MORE = 4  # times as many sequences in a batch, at most, while the distance is shorter than the one that is asked
EVALUATED = 2_000_000  # bases of an evaluated batch, at most


@dataclass(frozen=True)
class Task:
    """One data set.

    Args:
        metric: key of METRICS, also of the choice on validation.
        config: the file in conf that says how it is trained.
        options: of `python -m app fit`, in place of what the file says.
        must: bound on the metric with `lmm`.
        aim: likewise.
        group: rows whose mean is a row of its own.
        distance: of a planted task; 0 for a data set.
    """

    metric: str
    config: str
    options: tuple[str, ...] = ()
    must: str = ""
    aim: str = ""
    group: str = ""
    distance: int = 0

    def recipe(self, changes: Sequence[str] = ()) -> dict[str, Any]:
        """The whole configuration of a training, as `python -m app fit` has it; a wrong key ends the process.

        Args:
            changes: further options.
        """
        return _recipe(self.config, (*self.options, *changes))


@cache
def _recipe(config: str, options: tuple[str, ...]) -> dict[str, Any]:
    return resolved(["--config", str(CONF / config), *options])


LARGE = ("--data.batch_size=256", "--model.head.hide=0.05", "--model.head.dropout=0.1")
GENOME = (
    *("--trainer.max_epochs=12", "--data.batch_size=32", "--model.head.stride=16", "--model.head.conv_layers=1"),
    *("--model.head.bins=1", "--model.head.dropout=0.1", "--model.optim.lr=1e-3"),  # validated better, one seed
)
# At 16 bases convolutions could see both motifs; where they do, some seeds never learn to use the memory. It reads
# forwards only: from two readings, pooled, a model that sees eight tokens tells the pair apart.
PLANTED = (
    *GENOME,
    *("--trainer.max_epochs=40", "--model.head.conv_width=15", "--model.head.pool=attention"),
    *("--model.head.read=forward", "--model.head.hide=0", "--model.head.dropout=0", "--model.backbone.dropout=0"),
    *("--model.backbone.dim=64", "--model.backbone.memory.heads=1", "--model.backbone.memory.conv=0"),
    *("--model.optim.lr=2e-3", "--model.optim.weight_decay=0.01"),
)


def _tasks() -> dict[str, Task]:
    promoter, sites = (f"genomics_{name}.yaml" for name in ("gue", "sites"))
    gue = {f"gue/{name}": Task("MCC", sites, (*LARGE, "--trainer.max_epochs=10")) for name in ("tf_0", "tf_1", "tf_3")}
    gue |= {f"gue/{name}": Task("MCC", sites) for name in ("mouse_0", "mouse_3")}
    large = Task("MCC", promoter, (*LARGE, "--trainer.max_epochs=8"))
    gue |= {f"gue/{name}": large for name in ("prom_core_all", "prom_core_notata")}
    gue["gue/prom_core_tata"] = Task("MCC", promoter, (), ">= 0.70", ">= 0.75")
    gue["gue/prom_300_tata"] = Task("MCC", promoter, ("--model.head.bins=15",))
    tasks = {name: replace(task, group="nine whole GUE tasks") for name, task in gue.items()}
    splice = ("--trainer.max_epochs=20", "--model.head.bins=20", "--model.head.hide=0.05")
    region = Task("accuracy", sites, ("--trainer.max_epochs=12",))
    stranded = replace(region, config=promoter)
    slow = (*region.options, "--model.optim.lr=1e-3")  # validated better on Cohn, one seed
    longest = (*PLANTED, "--data.batch_size=16", "--trainer.max_epochs=30")
    tasks |= {
        "splice_reconstructed dev to test": Task("MCC", promoter, splice, ">= 0.50", ">= 0.70"),
        "nontata group resplit": replace(stranded, must=">= 0.82", aim=">= 0.84"),
        "Cohn resplit": replace(region, options=slow, must=">= 0.72", aim=">= 0.75"),
        "vertebrate mtDNA at 16.6 kb": Task("macro-F1", promoter, GENOME, ">= 0.94", ">= 0.97"),
        "planted pair at 8k": Task("accuracy", promoter, PLANTED, ">= 0.95", ">= 0.99", distance=8192),
        "planted pair at 32k": Task("accuracy", promoter, PLANTED, ">= 0.90", ">= 0.98", distance=32768),
        "planted pair at 131k": Task("accuracy", promoter, longest, "", ">= 0.95", distance=131072),
    }
    public = dict.fromkeys(GENOMIC_BENCHMARKS, region)
    return tasks | public | {"human_nontata_promoters": stranded}


TASKS = _tasks()
GROUPS = {"nine whole GUE tasks": (">= 0.66", ">= 0.684")}


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


@lru_cache
def source_of(name: str, epochs: int, device: str) -> "DataSet | Planted":
    """Batches of a task on a device, the same object for all its runs."""
    distance = TASKS[name].distance
    return Planted(distance, epochs, torch.device(device)) if distance else DataSet(name, torch.device(device))


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

    def batches(self, epoch: int, size: int, seed: int) -> list[Tensor]:
        """Indices of the train batches of one epoch, in an order of its own, the incomplete one dropped."""
        device = self.parts["train"][1].device
        generator = torch.Generator(device).manual_seed(1000 * seed + epoch)
        order = torch.randperm(self.rows, generator=generator, device=device)
        return [*order[: self.rows // size * size].split(size)]

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
        epochs: passes over 1,024 sequences (4,096 while they are short): a quarter at 16, half at growing distances, a
            quarter at the asked one.
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

    def batches(self, epoch: int, size: int, seed: int) -> list[tuple[int, int, int]]:
        """Seed, distance and rows of each train batch of one epoch."""
        doublings = (self.distance // SHORTEST).bit_length() - 1
        grown = min(max(2 * epoch / self.epochs - 0.5, 0), 1)  # 0 for a quarter of the epochs, 1 for the last quarter
        distance = SHORTEST << round(doublings * grown)
        drawn = size * min(self.distance // distance, MORE)
        first = (seed * self.epochs + epoch) * self.rows
        return [(first + step, distance, drawn) for step in range(self.rows // size)]

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
