"""The tasks of the DNA benchmark: recipe and bounds of each, and its batches, made on the device."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor

from data_prep.files import data_root
from data_prep.genomics import GENOMIC_BENCHMARKS, PARTS
from domains.genomics import GenomicsData
from domains.genomics.bases import Sequences
from domains.genomics.data import Batch
from domains.genomics.readers import Layout, read_records
from domains.genomics.sample import planted_pairs

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
        conv: tokens that the memory's convolutions see; 0 leaves them out.
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
    chunk: int = 64
    conv: int = 4
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
    peak = Recipe(10, head={"reverse_complement": "average", "hide": 0.05})  # a bound factor has no strand
    few = replace(peak, epochs=15, batch=64, head={"reverse_complement": "average", "hide": 0.1, "dropout": 0.2})
    promoter = Recipe(8, head={"bins": 7, "hide": 0.05})
    tata = Recipe(15, 64, head={"bins": 7, "hide": 0.1, "dropout": 0.2})
    wide = replace(tata, head={**tata.head, "bins": 15})
    splice = Recipe(20, 64, head={"bins": 20, "hide": 0.05, "dropout": 0.2})
    region, stranded = replace(few, epochs=12), replace(tata, epochs=12)
    slow = replace(region, lr=1e-3)  # validated better on Cohn, one seed
    genome = Recipe(12, 32, lr=1e-3, head={"stride": 16, "conv_layers": 1, "hide": 0.1})  # likewise on mtDNA
    # at 16 bases convolutions could see both motifs; where they do, some seeds never learn to use the memory. Forwards
    # only: from two readings, pooled, a model that sees eight tokens tells the pair apart
    sparse = {"stride": 16, "conv_layers": 1, "conv_width": 15, "pool": "attention", "read": "forward"}
    far = Recipe(40, 32, weight_decay=0.01, dim=64, memory_heads=1, conv=0, dropout=0.0, head=sparse)
    gue = {"tf_0": peak, "tf_1": peak, "tf_3": peak, "mouse_0": few, "mouse_3": few}
    gue |= {"prom_core_all": promoter, "prom_core_notata": promoter, "prom_core_tata": tata, "prom_300_tata": wide}
    tasks = {f"gue/{name}": Task("MCC", recipe, group="nine whole GUE tasks") for name, recipe in gue.items()}
    tasks["gue/prom_core_tata"] = replace(tasks["gue/prom_core_tata"], must=">= 0.70", aim=">= 0.75")
    tasks |= {
        "splice_reconstructed dev to test": Task("MCC", splice, ">= 0.50", ">= 0.70"),
        "nontata group resplit": Task("accuracy", stranded, ">= 0.82", ">= 0.84"),
        "Cohn resplit": Task("accuracy", slow, ">= 0.72", ">= 0.75"),
        "vertebrate mtDNA at 16.6 kb": Task("macro-F1", genome, ">= 0.94", ">= 0.97"),
        "planted pair at 8k": Task("accuracy", far, ">= 0.95", ">= 0.99", distance=8192),
        "planted pair at 32k": Task("accuracy", far, ">= 0.90", ">= 0.98", distance=32768),
        "planted pair at 131k": Task("accuracy", replace(far, batch=16, epochs=30), "", ">= 0.95", distance=131072),
    }
    public = {name: Task("accuracy", region) for name in GENOMIC_BENCHMARKS}
    return tasks | public | {"human_nontata_promoters": Task("accuracy", stranded)}


TASKS = _tasks()
GROUPS = {"nine whole GUE tasks": (">= 0.66", ">= 0.684")}


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
