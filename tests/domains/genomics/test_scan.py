"""A genome is read window by window; a model that counts a motif says where it is."""

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from domains.genomics.bases import Sequences, decode
from domains.genomics.scan import Tracks, _windows
from domains.genomics.tasks import Classes, Labels, Task

MOTIF = "GATTACA"
OTHER = "TGTAATC"


class Finder:
    """In place of a trained model: sure that a window holds the motif, or that it does not."""

    def __init__(self, task: Task, names: list[str], name: str) -> None:
        task.names = names
        self.head = SimpleNamespace(task=task, classes=names, task_name=name)

    def read(self, sequences: Sequences) -> tuple[torch.Tensor, None]:
        found = torch.tensor([MOTIF in decode(sequences[row]) for row in range(len(sequences))]).float()
        odds = 10 * (2 * found - 1)
        return (odds[:, None] if len(self.head.classes) == 1 else torch.stack([odds, -odds], 1) / 2), None


def scanned(folder: Path, finder: Finder, text: str, width: int, step: int, strands: str) -> dict[str, list[list[str]]]:
    codes = Sequences.of([text.encode()])[0]
    with ExitStack() as stack:
        tracks = Tracks(folder, finder, strands, stack)
        for starts, windows in _windows(codes, width, step, 3):
            tracks.write("c", starts, windows, step, len(codes))
    assert sorted(tracks.names()) == sorted(path.name for path in folder.iterdir())
    return {path.name: [line.split("\t") for line in path.read_text().splitlines()] for path in folder.iterdir()}


@pytest.mark.parametrize(("length", "place"), [(103, 50), (103, 0), (103, 96), (12, 3)])
def test_bins_cover_the_contig_and_windows_around_the_motif_are_called(tmp_path: Path, length: int, place: int) -> None:
    text = "C" * place + MOTIF + "C" * (length - place - len(MOTIF))
    files = scanned(tmp_path, Finder(Classes(2), ["motif", "none"], "classes"), text, 20, 5, ".")
    bins = [(int(start), int(end)) for _, start, end, _ in files["p_motif.bedGraph"]]
    assert bins[0][0] == 0 and bins[-1][1] == length
    assert all(a[1] == b[0] for a, b in zip(bins, bins[1:], strict=False))
    inside = [(a + b) // 2 - 10 <= place and place + len(MOTIF) <= (a + b) // 2 + 10 for a, b in bins]
    assert any(inside)
    assert [float(row[3]) > 0.5 for row in files["p_motif.bedGraph"]] == inside
    assert [row[3] == "motif" for row in files["calls.bed"]] == inside
    assert all(0 <= int(row[1]) < int(row[2]) <= length and row[5] == "." for row in files["calls.bed"])


def test_strands_have_tracks_of_their_own(tmp_path: Path) -> None:
    text = "C" * 30 + OTHER + "C" * 30
    files = scanned(tmp_path, Finder(Labels(1), ["motif"], "labels"), text, 20, 10, "+-")
    plus, minus = ([float(row[3]) for row in files[f"p_motif.{name}.bedGraph"]] for name in ("plus", "minus"))
    assert max(plus) < 0.5 < max(minus) and minus[3] > 0.5
    called = [row for row in files["calls.bed"] if row[3] == "motif"]
    assert called and {row[5] for row in called} == {"-"} and {row[3] for row in files["calls.bed"]} == {"motif", "."}
    starts = np.array([int(row[1]) for row in files["calls.bed"]])
    assert (starts[1:] >= starts[:-1]).all()
