"""Every kind of file, where its classes stand, and the one line that each defect gets."""

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

from domains.genomics.bases import decode
from domains.genomics.readers import Layout, read_records

Write = Callable[[str, str], Path]
FASTA = ">a first class=x\nACGT\nAC\n>b second class=y\nggu\n"
FASTQ = "@a one\nACGT\n+\nIIII\n@b two\nGG\n+\nII\n"
CSV = "id,sequence,label\na,ACGTAC,x\nb,GGT,y\n"


def letters(records) -> list[str]:
    return [decode(records.sequences[row]) for row in range(len(records))]


@pytest.mark.parametrize(("suffix", "pack"), [("", None), (".gz", gzip), (".bz2", bz2), (".xz", lzma)])
def test_fasta_plain_and_packed(tmp_path: Path, suffix: str, pack) -> None:
    path = tmp_path / f"enhancer.fa{suffix}"
    path.write_bytes(pack.compress(FASTA.encode()) if pack else FASTA.encode())
    records = read_records(path)
    assert letters(records) == ["ACGTAC", "GGT"] and records.ids.tolist() == ["a", "b"]
    assert records.labels.tolist() == ["enhancer", "enhancer"]
    assert (records.repairs.lower, records.repairs.uracil) == (3, 1)


@pytest.mark.parametrize(("field", "classes"), [("1", ["first", "second"]), ("class", ["x", "y"])])
def test_the_class_may_stand_in_the_header(write: Write, field: str, classes: list[str]) -> None:
    records = read_records(write("x.fasta", FASTA), Layout(label_from="header", header_field=field))
    assert records.labels.tolist() == classes


def test_the_class_may_stand_in_a_table(write: Write) -> None:
    table = write("classes.tsv", "acc\tkind\tsplit\tgroup\nb\ty\ttest\t7\na\tx\ttrain\t8\n")
    layout = Layout(label_from="table", label_table=str(table), id_col="acc", label_col="kind")
    records = read_records(write("x.fasta", FASTA), layout)
    assert records.labels.tolist() == ["x", "y"] and records.splits.tolist() == ["train", "test"]
    assert records.groups.tolist() == ["8", "7"]
    short = write("short.csv", "id,label\na,x\n")
    with pytest.raises(ValueError, match="short.csv: has no class for 1 records .* 'b'; add them"):
        read_records(write("x.fasta", FASTA), Layout(label_from="table", label_table=str(short)))


def test_fastq_and_genbank(write: Write) -> None:
    assert letters(read_records(write("reads.fastq", FASTQ))) == ["ACGT", "GG"]
    about = {"molecule_type": "DNA", "organism": "Escherichia coli"}
    genbank = SeqRecord(Seq("ACGTAC"), id="A1.1", name="A1", annotations=about).format("genbank")
    records = read_records(write("x.gb", genbank), Layout(label_from="header", header_field="organism"))
    assert letters(records) == ["ACGTAC"] and records.ids[0] == "A1.1"
    assert records.labels[0] == "Escherichia_coli"
    with pytest.raises(ValueError, match="cut.gb: not a whole GenBank file"):
        read_records(write("cut.gb", genbank[: genbank.index("ORIGIN")]))


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "csv.gz"])
def test_tables(tmp_path: Path, kind: str) -> None:
    table = pd.DataFrame({"id": ["a", "b"], "sequence": ["ACGTAC", "GGT"], "label": [1, 0], "split": ["train", "dev"]})
    path = tmp_path / f"x.{kind}"
    if kind == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    records = read_records(path)
    assert letters(records) == ["ACGTAC", "GGT"] and records.labels.tolist() == ["1", "0"]
    assert records.splits.tolist() == ["train", "val"]


def test_a_table_keeps_a_sequence_called_na_and_names_its_rows(write: Write) -> None:
    records = read_records(write("x.csv", "sequence,label\nNA,NA\nACG,None\n"))
    assert letters(records) == ["NA", "ACG"] and records.labels.tolist() == ["NA", "None"]
    assert records.ids.tolist() == ["row0", "row1"]


def test_a_byte_order_mark_belongs_to_no_name(write: Write) -> None:
    assert letters(read_records(write("x.csv", "\ufeffsequence,label\nACG,x\n"))) == ["ACG"]
    assert read_records(write("x.fa", "\ufeff>a\nACG\n")).ids.tolist() == ["a"]


def test_what_is_missing_in_a_parquet_file_is_no_class(tmp_path: Path) -> None:
    pd.DataFrame({"sequence": ["AC", "GT"], "label": ["x", None]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="line 3: column 'label' is empty"):
        read_records(tmp_path / "x.parquet")


def test_folders_are_classes_whatever_the_order_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b", "a"):
        for i in range(2):
            file = tmp_path / "set" / name / f"{i}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("ACGT"[: i + 1] + "\n")
    listed = Path.iterdir
    for order in (False, True):
        monkeypatch.setattr(Path, "iterdir", lambda self, order=order: iter(sorted(listed(self), reverse=order)))
        records = read_records(tmp_path / "set")
        assert records.labels.tolist() == ["a", "a", "b", "b"] and letters(records) == ["A", "AC"] * 2
        assert records.ids[0] == "a/0/0" or records.ids[0] == "a/0"


def test_a_folder_of_files_takes_the_class_from_the_name(write: Write, tmp_path: Path) -> None:
    write("set/pos.fa", ">a\nAC\n")
    write("set/neg.fa.txt", ">b\nGT\n")
    assert read_records(tmp_path / "set").labels.tolist() == ["neg.fa", "pos"]


def test_bed_is_cut_from_the_reference_with_n_beyond_its_ends(write: Write) -> None:
    reference = write("genome.fa", ">chr1 x\nAACCGGTT\n>chr2\nACGT\n")
    bed = write("peaks.bed", "track x\nchr1\t0\t3\tp\nchr1\t5\t8\tn\t0\t-\nchr2\t-2\t3\tp\nchr2\t2\t6\tn\n")
    layout = Layout(label_from="header", reference=str(reference))
    records = read_records(bed, layout)
    assert letters(records) == ["AAC", "AAC", "NNACG", "GTNN"] and records.labels.tolist() == ["p", "n", "p", "n"]
    wide = read_records(bed, Layout(label_from="header", reference=str(reference), width=6))
    assert [len(text) for text in letters(wide)] == [6] * 4 and letters(wide)[0] == "NNAACC"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr9\t0\t3", "line 1: contig 'chr9' is not in .* rename it"),
        ("chr1\t3\t3", "line 1: end 3 is not behind start 3"),
        ("chr1 0 3", "line 1: no tab-separated chrom, start, end"),
        ("chr1\t80\t90", "line 1: chr1:80-90 lies outside the contig of 8 bases"),
    ],
)
def test_bad_intervals(write: Write, line: str, message: str) -> None:
    reference = write("genome.fa", ">chr1\nAACCGGTT\n")
    with pytest.raises(ValueError, match=message):
        read_records(write("x.bed", line + "\n"), Layout(reference=str(reference)))
    with pytest.raises(ValueError, match="is not in"):
        read_records(write("x.bed", "chr1\t0\t3\n"), Layout(reference=str(write("nameless.fa", ">\nAACC\n"))))
    with pytest.raises(ValueError, match="needs its genome; set data.layout.reference"):
        read_records(write("x.bed", line + "\n"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.fa", "", "holds no sequence; check that it is the right file"),
        ("x.fa", ">a\n>b\nACGT\n", "sequence 'a' is empty; fill it or drop it"),
        ("x.fa", ">a\nACGT\n>p\nACMKLE\n", "sequence 'p', place 5: 'L' is no nucleotide .*looks like protein"),
        ("x.fa", ">a\nAC-GT\n", "sequence 'a', place 3: '-' is no nucleotide .*allowed are ACGTUN and IUPAC"),
        ("x.fa", ">a\nACGT\n>a\nGGGG\n", "1 sequences carry the name of another one, the first is 'a'"),
        ("x.fa", "ACGT\n", "line 1: 'ACGT' is no FASTA header"),
        ("x.fq", "@a\nACGT\n+\nII\n", "not a whole FASTQ file"),
        ("x.doc", ">a\nACGT\n", "files that end in .doc are unknown; known are"),
        ("x.csv", "sequence,label\n", "holds no row below its header"),
        ("x.csv", "", "not a whole table"),
        ("x.csv", 'sequence,label\nAC,"x\n', "not a whole table"),
        ("x.parquet", "PAR1", "not a whole table"),
        ("x.csv", "seq,label\nACG,x\n", "no column 'sequence' among .*; set data.layout.sequence_col"),
        ("x.csv", "sequence,class\nACG,x\n", "no column 'label' among .*; set data.layout.label_col"),
        ("x.csv", "sequence,label\nACG,\n", "line 2: column 'label' is empty"),
        ("x.csv", "id,sequence,label\na,ACG,x\na,ACC,x\n", "the first is 'a'; every id must stand once"),
        ("x.csv", "sequence,label,split\nACG,x,holdout\n", "split 'holdout' is unknown; write train, val or test"),
    ],
)
def test_a_defect_is_one_line_that_names_file_place_and_cure(write: Write, name: str, text: str, message: str) -> None:
    path = write(name, text)
    with pytest.raises(ValueError, match=message) as caught:
        read_records(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_header_field_is_named(write: Write) -> None:
    with pytest.raises(ValueError, match="record 'a' has no field '9' .* set data.layout.header_field"):
        read_records(write("x.fa", FASTA), Layout(label_from="header", header_field="9"))


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip), (".xz", lzma), (".bz2", bz2)])
@pytest.mark.parametrize("kind", ["fa", "csv"])
def test_a_packed_file_that_is_cut_short_is_named(tmp_path: Path, suffix: str, pack, kind: str) -> None:
    text = "".join(f">s{i}\n{'ACGT' * 50}\n" for i in range(200)) if kind == "fa" else CSV + "c,ACGT,x\n" * 200
    packed = pack.compress(text.encode() + os.urandom(5000).hex().encode())
    path = tmp_path / f"x.{kind}{suffix}"
    path.write_bytes(packed[: len(packed) * 2 // 3])
    with pytest.raises(ValueError, match=f"x.{kind}{suffix}: cut short or damaged .*; copy or download it again"):
        read_records(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.fa: no such file or folder"):
        read_records(tmp_path / "nowhere.fa")


def test_reading_is_fast_where_it_matters(tmp_path: Path) -> None:
    """A table of 20,000 sequences becomes one tensor; nothing is left per sequence but its name."""
    random = np.random.default_rng(0)
    text = random.choice(np.frombuffer(b"ACGT", np.uint8), (20000, 100))
    table = pd.DataFrame({"sequence": [row.tobytes().decode() for row in text], "label": "x"})
    table.to_csv(tmp_path / "x.csv", index=False)
    records = read_records(tmp_path / "x.csv")
    assert records.sequences.codes.shape == (2_000_000,) and records.sequences.codes.element_size() == 1
