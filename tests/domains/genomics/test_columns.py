"""Columns of tables: which is which, and what a cell says."""

from collections.abc import Callable
from pathlib import Path

import pytest

from domains.genomics.readers import Layout, read_records
from domains.genomics.records import Passed
from domains.genomics.stream import ROWS, stream_records

Write = Callable[[str, str], Path]


@pytest.mark.parametrize("cell", ["NA", "nan", "NaN", "None", "#N/A", "."])
def test_a_cell_that_says_there_is_no_sequence_is_none(write: Write, cell: str) -> None:
    """NA and nan are of letters that stand for bases, and would be sequences of two and three."""
    path = write("x.csv", f"id,sequence,label\na,ACGT,x\nb,{cell},y\n")
    with pytest.raises(ValueError, match=r"x.csv: sequence 'b' is empty; fill it or drop it"):
        read_records(path)
    passed = Passed()
    assert [records.ids.tolist() for records in stream_records(path, Layout(), 100, passed)] == [["a"]]
    assert passed.counts == {"without a base": 1}


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("ID,sequence,label,group,split", "'ID' is not read as .*; where it is meant, set data.layout.id_col"),
        ("#id,sequence,label,group,split", "'#id' is not read as .*; where it is meant, set data.layout.id_col"),
        ("id,sequence,label,Group,split", "'Group' is not read as .*; where it is meant, set data.layout.group_col"),
        ("id,sequence,label,group,Split", "'Split' is not read as .*; where it is meant, set data.layout.split_col"),
    ],
)
def test_a_column_that_is_called_nearly_so_is_warned_of(write: Write, names: str, says: str) -> None:
    """Test rows would be trained on, and names lost, without a word."""
    path = write("x.csv", f"{names}\na,ACGT,x,g,train\nb,ACGA,y,h,test\n")
    with pytest.warns(UserWarning, match=says):
        read_records(path)


def test_it_is_warned_of_once_a_file(write: Write) -> None:
    rows = 2 * ROWS + 1
    path = write("x.csv", "ID,sequence\n" + "a,ACGT\n" * rows)
    with pytest.warns(UserWarning, match="'ID' is not read") as warned:
        found = [name for records in stream_records(path, Layout(), 4 * ROWS, Passed()) for name in records.ids]
    assert len(warned) == 1 and found == [f"row{row}" for row in range(rows)]


@pytest.mark.filterwarnings("ignore:.*is read as table")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("peaks.tsv", "chrom\tstart\tend\tlabel\nchr1\t0\t10\tx\n"),
        ("peaks.tsv", "chr1\t0\t10\tx\n"),
        ("peaks.txt", "#PeakID\tchr\tstart\tend\tstrand\np\tchr1\t1\t10\t+\n"),
        ("peaks.csv", "chrom,start,end\nchr1,0,10\n"),
    ],
)
def test_a_table_of_intervals_is_told_what_to_be_called(write: Write, name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: holds intervals of a genome; let its name end in .bed"):
        read_records(write(name, text))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("chrom,start,end,seq,label", "no column 'sequence' among .*; set data.layout.sequence_col"),
        ("chrom,start,end,sequence,class", "no column 'label' among .*; set data.layout.label_col"),
    ],
)
def test_sequences_with_their_places_are_no_intervals(write: Write, names: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_records(write("x.csv", f"{names}\nchr1,0,8,ACGTACGT,x\n"))


def test_a_table_of_classes_without_a_header_is_told_of(write: Write) -> None:
    path, table = write("x.fa", ">a\nACGT\n>b\nACGA\n"), write("taxa.tsv", "a\tk__Bacteria\nb\tk__Archaea\n")
    layout = Layout(label_from="table", label_table=str(table))
    with pytest.raises(ValueError, match=r"taxa.tsv line 1: holds 'a', a sequence of .*x.fa, .* put them above it"):
        read_records(path, layout)


def test_a_first_row_with_an_ambiguous_base_is_no_header(write: Write) -> None:
    with pytest.raises(ValueError, match=r"x.csv line 1: is DNA, where the names of the columns should stand"):
        read_records(write("x.csv", "ACGTRACGTNACGTYACGTACG,x\nACGT,y\n"))


def test_a_split_that_is_none_is_told_with_its_sequence(write: Write) -> None:
    with pytest.raises(ValueError, match=r"x.csv: sequence 'row1': split '' is unknown; write train, val or test"):
        read_records(write("x.csv", "sequence,label,split\nACGT,x,train\nACGA,y,\n"))
