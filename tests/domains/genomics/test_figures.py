"""Pictures say which class is which, however long its name is."""

import warnings

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from domains.genomics.figures import confusion_figure

SILVA = ["Bacteria;Firmicutes;Clostridium butyricum", "Bacteria;Proteobacteria;Pseudomonas syringae pv. x"]


@pytest.mark.parametrize("names", [["a", "b"], SILVA, [f"{'Bacteria;' * 30}{end}" for end in "xy"]], ids=len)
def test_names_of_classes_lie_within_the_picture(names: list[str]) -> None:
    figure = confusion_figure(torch.eye(len(names)).long(), names)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        canvas.draw()
    axes = figure.axes[0]
    for label, name in zip([*axes.get_xticklabels(), *axes.get_yticklabels()], names * 2, strict=True):
        assert name.endswith(label.get_text().removeprefix("…"))
        box = label.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    assert axes.bbox.width > 80 and axes.bbox.height > 80
