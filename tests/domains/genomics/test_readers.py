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

from domains.genomics import stream
from domains.genomics.bases import decode
from domains.genomics.readers import Layout, concatenated, read_records

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
    barred = write("barred.gb", genbank.replace("Escherichia coli", "E|\u00a0coli"))  # a bar parts fields of a header
    records = read_records(barred, Layout(label_from="header", header_field="organism"))
    assert records.ids[0] == "A1.1" and records.labels[0] == "E__coli"
    header = genbank[: genbank.index("ORIGIN")]
    for text, message in (
        (header, "the last record has no end"),
        (header + "//\n", "not a whole GenBank file that can be read"),
        (header + "CONTIG      join(B1.1:1..6)\n//\n", "record 'A1.1' holds no sequence of its own; download it with"),
        (genbank.replace(" 6 bp", " 9 bp"), "record 'A1.1' holds 6 bases, its LOCUS line says 9 bases"),
        (genbank.replace("//", "") + genbank, "record 'A1.1' holds"),
        (header.replace("A1.1", "A" * 999) + "CONTIG      join(B1.1:1..6)\n//\n", f"record '{'A' * 40}' holds no"),
        ("junk\n" + genbank, "'junk' is no LOCUS line"),
    ):
        with pytest.raises(ValueError, match=f"cut.gb.*{message}"):
            read_records(write("cut.gb", text))


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


def test_a_table_keeps_a_class_called_na_and_names_its_rows(write: Write) -> None:
    records = read_records(write("x.csv", "sequence,label\nNAT,NA\nACG,None\n"))
    assert letters(records) == ["NAT", "ACG"] and records.labels.tolist() == ["NA", "None"]
    assert records.ids.tolist() == ["row0", "row1"]


def test_a_byte_order_mark_belongs_to_no_name(write: Write) -> None:
    assert letters(read_records(write("x.csv", "\ufeffsequence,label\nACG,x\n"))) == ["ACG"]
    assert read_records(write("x.fa", "\ufeff>a\nACG\n")).ids.tolist() == ["a"]


def test_what_is_missing_in_a_parquet_file_is_no_class(tmp_path: Path) -> None:
    pd.DataFrame({"sequence": ["AC", "GT"], "label": ["x", None]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="row 2 below its header: column 'label' is empty"):
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


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.fa", "", "holds no sequence; check that it is the right file"),
        ("x.fa", ">a\n>b\nACGT\n", "sequence 'a' is empty; fill it or drop it"),
        (
            "x.fa",
            ">a\nAC\u00a0GT\n",
            r"'a', place 3: '\?' is no nucleotide .* and IUPAC, and \? is what letters beyond",
        ),
        ("x.fa", ">a\nACGT\n>p\nACMKLE\n", "sequence 'p', place 5: 'L' is no nucleotide .*looks like protein"),
        ("x.fa", ">a\nAC-GT\n", "sequence 'a', place 3: '-' is no nuc.* .*gap of an alignment: take the gaps out"),
        ("x.fa", ">a\nAC?GT\n", "sequence 'a', place 3: '\\?' is no nucleotide .*allowed are ACGTUN and IUPAC"),
        ("x.fa", ">a\nACGT\n>a\nGGGG\n", "1 sequences carry the name of another one, the first is 'a'"),
        ("x.fa", ">a\nACGT\n> \nGGGG\n", "record 2 has no name; give every one an id"),
        ("x.fa", "ACGT\n", "line 1: 'ACGT' is no FASTA header"),
        ("x.fq", "@a\nACGT\n+\nII\n", "not a whole FASTQ file"),
        ("x.doc", "ACGT, or so\n", "files that end in .doc are unknown; known are"),
        ("x.csv", "sequence,label\n", "holds no row below its header"),
        ("x.csv", "", "an empty file, without names of columns; export or copy it again"),
        ("x.csv", 'sequence,label\nAC,y\nAC,"x\n', "line 3: its quotes do not match .*; a cell that"),
        ("x.csv", 'sequence,label\nAC,y\nAC,"x" z\nAC,y\n', "line 3: its quotes do not match .*; a cell that"),
        ("x.parquet", "PAR1", "not a whole table"),
        ("x.csv", "seq,label\nACG,x\n", "no column 'sequence' among .*; set data.layout.sequence_col"),
        ("x.csv", "sequence,class\nACG,x\n", "no column 'label' among .*; set data.layout.label_col"),
        ("x.csv", "# a comment\nsequence,label\nACG,\n", "row 1 below its header: column 'label' is empty"),
        ("x.csv", "id,sequence,label\na,ACG,x\na,ACC,x\n", "the first is 'a'; every id must stand once"),
        ("x.csv", "sequence,label,split\nACG,x,holdout\n", "split 'holdout' is unknown; write train, val or test"),
    ],
)
def test_a_defect_is_one_line_that_names_file_place_and_cure(write: Write, name: str, text: str, message: str) -> None:
    path = write(name, text)
    with pytest.raises(ValueError, match=message) as caught:
        read_records(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_headers_that_begin_with_their_class_are_numbered(write: Write) -> None:
    """Those of DADA2's training sets are lineages, and many are alike."""
    path = write("x.fa", ">A;B c 1;\nACGT\n>A;B c 2;\nACGA\n>A;B c 1;\nACGG\n")
    records = read_records(path, Layout(label_from="header", header_field="0;2"))
    assert records.labels.tolist() == ["B c 1", "B c 2", "B c 1"] and len(set(records.ids)) == 3
    with pytest.raises(ValueError, match="2 sequences carry the name of another one, the first is 'A;B'"):
        read_records(path)


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
    with pytest.raises(ValueError, match=f"x.{kind}{suffix}.*: not a whole .* that can be read .*; .*copy"):
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


TABLE = "sequence{0}label\nACGTACGT{0}x\nGGTTTTGG{0}y\n"


@pytest.mark.filterwarnings("ignore:.*is read as")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", TABLE.format(";").encode()),
        ("x.tsv", TABLE.format(",").encode()),
        ("x.txt", TABLE.format("\t").encode()),
        ("x.txt", TABLE.format(",").encode()),
        ("x.fa", TABLE.format("\t").encode()),
        ("x.csv", TABLE.format("\t").encode("utf-16")),
        ("x.csv", TABLE.format(",").encode("utf-16-le")),
        ("x.csv", TABLE.format(",").encode("utf-16-be")),
        ("x.csv", gzip.compress(TABLE.format(",").encode(), mtime=0)),
        ("x.tsv.gz", TABLE.format("\t").encode()),
        ("x.csv", TABLE.format(" , ").encode()),
        ("x.csv", b"# exported, by me\n" + TABLE.format("\t").encode()),
        ("x.csv", b"sep=;\r\n" + TABLE.format(";").encode()),
    ],
)
def test_what_a_table_is_shows_in_its_content(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    records = read_records(tmp_path / name)
    assert letters(records) == ["ACGTACGT", "GGTTTTGG"] and records.labels.tolist() == ["x", "y"]


@pytest.mark.filterwarnings("ignore:.*is read as")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.fa", gzip.compress(FASTA.encode(), mtime=0)),
        ("x.fa", bz2.compress(FASTA.encode())),
        ("x.fa.gz", FASTA.encode()),
        ("x.csv", FASTA.encode()),
        ("x.fq", FASTA.encode()),
        ("x.txt", FASTA.encode("utf-16")),
        ("x.fa", b"; made by me\n# with a tool\n" + FASTA.replace("\nAC\n", "\n;half\nAC\n").encode()),
        ("x.txt", b"@a\nACGT\nAC\n+\nIIII\nII\n@b\nGGT\n+\n@II\n"),
    ],
)
def test_what_fasta_is_shows_in_its_content(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert letters(read_records(tmp_path / name)) == ["ACGTAC", "GGT"]


def test_a_kind_that_the_name_does_not_say_is_warned_of(write: Write) -> None:
    with pytest.warns(UserWarning, match="x.txt: is read as table, parted by semicolons"):
        read_records(write("x.txt", TABLE.format(";")))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", ("ACGTTGCA" * 500 + ",0\n" + "ACGTTGCC" * 500 + ",1\n").encode(), "line 1: is DNA, where the names"),
        ("x.csv", ("q" * 20000 + ",label\nACGT,x\n").encode(), "no column 'sequence' among 'q{30}', 'label'; set"),
        ("x.csv", b"sequence,label\na,ACG,x\nb,ACC,y\n", "line 2: has 3 cells, and line 1 names 2 columns; name every"),
        ("x.csv", b"sequence,label,labelACGT,x\nACG,y\n", "line 2: has 2 cells, and line 1 names 4 columns"),
        ("x.csv", b"sequence,label,label\nACG,x,y\n", "two columns are called 'label'; rename or drop one"),
        ("x.xlsx.csv", b"PK\x03\x04....", "is an Excel file or a zip archive; export it as csv"),
        ("x.fa", b"C'A\x1a\0\0\0\0", "is a 2bit genome; convert it with twoBitToFa"),
        ("x.fa.gz", gzip.compress(gzip.compress(FASTA.encode(), mtime=0), mtime=0), "is packed twice; unpack it once"),
        ("x.csv", b"sequence|label\nACGT|x\n", "no column 'sequence' among 'sequence|label'; part the columns by comm"),
        ("x.txt", b"sequence label\nACGT x\n", "line 1: 'sequence label' is no FASTA header; .*semicolons part"),
        ("x.csv", b"sequence,label\nACGT,x\nAC\x0bT,y\n", "sequence 'row1', place 3: '.x0b' is no nucleotide"),
        ("x.fa", b">a\nACGT\x0b\nACGT\n", "sequence 'a', place 5: '.x0b' is no nucleotide"),
    ],
)
def test_what_cannot_be_read_gets_a_short_line_with_the_cure(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_records(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and len(str(caught.value)) < len(str(tmp_path)) + 300


def test_bare_lines_are_one_sequence_which_is_told(write: Write) -> None:
    assert letters(read_records(write("one.txt", "ACGT\n\n"))) == ["ACGT"]
    with pytest.warns(UserWarning, match="two.txt: its 2 lines, which have no headers, are read as one sequence"):
        assert letters(read_records(write("two.txt", "ACGT\nGG\n"))) == ["ACGTGG"]


def test_letters_of_latin_1_are_kept(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("sequence,label\nACGT,Köln\nGGGG,Zürich\n".encode("latin-1"))
    with pytest.warns(UserWarning, match="x.csv: 2 bytes are not UTF-8, and read as Latin-1"):
        assert read_records(tmp_path / "x.csv").labels.tolist() == ["Köln", "Zürich"]
    (tmp_path / "x.fa").write_bytes(">a\nACGT\n>b".encode("utf-16") + b"\xd8\xd8" + "\nACG\n".encode("utf-16-le"))
    with pytest.warns(UserWarning, match="x.fa: 2 bytes are not UTF-16, and read as Latin-1"):
        assert read_records(tmp_path / "x.fa").ids.tolist() == ["a", "bØØ"]


def test_blanks_around_a_class_are_not_part_of_it(write: Write) -> None:
    with pytest.warns(UserWarning, match="x.csv: 'enhancer ' and other classes have blanks at their ends"):
        records = read_records(write("x.csv", "sequence, label \nACGT,enhancer \nACCC,enhancer\nAGG,\u00a0promoter\n"))
    assert records.labels.tolist() == ["enhancer", "enhancer", "promoter"]


def test_blanks_around_an_id_a_group_and_a_part_are_none_of_theirs(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "ROWS", 1)
    table = write(
        "x.csv", "id,sequence,label,group,split\ns1 ,ACGT,a,g ,train\n s2,ACCC,b, ,\u2028val\n\u2028,AGG,b,g,train\n"
    )
    with pytest.raises(ValueError, match="x.csv: record 3 has no name; give every one an id"):
        read_records(table)
    with pytest.raises(ValueError, match="'s1'"):
        read_records(write("y.csv", "id,sequence,label\ns1,ACGT,a\ns1\u00a0,ACCC,b\n"))
    table.write_text(table.read_text().replace("\u2028,", "s3,"))
    records = read_records(table)
    streamed = [name for part in stream.stream_records(table, Layout(), 9) for name in part.ids]
    assert records.ids.tolist() == streamed == ["s1", "s2", "s3"]
    assert records.groups.tolist() == ["g", "", "g"] and records.splits.tolist() == ["train", "val", "train"]
    classes = write("t.csv", "id,label,group,split\nb ,y,g ,train\n a,x,g, test\n")
    records = read_records(write("x.fa", FASTA), Layout(label_from="table", label_table=str(classes)))
    assert records.labels.tolist() == ["x", "y"] and records.groups.tolist() == ["g", "g"]
    assert records.splits.tolist() == ["test", "train"]


def test_files_whose_ids_collide_stand_before_them(write: Write, tmp_path: Path) -> None:
    files = [write(f"{name}.fa", f">seq0\n{text}\n") for name, text in (("pos", "ACGT"), ("neg", "GGGG"))]
    parts = [read_records(file) for file in files]
    assert concatenated(parts, "both").ids.tolist() == ["pos.fa:seq0", "neg.fa:seq0"]
    parts[1].ids[0] = "seq1"
    assert concatenated(parts, "both").ids.tolist() == ["seq0", "seq1"]
    with pytest.raises(ValueError, match="pos.fa: is given twice; name every file once"):
        concatenated([parts[0], parts[0]], "both")
    for name in ("plasmid/iso1", "plasmid/iso2", "chromosome/iso1"):
        write(f"set/{name}.csv", "sequence\nACGT\nGGGG\n")
    write("set/plasmid/.DS_Store", "junk")
    records = read_records(tmp_path / "set")
    assert records.ids[:3].tolist() == ["chromosome/iso1.csv:row0", "chromosome/iso1.csv:row1", "plasmid/iso1.csv:row0"]
    assert records.labels.tolist() == ["chromosome"] * 2 + ["plasmid"] * 4


def test_a_table_of_classes_that_contradicts_itself_is_refused(write: Write) -> None:
    for table in ("id,label\na,x\nb,y\na,y\n", "id,label,split\na,x,train\nb,y,test\na,x,test\n"):
        layout = Layout(label_from="table", label_table=str(write("t.csv", table)))
        with pytest.raises(ValueError, match="t.csv: says two things of 'a'; keep one row of each id"):
            read_records(write("x.fa", FASTA), layout)


def test_an_empty_class_in_a_table_of_classes_is_refused(write: Write) -> None:
    layout = Layout(label_from="table", label_table=str(write("t.csv", "id,label\na,x\nb,\n")))
    with pytest.raises(ValueError, match="t.csv: column 'label' is empty for 'b'; fill it or drop the record"):
        read_records(write("x.fa", FASTA), layout)
    assert read_records(write("x.fa", FASTA), layout, labelled=False).labels.tolist() == ["x", ""]


def test_columns_of_parquet_that_are_no_text_are_refused_where_they_are_asked_for(tmp_path: Path) -> None:
    table = pd.DataFrame({"sequence": ["AC", "GT"], "label": [1, None], "at": pd.to_datetime(["2020", "2021"])})
    table = table.astype({"label": "Int64"}).set_index(pd.Index(["a", "b"], name="id"))
    table.assign(list=[["A"], ["C"]], bytes=[b"A", b"C"]).to_parquet(tmp_path / "x.parquet")
    records = read_records(tmp_path / "x.parquet", labelled=False)
    assert records.ids.tolist() == ["a", "b"] and records.labels.tolist() == ["1", ""]
    assert letters(read_records(tmp_path / "x.parquet", Layout(sequence_col="bytes"), False)) == ["A", "C"]
    for name, kind in (("at", "timestamp"), ("list", "list")):
        with pytest.raises(ValueError, match=f"x.parquet: column '{name}' is of {kind}.*, not of text"):
            read_records(tmp_path / "x.parquet", Layout(label_col=name))


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    pd.DataFrame({"sequence": ["ACGT" * 50] * 50, "label": ["x"] * 50}).to_parquet(tmp_path / "x.parquet")
    whole = (tmp_path / "x.parquet").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(50):
        damaged = bytearray(whole)
        for place in random.integers(4, len(whole), 4):
            damaged[place] ^= 1 << random.integers(8)
        (tmp_path / "x.parquet").write_bytes(damaged)
        try:
            read_records(tmp_path / "x.parquet")
        except ValueError as error:
            assert str(tmp_path / "x.parquet") in str(error) and "\n" not in str(error)
