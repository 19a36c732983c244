"""A model's answers along a genome, as BED and bedGraph."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from app.errors import UserError, user_errors
from app.files import make_folder
from domains.genomics.bases import N, Repairs, Sequences, reverse_complement
from domains.genomics.files import parse
from domains.genomics.growing import growing
from domains.genomics.names import first_word, word_of
from domains.genomics.progress import bar
from domains.genomics.readers import Layout
from domains.genomics.records import Passed, records_of
from domains.genomics.stream import Reader, bases_of
from domains.genomics.trained import opened


@user_errors()
def scan(arguments: argparse.Namespace) -> None:
    """Read a window around the middle of every bin of `step` bases of a genome.

    Bins lie end to end from the first base of a contig to its last, so that those of a bedGraph never overlap; a window
    that reaches over an end of its contig is filled with N.
    """
    reader, read = opened(arguments)
    width = read.window(arguments.width)
    step = arguments.step or width
    strands = "." if reader.head.averages else "+-"
    make_folder(arguments.output)
    on = "" if strands == "." else ", on each strand"
    print(f"windows of {width:,} bases, one for each {step:,} bases{on}")
    done, skipped = 0, 0
    repairs, passed, seen = Repairs(), Passed("contigs"), set()
    with ExitStack() as stack:
        tracks = Tracks(arguments.output, reader, strands, stack)
        bases = bases_of(arguments.input, Layout(), None)
        tick = stack.enter_context(bar("scan", bases))
        for header, letters in parse(arguments.input):
            contig = first_word(header)
            if contig in seen:
                passed.add("of a name that stood before", repr(contig))
                continue
            seen.add(contig)
            text, names = letters.encode("ascii", "replace"), np.array([contig], dtype=object)
            records = records_of(arguments.input, [text], names, None, passed)
            if not len(records):
                continue
            repairs.add(records.repairs)
            codes = records.sequences[0]
            for starts, windows in _windows(codes, width, step, max(1, arguments.piece // width)):
                keep = (windows == N).float().mean(1) <= read.max_n
                tracks.write(contig, starts[keep], windows[keep], min(step, len(codes)), len(codes))
                done, skipped = done + int(keep.sum()), skipped + int((~keep).sum())
                tick(step * len(starts))
        if not done + skipped:
            raise UserError(f"{arguments.input}: no contig could be read; {str(passed) or 'it holds none'}")
    print(f"{arguments.output}: {done:,} windows in {', '.join(tracks.names())}")
    if skipped:
        print(f"warning: left out {skipped:,} windows with more than {read.max_n:.0%} N")
    for line in filter(None, (str(repairs), str(passed))):
        print(f"warning: {line}")


def _windows(codes: Tensor, width: int, step: int, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Starts of some bins [n], and the windows [n, width] around their middles."""
    behind = codes.new_full((width,), N)
    padded = torch.cat([behind, codes, behind])
    for starts in torch.arange(0, len(codes), step).split(rows):
        middle = (starts + (starts + step).clamp(max=len(codes))) // 2
        yield starts, padded[(middle + width - width // 2)[:, None] + torch.arange(width)]


class Tracks:
    """The files of a scan: a bedGraph for every probability or value and strand, and the calls as BED.

    Args:
        folder: where they go.
        reader: the model.
        strands: `.` where it answers alike for both, else those that are read.
        stack: closes the files.
    """

    def __init__(self, folder: Path, reader: Reader, strands: str, stack: ExitStack) -> None:
        self.reader, self.strands, self.task = reader, strands, reader.head.task
        kind = "value" if reader.head.task_name == "values" else "p"
        self.tracks = {}
        taken: set[str] = set()
        words = {name: word_of(name, taken) for name in reader.head.classes}
        for strand in strands:
            end = {".": "", "+": ".plus", "-": ".minus"}[strand]
            for name in reader.head.classes:
                file = f"{kind}_{words[name]}{end}.bedGraph"
                self.tracks[strand, f"{kind}_{name}"] = stack.enter_context(growing(folder / file))
        self.calls = None if kind == "value" else stack.enter_context(growing(folder / "calls.bed"))

    def names(self) -> list[str]:
        """Of the files."""
        return [Path(file.name).stem for file in (*self.tracks.values(), *filter(None, [self.calls]))]

    def write(self, contig: str, starts: Tensor, windows: Tensor, step: int, length: int) -> None:
        """Answer windows [n, width] and write a line for each bin."""
        if not len(starts):
            return
        width = windows.shape[1]
        ends = (starts + step).clamp(max=length)
        lines = []
        for strand in self.strands:
            read = reverse_complement(windows, None) if strand == "-" else windows
            sequences = Sequences(read.flatten(), torch.arange(len(read) + 1) * width)
            columns = self.task.columns(self.reader.read(sequences)[0])
            for (track, column), file in self.tracks.items():
                if track == strand:
                    rows = zip(starts.tolist(), ends.tolist(), columns[column], strict=True)
                    file.writelines(f"{contig}\t{start}\t{end}\t{value:.4g}\n" for start, end, value in rows)
            if self.calls:
                names, scores = self._said(columns)
                middles = (starts + ends) // 2 - width // 2
                spans = zip(middles.clamp(min=0).tolist(), (middles + width).clamp(max=length).tolist(), strict=True)
                rows = zip(spans, names, scores, strict=True)
                lines += [(*span, f"{name}\t{1000 * score:.0f}\t{strand}") for span, name, score in rows]
        if self.calls:
            self.calls.writelines(f"{contig}\t{start}\t{end}\t{rest}\n" for start, end, rest in sorted(lines))

    def _said(self, columns: dict) -> tuple[list[str], np.ndarray]:
        """Class, or labels that are true, of each window, and the largest probability."""
        p = np.stack([columns[f"p_{name}"] for name in self.reader.head.classes], 1)
        if "class" in columns:
            return columns["class"], p.max(1)
        said = np.stack([columns[f"is_{name}"] for name in self.reader.head.classes], 1)
        names = [[name for name, yes in zip(self.reader.head.classes, row, strict=True) if yes] for row in said]
        return [",".join(row) or "." for row in names], p.max(1)
