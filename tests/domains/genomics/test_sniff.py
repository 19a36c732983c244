"""What a file is, by its content."""

import codecs
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from domains.genomics.readers import Layout, read_records
from domains.genomics.records import Passed
from domains.genomics.sniff import inspect
from domains.genomics.stream import stream_records

Write = Callable[[str, str], Path]


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("chr1.fa.masked", ">chr1\nACGT\n", "fasta"),
        ("x.fsa", ">a\nACGT\n", "fasta"),
        ("reads.1", "@a\nACGT\n+\nIIII\n", "fastq"),
        ("x.gappedPeak", "chr1\t0\t10\tp\n", "bed"),
        ("genes.txt", 'chr1\th\tgene\t1\t9\t.\t-\t.\tgene_id "g"\n', "gff"),
        ("x.txt", "sequence\nACGT\nACGA\n", "table"),
        ("x.txt", "ACGT\nACGA\n", "fasta"),
        ("x.bed", "chr1\t10\t20\t5\t100\t+\t.\n", "bed"),
        ("x.bed", "1 10 20\n", "bed"),
        ("x.csv", "note, chr1\t10\t20\n", "table"),
    ],
)
def test_the_content_tells(write: Write, name: str, text: str, kind: str) -> None:
    assert inspect(write(name, text)).kind == kind


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("id\tBacteria;Firmicutes;Bacillus\n", "\t"),
        ("a,b;c;d\n", ";"),
        ("a,b;c\n", ","),
        ("sequence\n", ","),
    ],
)
def test_a_tab_parts_columns_whatever_else_a_line_holds(write: Write, text: str, separator: str) -> None:
    assert inspect(write("x.csv", text)).separator == separator


@pytest.mark.filterwarnings("ignore:.*is read as table")
def test_one_column_of_sequences_in_a_text_file_is_a_table(write: Write) -> None:
    """It was one sequence, which began with the letters of its column's name."""
    records = read_records(write("x.txt", "sequence\nACGT\nACGA\n"), labelled=False)
    assert records.ids.tolist() == ["row0", "row1"] and records.sequences.lengths.tolist() == [4, 4]


@pytest.mark.parametrize("mark", [codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE])
def test_a_table_in_utf_32_is_read(tmp_path: Path, mark: bytes) -> None:
    encoding = "utf-32-le" if mark == codecs.BOM_UTF32_LE else "utf-32-be"
    (tmp_path / "x.csv").write_bytes(mark + "sequence,label\nACGT,é\n".encode(encoding))
    assert read_records(tmp_path / "x.csv").labels.tolist() == ["é"]


def test_a_tar_archive_is_told_of_whatever_it_is_called(write: Write, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.fa.gz", "w:gz") as archive:
        archive.add(write("x.fa", ">a\nACGT\n"), "x.fa")
    with pytest.raises(ValueError, match=r"x.fa.gz: is a tar archive; unpack it with `tar xf`"):
        read_records(tmp_path / "x.fa.gz")


def test_two_tables_put_together_are_told_of(write: Write) -> None:
    """The names of the second one's columns were told to look like protein."""
    with pytest.raises(ValueError, match="x.csv line 3: repeats the names of the columns; drop the line"):
        read_records(write("x.csv", "sequence,label\nACGT,x\n" * 2))


def test_indexes_and_hidden_folders_hold_no_sequences(write: Write) -> None:
    """Notebooks keep copies of files in .ipynb_checkpoints."""
    for name in ("pos.fa", "neg.fa"):
        path = write(f"all/{name}", f">{name}\nACGT\n").parent
        write(f"all/{name}.fai", f"{name}\t4\t8\t4\t5\n")
        write(f"all/.ipynb_checkpoints/{name}", f">{name}\nACGA\n")
    assert read_records(path).labels.tolist() == ["neg", "pos"]
    assert [records.ids.tolist() for records in stream_records(path, Layout(), 100, Passed())] == [
        ["neg.fa:neg.fa", "pos.fa:pos.fa"]
    ]
    path.rename(path.with_name("one"))
    assert read_records(path.parent).labels.tolist() == ["one", "one"]


def test_a_file_beside_the_folders_of_classes_is_warned_of(write: Write) -> None:
    """Its sequences were left out without a word."""
    for name in ("pos/a.fa", "neg/b.fa", "more.fa"):
        write(f"all/{name}", f">{Path(name).stem}\nACGT\n")
    with pytest.warns(UserWarning, match="more.fa lies beside the folders of the classes, and is not read"):
        assert read_records(write("all/pos/a.fa.fai", "").parents[1]).labels.tolist() == ["neg", "pos"]
