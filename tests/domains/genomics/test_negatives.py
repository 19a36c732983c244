"""Negatives drawn from the genome, and parts by contig."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from domains.genomics import GenomicsData
from domains.genomics.bed import contigs_of, read_bed
from domains.genomics.negatives import matched
from domains.genomics.readers import Layout

Write = Callable[[str, str], Path]


@pytest.fixture
def genome(write: Write) -> Path:
    """Two contigs of 20,000 bases, GC from little at their beginning to much at their end, with N in the middle."""
    random = np.random.default_rng(0)
    text = ""
    for contig in ("chr1", "chr2"):
        strong = random.random(20000) < np.linspace(0.2, 0.8, 20000)
        letters = np.where(strong, random.choice(list("GC"), 20000), random.choice(list("AT"), 20000))
        letters[9000:11000] = "N"
        text += f">{contig}\n{''.join(letters)}\n"
    return write("genome.fa", text)


@pytest.fixture
def peaks(write: Write) -> Path:
    rows = [(contig, start) for contig in ("chr1", "chr2") for start in range(200, 8000, 600)]
    rows += [(contig, start) for contig in ("chr1", "chr2") for start in range(12000, 13000, 250)]
    lines = (f"{contig}\t{start}\t{start + 100 + i}\tp\t0\t{'+-'[i % 2]}" for i, (contig, start) in enumerate(rows))
    return write("peaks.bed", "\n".join(lines) + "\n")


def gc(text: bytes) -> float:
    return sum(text.count(letter) for letter in b"GC") / len(text)


def test_negatives_are_like_the_intervals_and_overlap_nothing(genome: Path, peaks: Path) -> None:
    found = read_bed(peaks, str(genome))
    drawn = matched(found, contigs_of(genome), 2, 0)
    assert len(drawn.texts) == 2 * len(found.texts)
    count = {contig: sum(span[0] == contig for span in found.spans) for contig in ("chr1", "chr2")}
    assert all(sum(span[0] == contig for span in drawn.spans) == 2 * n for contig, n in count.items())
    assert sorted(map(len, drawn.texts)) == sorted(2 * [len(text) for text in found.texts])
    assert not any(b"N" in text for text in drawn.texts)
    wanted, ours = ([gc(text) for text in part.texts] for part in (found, drawn))
    assert abs(np.mean(wanted) - np.mean(ours)) < 0.01 and abs(np.std(wanted) - np.std(ours)) < 0.02
    spans = sorted(found.spans + drawn.spans)
    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in zip(spans, spans[1:], strict=False))
    again, other = (matched(found, contigs_of(genome), 2, seed).spans for seed in (0, 1))
    assert again == drawn.spans != other


def test_a_contig_without_room_is_told_of(write: Write) -> None:
    genome, peaks = write("g.fa", f">c\n{'ACGT' * 30}\n"), write("p.bed", "c\t0\t100\n")
    with pytest.warns(UserWarning, match="no place was left for 1 of 1 negatives"):
        assert not matched(read_bed(peaks, str(genome)), contigs_of(genome), 1, 0).texts


def test_parts_are_made_of_contigs_and_keep_the_balance(genome: Path, peaks: Path) -> None:
    layout = Layout(reference=str(genome), negatives=1, test_contigs=["chr2"])
    data = GenomicsData(train=str(peaks), layout=layout, floors=False)
    data.setup()
    assert data.classes == ["negative", "peaks"]
    assert data.parts["test"].labels.bincount().tolist() == [17, 17]
    rows = sum(len(data.parts[part]) for part in ("train", "val"))
    assert rows == 34 and {name.split("::")[-1].split(":")[0] for name in data.asked.ids} == {"chr2"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_contigs": ["chr9", 8]}, r"peaks.bed: no interval lies on 'chr9' of data.layout.test_contigs; name"),
        (
            {"test_contigs": ["chr2", "chrr1"]},
            r"no interval lies on 'chrr1' .*; name contigs as the file does, or leave",
        ),
        ({"val_contigs": [1]}, r"no interval lies on '1' of data.layout.val_contigs; '1' is 'chr1' there: rename it"),
        ({"test_contigs": ["chr1", "chr2"]}, r"peaks.bed: all intervals lie on the contigs of val and test; leave"),
        ({"negatives": 1}, r"x.csv: data.layout.negatives goes with BED files"),
        ({"val_contigs": ["chr1"]}, r"x.csv: data.layout.val_contigs goes with BED files"),
    ],
)
def test_what_cannot_be_is_refused(genome: Path, peaks: Path, write: Write, options: dict, message: str) -> None:
    table = write("x.csv", "sequence,label\nACGT,a\nAACC,b\n")
    train = table if "x.csv" in message else peaks
    data = GenomicsData(train=str(train), layout=Layout(reference=str(genome), **options))
    with pytest.raises(ValueError, match=message):
        data.setup()


def test_a_contig_is_of_one_part() -> None:
    with pytest.raises(ValueError, match="val_contigs and test_contigs both name '8'; leave it out of one of them"):
        Layout(test_contigs=[8, "X"], val_contigs=["8"])


def test_contigs_may_be_called_by_numbers() -> None:
    layout = Layout(test_contigs=[8, "X"], val_contigs=["9"])
    assert [layout.part_of(name) for name in ("8", "X", "9", "88")] == ["test", "test", "val", "train"]


def test_negatives_are_a_class() -> None:
    with pytest.raises(ValueError, match=r"data.layout.negatives are a class; data.task is values"):
        GenomicsData(train="x.bed", layout=Layout(negatives=1), task="values")
