"""Pictures: which classes are confused, and which bases a class depends on."""

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

NAMED = 40  # classes that still get names on the axes
BASES = "ACGT"


def confusion_figure(matrix: Tensor, classes: list[str]) -> Figure:
    """Confusion matrix [classes, classes], rows are true, each shaded by its share of its row."""
    counts = matrix.numpy()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = 2.5 + 0.45 * min(len(classes), NAMED)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, label="share of the true class")
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) <= NAMED:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
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
