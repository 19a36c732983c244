"""Variants and what they do, with a model that counts a motif: every answer is known."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from domains.genomics.bases import Sequences, decode
from domains.genomics.bed import contigs_of
from domains.genomics.effects import Asked, annotate
from domains.genomics.records import Passed
from domains.genomics.strands import Strands
from domains.genomics.tasks import Labels
from domains.genomics.variants import Variant, read_vcf, trimmed

Write = Callable[[str, str], Path]
MOTIF = "GATTACAC"
PLACE = 40  # of the motif in the contig, from 0
BACKGROUND = "ACGTTGCA" * 10
CONTIG = BACKGROUND[:PLACE] + MOTIF + BACKGROUND[PLACE + len(MOTIF) :]


class Counter:
    """In place of a trained model: the log-odds are how often the motif occurs."""

    def __init__(self) -> None:
        self.tokens, self.seen = 64, []
        self.head = SimpleNamespace(stem=SimpleNamespace(stride=1), task=Labels(1))
        self.head.task.names = ["motif"]

    def read(self, sequences: Sequences) -> tuple[torch.Tensor, None]:
        texts = [decode(sequences[row]) for row in range(len(sequences))]
        self.seen += texts
        return torch.tensor([[float(text.count(MOTIF))] for text in texts]), None


def asked(contigs: dict[str, str], strands: Strands | None = None, width: int = 32) -> Asked:
    return Asked(Counter(), contigs, strands, width, 1.0, ["motif"])


def variant(place: int, ref: str, alt: str) -> Variant:
    return Variant("c", place + 1, ".", ref, alt, 0)


def test_a_variant_counts_inside_the_motif_and_not_outside() -> None:
    places = [place for place in range(20, 60) if CONTIG[place] != "T"]
    table = asked({"c": CONTIG}).answer([variant(place, CONTIG[place], "T") for place in places])
    inside = np.array([PLACE <= place < PLACE + len(MOTIF) for place in places])
    assert table["ref_motif"].to_numpy()[inside].tolist() == [1] * inside.sum()
    assert table["delta_motif"].tolist() == (-inside.astype(float)).tolist()


def test_indels_shift_what_is_behind_them_and_keep_the_width() -> None:
    deletion, insertion = variant(PLACE - 1, CONTIG[PLACE - 1 : PLACE + 1], CONTIG[PLACE - 1]), None
    assert asked({"c": CONTIG}).answer([deletion])["delta_motif"].tolist() == [-1]
    broken = CONTIG[: PLACE + 3] + CONTIG[PLACE + 4 :]  # a base of the motif is missing, which the insertion puts back
    insertion = variant(PLACE + 2, broken[PLACE + 2], broken[PLACE + 2] + MOTIF[3])
    model = asked({"c": broken})
    assert model.answer([insertion])["delta_motif"].tolist() == [1]
    ref, alt = model.reader.seen
    assert len(ref) == len(alt) == 32 and ref in broken and alt.startswith(ref[: PLACE + 3 - broken.index(ref)])


def test_letters_that_alleles_share_are_context() -> None:
    assert trimmed(10, "CA", "C") == (11, "A", "")
    assert trimmed(10, "C", "CTT") == (11, "", "TT")
    assert trimmed(10, "CAG", "TAG") == (10, "C", "T")
    assert trimmed(10, "AAA", "AA") == (10, "A", "")


@pytest.mark.parametrize(("place", "ref", "alt"), [(0, "A", "C"), (79, "A", "C"), (0, "ACGTT", "A"), (79, "A", "ACC")])
def test_windows_at_the_ends_of_a_contig_are_filled_with_n(place: int, ref: str, alt: str) -> None:
    windows = variant(place, ref, alt).windows(CONTIG, 32)
    assert all(len(window) == 32 and b"N" in window for window in windows)
    assert windows[0].strip(b"N").decode() in CONTIG and windows[0] != windows[1]


def test_the_annotation_says_which_strand_is_read(write: Write) -> None:
    other = CONTIG[::-1].translate(str.maketrans("ACGT", "TGCA"))
    place = len(CONTIG) - 1 - PLACE  # of the motif's first base, which is the last here
    genes = "c\tx\tgene\t1\t80\t.\t-\t.\tID=g1;Name=abc\nc\tx\texon\t1\t80\t.\t+\t.\tID=e1\n"
    files = {"a.bed": "c\t0\t80\tabc\t0\t-\n", "a.gff3": f"##gff-version 3\n{genes}"}
    files["ensembl.gff3"] = files["a.gff3"].replace("\tgene\t", "\tncRNA_gene\t")  # of a gene without a protein
    for name, text in files.items():
        table = asked({"c": other}, Strands(write(name, text))).answer([variant(place, other[place], "T")])
        assert table[["strand", "feature", "delta_motif"]].to_numpy().tolist() == [["-", "abc", -1]]
    assert asked({"c": other}).answer([variant(place, other[place], "T")])["strand"].tolist() == ["+"]
    both = Strands(write("b.bed", "c\t0\t80\ta\t0\t-\nc\t0\t80\tb\t0\t+\n"))
    model = asked({"c": other}, both)
    assert model.answer([variant(place, other[place], "T")])["feature"].tolist() == ["a"]
    assert model.both().startswith("1 variants lie in features of both strands")
    plain = "c\t0\t80\nc\t0\t80\tabc\t0\t.\n"
    with pytest.raises(ValueError, match=r"f.bed: holds no interval with a strand; give BED"):
        Strands(write("f.bed", plain))
    with pytest.raises(ValueError, match=r"g.gff line 1: end 1 stands before start 80"):
        Strands(write("g.gff", "c\tx\tgene\t80\t1\t.\t+\t.\tID=g1\n"))
    with pytest.raises(ValueError, match=r"e.gff: holds no interval with a strand; give BED"):
        Strands(write("e.gff", "c\tx\texon\t1\t80\t.\t+\t.\tID=e1\n"))


def test_what_does_not_fit_a_window_is_passed_over() -> None:
    model = asked({"c": "N" * 40 + CONTIG, "d": CONTIG}, width=8)
    model.max_n = 0.5
    long = Variant("d", 1, ".", CONTIG[:9], "C", 0)
    assert model.answer([Variant("c", 5, ".", "N", "A", 0), long]).empty
    assert set(model.passed.counts) == {"in windows with more than 50% N", "longer than the window"}


HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def test_answers_stand_on_the_lines_of_their_own_alleles(write: Write) -> None:
    """Alleles of one place on lines of their own (`bcftools norm -m-`), the first of which is longer than a window; the
    columns end with ALT.
    """
    genome = write("ref.fa", f">c\n{CONTIG}\n")
    ref = CONTIG[PLACE]
    lines = f"c\t{PLACE + 1}\tlong\t{ref}\t{ref + 'A' * 99}\nc\t{PLACE + 1}\tsnv\t{ref}\tT\n"
    path = write("v.vcf", f"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\n{lines}")
    found = [*read_vcf(path, contigs_of(genome), genome, Passed())]
    table = asked({"c": CONTIG}).answer([variant for line in found for variant in line.variants])
    assert table["id"].tolist() == ["snv"]
    file = io.StringIO()
    annotate(file, found, table, ["motif"])
    names, long, snv = [line.split("\t") for line in file.getvalue().splitlines() if not line.startswith("##")]
    assert names[-3:] == ["QUAL", "FILTER", "INFO"] and len(names) == len(long) == len(snv)
    assert long[7] == "REF_motif=.;ALT_motif=.;DELTA_motif=."
    assert snv[7] == "REF_motif=1.0000;ALT_motif=0.0000;DELTA_motif=-1.0000"


def test_files_are_read_line_by_line_packed_or_not(write: Write, tmp_path: Path) -> None:
    genome = write("ref.fa", f">c any\n{CONTIG.lower()}\n")
    lines = f"c\t{PLACE + 1}\trs1\tg\tA,gt,<DEL>,*,G\t.\t.\tDP=3\nc\t1\t.\tA\t.\n"
    (tmp_path / "v.vcf.gz").write_bytes(gzip.compress((HEADER + lines).encode()))
    for path in (write("v.vcf", HEADER + lines), tmp_path / "v.vcf.gz", write("v.txt", HEADER + lines)):
        passed = Passed()
        found = [*read_vcf(path, contigs_of(genome), genome, passed)]
        assert [len(line.variants) for line in found] == [0, 0, 2, 0] and found[2].alleles == 5
        assert [(v.ref, v.alt, v.allele) for v in found[2].variants] == [("G", "A", 0), ("G", "GT", 1)]
        assert passed.counts == {"that are no letters": 3, "that are the reference": 1}


def test_lines_of_symbols_need_no_reference_and_ambiguous_bases_are_written_as_the_first_of_theirs(
    write: Write,
) -> None:
    """So the specification says of R, which is A or G; what cannot be read is not held against the genome."""
    genome = write("ref.fa", ">c\nARYNKu\n")
    lines = "c\t1\t.\tN\t<DEL>\nnone\t0\t.\tN\t<DUP>\nc\t2\t.\tA\tG\nc\t3\t.\tC\tT\nc\t5\t.\tG\tT\nc\t6\t.\tT\tA\n"
    found = [*read_vcf(write("v.vcf", HEADER + lines), contigs_of(genome), genome, Passed())]
    assert [variant.ref for line in found for variant in line.variants] == ["A", "C", "G", "T"]
    for line in ("c\t2\t.\tG\tA\n", "c\t4\t.\tA\tG\n"):
        with pytest.raises(ValueError, match="v.vcf line 3: REF is '[GA]', but .*ref.fa has '[RN]' at c:[24]"):
            [*read_vcf(write("v.vcf", HEADER + line), contigs_of(genome), genome, Passed())]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c\t41\t.\tA\tT", "v.vcf line 3: REF is 'A', but .*ref.fa has 'G' at c:41; take the genome"),
        ("c\t81\t.\tA\tT", "v.vcf line 3: c:81 lies outside the contig of 80 bases"),
        ("c\t0\t.\tA\tT", "v.vcf line 3: c:0 lies outside the contig"),
        ("chr1\t1\t.\tA\tT", "v.vcf line 3: contig 'chr1' is not in .*ref.fa"),
        ("c\t1\t.\t-\tT", "v.vcf line 3: REF '-' is no DNA"),
        ("c 1 . A T", "v.vcf line 3: no tab-separated CHROM, POS, ID, REF, ALT; part its columns by tabs"),
        ("c\t1e1\t.\tA\tT", "v.vcf line 3: POS '1e1' is no whole number"),
    ],
)
def test_a_line_that_does_not_fit_the_genome_is_refused(write: Write, line: str, message: str) -> None:
    genome = write("ref.fa", f">c\n{CONTIG}\n")
    with pytest.raises(ValueError, match=message):
        [*read_vcf(write("v.vcf", f"{HEADER}{line}\n"), contigs_of(genome), genome, Passed())]


def test_what_is_no_vcf_file_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match=r"v.fa: looks like a fasta file, where variants are wanted; give a VCF file"):
        [*read_vcf(write("v.fa", ">a\nACGT\n"), {}, Path("ref.fa"), Passed())]
