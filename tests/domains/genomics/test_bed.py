"""Intervals: what each column means, what is cut from the genome, and which lines are refused."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from domains.genomics import GenomeData
from domains.genomics.bases import decode
from domains.genomics.readers import Layout, read_records
from domains.genomics.records import Passed, Records
from domains.genomics.stream import stream_records

Write = Callable[[str, str], Path]


def letters(records: Records) -> list[str]:
    return [decode(records.sequences[row]) for row in range(len(records))]


@pytest.fixture
def genome(write: Write) -> str:
    """A contig of 400 random bases."""
    text = "".join(np.random.default_rng(0).choice(list("ACGT"), 400))
    return str(write("genome.fa", f">chrA some words\n{text}\n"))


def test_bed_is_cut_from_the_reference_with_n_beyond_its_ends(write: Write) -> None:
    reference = write("genome.fa", ">chr1 x\nAACCGGTT\n>chr2\nACGT\n")
    bed = write("peaks.bed", "track x\nchr1\t0\t3\tp\nchr1\t5\t8\tn\t0\t-\nchr2\t-2\t3\tp\nchr2\t2\t6\tn\n")
    layout = Layout(label_from="header", reference=str(reference))
    records = read_records(bed, layout)
    assert letters(records) == ["AAC", "AAC", "NNACG", "GTNN"] and records.labels.tolist() == ["p", "n", "p", "n"]
    wide = read_records(bed, Layout(label_from="header", reference=str(reference), width=6))
    assert [len(text) for text in letters(wide)] == [6] * 4 and letters(wide)[0] == "NNAACC"


def test_names_in_quotes_are_read_and_lines_in_quotes_are_not(write: Write) -> None:
    layout = Layout(label_from="header", reference=str(write("genome.fa", ">chr1\nAACCGGTT\n")))
    quoted = read_records(write("cells.bed", '"chr1"\t1\t4\t" enh "\t0\t"-"\n'), layout)
    assert quoted.labels.tolist() == ["enh"] and decode(quoted.sequences[0]) == "GGT"
    with pytest.raises(ValueError, match="line 1: strand '-\"' is unknown"):
        read_records(write("lines.bed", '"chr1\t1\t4\tenh\t0\t-"\n'), layout)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr9\t0\t3", "line 1: contig 'chr9' is not in .* rename it"),
        ("chr1\t3\t3", "line 1: end 3 is not behind start 3"),
        ("chr1 0 3", "line 1: no tab-separated chrom, start, end; part its columns by tabs"),
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


STRANDS = "chrA\t50\t130\tenh\t0\t+\nchrA\t250\t330\tprom\t0\t-\nchrA\t10\t20\tenh\t.\t.\n"


def test_a_header_line_names_the_columns(write: Write, genome: str) -> None:
    """Also where they stand in another order, and behind #."""
    layout = Layout(label_from="header", reference=genome)
    plain = read_records(write("six.bed", STRANDS), layout)
    lines = [line.split("\t") for line in STRANDS.splitlines()]
    other = "".join(f"{row[0]}\t{row[1]}\t{row[2]}\t{row[5]}\t{row[3]}\n" for row in lines)
    quoted = '"chr"\t"start"\t"end"\t"strand"\t"name"\n'  # as R writes it
    for start in ("chrom\tstart\tend\tstrand\tname\n", "#chrom\tchromStart\tchromEnd\tStrand\tName\n", quoted):
        named = read_records(write("five.bed", start + other), layout)
        assert letters(named) == letters(plain)
        assert named.labels.tolist() == plain.labels.tolist() == ["enh", "prom", "enh"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chrA\t50\t130\tenh\t+", "line 1: column 5 is '\\+', but a strand stands in column 6"),
        ("chrA\t50\t130\t-", "line 1: column 4 is '-', but a strand stands in column 6"),
        ("chrA\t50\t130\tenh\t0\tplus", "line 1: strand 'plus' is unknown; write"),
        ("chrA\t50\t130\tenh\t+\t0", "line 1: column 5 is '\\+'"),
        ("chrA\t50\t130\tenh\thigh\t+", "line 1: column 5 is 'high', where BED has a number"),
        ("chrA\t50\t99999999999\tx", "line 1: chrA:50-99999999999 lies for the most part outside the contig of 400"),
        ("chrA\t1_0\t20", "line 1: start '1_0' is no whole number; write it in digits alone"),
        ("chrA\t10\t2,000", "line 1: end '2,000' is no whole number; write it in digits alone"),
        ("chrA\tstart\tend\nchrA\t5\t9", "line 1: start 'start' is no whole number"),
        ("seqnames\tstart\tend\twidth\tstrand\nchrA\t1\t10\t10\t+", "line 2: width 10 is not end - start.*rtracklayer"),
        ("chr\tstart\tend\tlength\tabs_summit\nchrA\t1\t10\t10\t5", "line 2: width 10 is not end - start.*MACS"),
    ],
)
def test_columns_are_strict(write: Write, genome: str, line: str, message: str) -> None:
    for width in (None, 40):
        with pytest.raises(ValueError, match=message) as caught:
            read_records(write("x.bed", line + "\n"), Layout(reference=genome, width=width))
        assert "x.bed" in str(caught.value) and "\n" not in str(caught.value)


def test_a_contig_may_be_called_track1(write: Write) -> None:
    """A line of a contig whose name begins as a browser's own lines do was left out without a word."""
    genome = write("genome.fa", ">track1\nAACCGGTT\n>browserA\nGATTACA\n")
    path = write("x.bed", "track name=x\ntrack\tname=x\nbrowser position chr1\ntrack1\t0\t4\nbrowserA\t0\t4\n")
    assert letters(read_records(path, Layout(reference=str(genome)))) == ["AACC", "GATT"]


@pytest.mark.filterwarnings("ignore:.*is read as bed")
def test_names_are_ids_and_several_summits_of_a_peak_are_records(write: Write, genome: str) -> None:
    peaks = "".join(
        f"chrA\t{start}\t{start + 150}\tpeak_{name}\t100\t.\t5.1\t9.2\t6.6\t{summit}\n"
        for start, name, summit in ((0, "0a", 30), (0, "0b", 110), (200, "1a", 30))
    )
    layout = Layout(reference=genome, width=20)
    for name in ("peaks.bed", "peaks.narrowPeak", "peaks.txt"):
        records = read_records(write(name, peaks), layout, labelled=False)
        assert records.ids.tolist() == ["peak_0a", "peak_0b", "peak_1a"]
        assert letters(records)[0] == letters(records)[1]  # around the middle
        apart = read_records(write(name, peaks), Layout(reference=genome, width=20, centre="summit"), labelled=False)
        contig = Path(genome).read_text().split("\n")[1]
        assert letters(apart) == [contig[20:40], contig[100:120], contig[220:240]]
    with pytest.raises(ValueError, match="line 1: has no summit in column 10.*set data.layout.centre to middle"):
        read_records(write("x.bed", STRANDS), Layout(reference=genome, centre="summit"))


def test_names_that_repeat_still_tell_records_apart(write: Write, genome: str) -> None:
    file = write("x.bed", "chrA\t5\t9\tenh\nchrA\t5\t9\tenh\nchrA\t5\t9\t.\n")
    ids = read_records(file, Layout(reference=genome)).ids.tolist()
    assert ids == ["enh::chrA:5-9(+)", "enh::chrA:5-9(+)#2", "chrA:5-9(+)"]
    file = write("x.bed", "chrA\t5\t9\tenh\nchrA\t7\t9\tenh\n")
    records = read_records(file, Layout(reference=genome, label_from="header"))
    assert records.ids.tolist() == ["enh::chrA:5-9(+)", "enh::chrA:7-9(+)"] and records.labels.tolist() == ["enh"] * 2


@pytest.mark.parametrize(
    ("name", "contigs", "message"),
    [
        ("1", "chr1", "contig '1' is not in .*; '1' is 'chr1' there: rename it, and the others likewise"),
        ("chrM", "MT", "'chrM' is 'MT' there: rename it"),
        ("chrX", "1", "contig 'chrX' is not in .*; rename it or take the right genome"),
    ],
)
def test_the_other_spelling_of_a_contig_is_named(write: Write, name: str, contigs: str, message: str) -> None:
    reference = write("genome.fa", f">{contigs}\nAACCGGTT\n")
    with pytest.raises(ValueError, match=f"x.bed line 1: .*{message}"):
        read_records(write("x.bed", f"{name}\t0\t3\n"), Layout(reference=str(reference)))


@pytest.mark.parametrize(
    ("genome", "message"),
    [
        (">c x\nACGT\n>c y\nTTTT\n", "two contigs are called 'c'; rename or drop one"),
        ("", "holds no contig; check that it is the right file"),
        (">c\nAC--GT\n", "'-' in contig 'c' is no nucleotide .2 such letters.; take the right genome, or write N"),
    ],
)
def test_a_genome_is_no_alignment_and_names_a_contig_once(write: Write, genome: str, message: str) -> None:
    for strand in "+-":
        file = write("x.bed", f"c\t0\t4\tx\t0\t{strand}\n")
        with pytest.raises(ValueError, match=f"genome.fa: {message}"):
            read_records(file, Layout(reference=str(write("genome.fa", genome))))


def test_both_strands_count_what_is_read_otherwise(write: Write) -> None:
    reference = write("genome.fa", ">c\naaRYNcggtU\n")
    for strand, text in (("+", "AANNNCGGTT"), ("-", "AACCGNNNTT")):
        records = read_records(write("x.bed", f"c\t0\t10\tx\t0\t{strand}\n"), Layout(reference=str(reference)))
        assert letters(records) == [text]
        assert (records.repairs.lower, records.repairs.ambiguous) == (6, 2)


def test_blocks_are_warned_of(write: Write, genome: str) -> None:
    rows = [f"chrA\t10\t90\ttx{n}\t0\t+\t10\t90\t0\t{n}\t{'10,' * n}\t{'0,' * n}\n" for n in (1, 2, 3)]
    with pytest.warns(UserWarning, match="x.bed: 2 intervals have blocks .column 10., and are read from end to end"):
        assert len(read_records(write("x.bed", "".join(rows)), Layout(reference=genome))) == 3


def test_settings_of_windows_that_cannot_be_are_refused(write: Write, genome: str) -> None:
    for options in ({"width": 0}, {"width": -5}, {"negatives": -1}):
        with pytest.raises(ValueError, match="data.layout.width must be at least 1, and data.layout.negatives at"):
            Layout(**options)
    with pytest.raises(ValueError, match="data.layout.label_cols names 'A' twice; name every column once"):
        Layout(label_cols=["A", "B", "A"])
    with pytest.raises(ValueError, match="record 'chrA:5-9.*' has no field '4, the name' .*; write the class there"):
        read_records(write("x.bed", "chrA\t5\t9\t.\n"), Layout(reference=genome, label_from="header"))


def test_block_gzip_is_gzip(tmp_path: Path, genome: str) -> None:
    parts = [STRANDS[:40], STRANDS[40:]]  # bgzip writes members one behind the other
    (tmp_path / "x.bed.bgz").write_bytes(b"".join(gzip.compress(part.encode()) for part in parts))
    records = read_records(tmp_path / "x.bed.bgz", Layout(reference=genome))
    assert len(records) == 3 and records.labels[0] == "x"


def test_intervals_that_do_not_fit_the_genome_are_passed_over_where_a_model_answers(tmp_path: Path) -> None:
    (tmp_path / "genome.fa").write_text(f">c\n{'ACGT' * 10}\n")
    layout = Layout(reference=str(tmp_path / "genome.fa"))
    path = tmp_path / "x.bed"
    path.write_text("c\t0\t4\nz\t0\t4\nc\t900\t950\nc\t4\t8\n")
    passed = Passed()
    (found,) = stream_records(path, layout, 100, passed)
    assert [*found.ids] == ["c:0-4(+)", "c:4-8(+)"]
    told = f"passed over 2 sequences: 2 that do not fit the genome (the first: {path} line 2: contig 'z' is not in"
    assert str(passed).startswith(told)
    with pytest.raises(ValueError, match="contig 'z' is not in"):
        [*stream_records(path, layout, 100)]  # as a training reads it
    path.write_text("c\t900\t950\nz\t0\t4\n")
    with pytest.raises(ValueError, match="c:900-950 lies outside the contig"):
        [*stream_records(path, layout, 100, Passed())]


def test_intervals_are_nothing_to_pretrain_on(write: Write) -> None:
    data = GenomeData(train=str(write("x.bed", "chr1\t0\t4\n")))
    with pytest.raises(ValueError, match="x.bed: looks like a bed file, where sequences are wanted; give the genome"):
        data.setup()
    data = GenomeData(train=str(write("x.csv", "seq\nACGT\n")))
    with pytest.raises(ValueError, match="no column 'sequence' among 'seq'; .*, or call one 'sequence'"):
        data.setup()
