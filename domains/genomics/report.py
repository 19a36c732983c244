"""What a data set is, and what says nothing about biology but scores all the same: the floors of every claim."""

import warnings
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_matrix, vstack
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from sklearn.preprocessing import MaxAbsScaler
from sklearn.tree import DecisionTreeClassifier

from domains.genomics.bases import N, Sequences
from domains.genomics.overlap import K, copies, in_parts, kmers, leakage
from domains.genomics.parts import PARTS

ROWS = 20_000  # train rows that a floor is fitted on, at most
BASES = 20_000  # of each sequence that the k-mer floor reads
STRENGTHS = (0.1, 1.0, 10.0)  # inverse regularisations that the k-mer floor chooses from, on validation
Part = tuple[Sequences, np.ndarray]  # sequences and their classes


def describe(parts: dict[str, Part], classes: list[str]) -> dict[str, Any]:
    """Rows, classes, lengths, GC, N and duplicates of each part, and which test rows share long k-mers with train.

    A duplicate is contradicted where it is of another class than the row it repeats.
    """
    report: dict[str, Any] = {"classes": classes}
    for name, (sequences, labels) in parts.items():
        lengths = sequences.lengths.numpy()
        counts = np.bincount(sequences.codes.numpy(), minlength=5)[:5]
        report[name] = {
            "rows": len(sequences),
            **_targets(labels, classes),
            "length": [int(lengths.min()), float(np.median(lengths)), int(lengths.max())],
            "gc": float(counts[1:3].sum() / max(counts[:N].sum(), 1)),
            "n": float(counts[N] / counts.sum()),
            "duplicates": len(sequences) - len(np.unique(first := copies(sequences))),
        }
        if labels.dtype == np.int64:
            report[name]["contradicted"] = int((labels != labels[first]).sum())
    if {"train", "test"} <= parts.keys():
        report[f"test_rows_sharing_{K}mers_with_train"] = leakage(parts["train"][0], parts["test"][0])
    return report


def _targets(targets: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Rows of each class, rows of each label that say yes and that say anything, or mean and spread of each value."""
    if targets.dtype == np.int64:
        return {"classes": dict(zip(names, np.bincount(targets, minlength=len(names)).tolist(), strict=True))}
    targets = targets.astype(np.float64)  # float32 has no room for the square of an outlier
    known = targets == targets
    if np.isin(targets[known], (0, 1)).all():
        pairs = zip(names, np.nansum(targets, 0).astype(int).tolist(), known.sum(0).tolist(), strict=True)
        return {"labels": {name: [yes, rows] for name, yes, rows in pairs}}
    pairs = zip(names, np.nanmean(targets, 0).tolist(), np.nanstd(targets, 0).tolist(), strict=True)
    return {"values": {name: [mean, spread] for name, mean, spread in pairs}}


def _told(part: dict[str, Any]) -> str:
    """The targets of a part in words, of not more than eight."""
    if "classes" in part:
        told = [f"{name} {rows:,}" for name, rows in part["classes"].items()]
    elif "labels" in part:
        told = [f"{name} {yes:,} of {rows:,}" for name, (yes, rows) in part["labels"].items()]
    else:
        told = [f"{name} {mean:.3g} ± {spread:.2g}" for name, (mean, spread) in part["values"].items()]
    return ", ".join(told[:8])


def scores(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """The three metrics of a floor."""
    return {
        "accuracy": float(accuracy_score(truth, found)),
        "mcc": float(matthews_corrcoef(truth, found)),
        "macro_f1": float(f1_score(truth, found, average="macro", zero_division=0)),
    }


def floors(train: Part, val: Part, test: Part, seed: int = 0) -> dict[str, dict[str, float]]:
    """Scores on `test` of the commonest class, of a tree that sees the length only, and of k-mer frequencies.

    The tree has depth 12. The k-mer floor is a logistic regression on 5-mer (long sequences: 4-mer) frequencies of at
    most the first 20,000 bases, forward or with both strands merged, with its regularisation chosen on `val`. Both are
    fitted on at most 20,000 train rows.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(train[1]))[:ROWS])
    train = (train[0].select(torch.from_numpy(chosen)), train[1][chosen])
    common = np.full(len(test[1]), np.bincount(train[1]).argmax())
    tree = DecisionTreeClassifier(max_depth=12, min_samples_leaf=5, random_state=seed)
    tree.fit(_lengths(train), train[1])
    return {
        "majority": scores(test[1], common),
        "length only": scores(test[1], tree.predict(_lengths(test))),
        "k-mer LR": scores(test[1], _kmer_regression(train, val, test)),
    }


def _lengths(part: Part) -> np.ndarray:
    return part[0].lengths.numpy()[:, None]


def frequencies(sequences: Sequences, k: int, strands: bool) -> csr_matrix:
    """Frequencies of all k-mers, [rows, 4^k]; a row without a whole k-mer is zero."""
    parts = []
    for _, part in in_parts(sequences.select(torch.arange(len(sequences)), BASES)):
        values, rows = kmers(part, k, strands)
        total = np.maximum(np.bincount(rows, minlength=len(part)), 1)
        parts.append(csr_matrix((1 / total[rows], (rows, values)), shape=(len(part), 4**k)))
        parts[-1].sum_duplicates()
    return vstack(parts, "csr")


def _kmer_regression(train: Part, val: Part, test: Part) -> np.ndarray:
    if len(np.unique(train[1])) < 2:
        return np.full(len(test[1]), train[1][0])
    k = 5 if train[0].lengths.median() <= 2000 else 4
    best = (-1.0, None)
    for strands in (False, True):
        x, held, asked = (frequencies(part[0], k, strands) for part in (train, val, test))
        scaler = MaxAbsScaler().fit(x)
        for strength in STRENGTHS:
            model = LogisticRegression(C=strength, max_iter=300)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a floor need not be converged to the last digit
                model.fit(scaler.transform(x), train[1])
            reached = accuracy_score(val[1], model.predict(scaler.transform(held)))
            if reached > best[0]:
                best = (reached, model.predict(scaler.transform(asked)))
    return best[1]


def complaints(report: dict[str, Any]) -> list[str]:
    """What a reader of the scores must know."""
    found = []
    floor = report.get("floors", {})
    if "majority" in floor and floor["length only"]["accuracy"] >= floor["majority"]["accuracy"] + 0.10:
        found.append(
            f"the LENGTH of a sequence alone reaches accuracy {floor['length only']['accuracy']:.3f} (the commonest "
            f"class: {floor['majority']['accuracy']:.3f}): a good score here may say nothing about the bases"
        )
    twice = {part: report[part]["contradicted"] for part in PARTS if report.get(part, {}).get("contradicted")}
    if twice:
        told = ", ".join(f"{rows:,} of {part}" for part, rows in twice.items())
        found.append(f"{told} repeat the sequence of another row and are of another class: no model gets both right")
    shared = report.get(f"test_rows_sharing_{K}mers_with_train", {})
    if shared.get("half", 0) > 0.01:
        found.append(
            f"{shared['half']:.1%} of the test rows have half of their {K}-mers in train: the test score is too high "
            "by what the model remembers"
        )
    return found


def print_report(report: dict[str, Any], title: str) -> None:
    """The report as two tables and its complaints."""
    console = Console()
    parts = Table("part", "rows", "targets", "length (min, median, max)", "GC", "N", "duplicates", title=title)
    for name in PARTS:
        if name in report:
            part = report[name]
            low, middle, high = part["length"]
            cells = (
                f"{low:,} {middle:,.0f} {high:,}",
                f"{part['gc']:.3f}",
                f"{part['n']:.2%}",
                f"{part['duplicates']:,}",
            )
            parts.add_row(name, f"{part['rows']:,}", _told(part), *cells)
    console.print(parts)
    if floor := report.get("floors"):
        table = Table("floor", *next(iter(floor.values())), title=f"to beat, on {report['floors_on']}")
        for name, values in floor.items():
            table.add_row(name, *(f"{value:.3f}" for value in values.values()))
        console.print(table)
    for complaint in complaints(report):
        console.print(f"[bold]warning:[/] {complaint}")
