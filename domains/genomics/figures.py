"""Pictures: which classes are confused, how sure and how right answers are, which bases a class depends on."""

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve
from torch import Tensor

from domains.genomics.calibration import bins, expected_error

DRAWN = 12  # curves or panels of a picture
NAMED = 40  # classes that still get names on the axes
LONGEST = 60  # letters of a class's name on an axis
BASES = "ACGT"


def confusion_figure(matrix: Tensor, classes: list[str]) -> Figure:
    """Confusion matrix [classes, classes], rows are true, each shaded by its share of its row."""
    counts = matrix.numpy()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    named = len(classes) <= NAMED
    shown = [name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}" for name in classes]  # a lineage ends apart
    size = 2.5 + 0.45 * min(len(classes), NAMED) + named * 0.08 * max(map(len, shown))  # inches, of a letter .08
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, label="share of the true class")
    axes.set(xlabel="predicted", ylabel="true")
    if named:
        axes.set_xticks(range(len(classes)), shown, rotation=90)
        axes.set_yticks(range(len(classes)), shown)
    if len(classes) <= 12:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=8, color=colour)
    return figure


def importance_figure(mutagenesis: np.ndarray, gradient: np.ndarray, bases: str, title: str, first: int) -> Figure:
    """Logo of gradient x input over a heat map of saturation mutagenesis.

    Args:
        mutagenesis: change of the class's log-odds by each base at each place, [L, 4]; zero at the base that is there.
        gradient: gradient x input at each place, [L].
        bases: the L letters.
        title: of the figure.
        first: place of the first letter, from 1.
    """
    import logomaker  # imports pyplot, which only pictures need
    import pandas as pd

    length = len(bases)
    figure = Figure(figsize=(max(6, min(0.12 * length, 40)), 4.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=[1.2, 1])
    logo = np.zeros((length, 4))
    for place, letter in enumerate(bases):
        if letter in BASES:
            logo[place, BASES.index(letter)] = gradient[place]
    logomaker.Logo(pd.DataFrame(logo, columns=list(BASES), index=first + np.arange(length)), ax=top)
    top.set(ylabel="gradient x input", title=title)
    limit = max(float(np.abs(mutagenesis).max()), 1e-9)
    extent = (first - 0.5, first + length - 0.5, 3.5, -0.5)
    options = {"aspect": "auto", "cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "extent": extent}
    picture = bottom.imshow(mutagenesis.T, interpolation="nearest", **options)
    bottom.set_yticks(range(4), list(BASES))
    bottom.set(xlabel="place", ylabel="changed to")
    figure.colorbar(picture, ax=[top, bottom], label="change of log-odds")
    return figure


def curves_figure(p: np.ndarray, truth: np.ndarray, names: list[str]) -> Figure:
    """ROC and precision-recall curves, one of each class or label.

    Args:
        p: probabilities [N, names].
        truth: 1, 0, or NaN where unknown, [N, names]; what is always or never true has no curve.
        names: at most 12 of them are drawn.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for column, name in enumerate(names[:DRAWN]):
        known = truth[:, column] == truth[:, column]
        found, actual = p[known, column], truth[known, column]
        if len(np.unique(actual)) == 2:
            false, true, _ = roc_curve(actual, found)
            left.plot(false, true, label=f"{name} ({roc_auc_score(actual, found):.3f})")
            precision, recall, _ = precision_recall_curve(actual, found)
            right.plot(recall, precision, label=f"{name} ({average_precision_score(actual, found):.3f})")
    left.plot([0, 1], [0, 1], color="grey", linestyle=":")
    left.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC (area)")
    right.set(xlabel="recall", ylabel="precision", title="precision and recall (area)", ylim=(0, 1.02))
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:  # a part of one class has no curve
            axes.legend(fontsize=8)
    return figure


def reliability_figure(parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """How often an answer is right against the probability that it was given.

    Args:
        parts: probabilities and whether right, [N] each, by name.
    """
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    for name, (sure, right) in parts.items():
        p, share, _ = bins(sure, right)
        axes.plot(p, share, "o-", label=f"{name} (expected error {expected_error(sure, right):.3f})")
    axes.set(xlabel="probability", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize=8)
    return figure


def values_figure(found: np.ndarray, truth: np.ndarray, names: list[str]) -> Figure:
    """Predicted against true values [N, names], at most 12 of them."""
    names = names[:DRAWN]
    columns = min(len(names), 4)
    figure = Figure(figsize=(4 * columns, 3.8 * -(-len(names) // columns)), layout="constrained")
    panels = figure.subplots(-(-len(names) // columns), columns, squeeze=False).flat
    for column, name in enumerate(names):
        known = truth[:, column] == truth[:, column]
        ends = np.nanquantile(truth[:, column], [0, 1])
        panels[column].plot(ends, ends, color="grey", linestyle=":")
        panels[column].plot(truth[known, column], found[known, column], ".", markersize=3, alpha=0.5)
        panels[column].set(xlabel="true", ylabel="predicted", title=name)
    return figure
