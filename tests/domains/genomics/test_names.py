"""Headers: which part is the id, which the class, and what a blank must not cut."""

import re
from collections import Counter

import pytest

from domains.genomics.names import alike, cut_short, header_label, id_of, numbered, word_of

SILVA = "AB1.1.1500 Bacteria;Firmicutes;Clostridium sensu stricto 2"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("a first second", "a"),
        ("gi|123|gb|AC1.1| Homo sapiens", "gi|123|gb|AC1.1|"),
        ("hCoV-19/South Africa/1/2020|EPI_ISL_1|2020-03-01", "hCoV-19/South Africa/1/2020|EPI_ISL_1|2020-03-01"),
        ("hCoV-19/England/1/2020|EPI_ISL_2|2020-03-01 x", "hCoV-19/England/1/2020|EPI_ISL_2|2020-03-01"),
        ("chr1:5-9 | enhancer", "chr1:5-9"),
        ("NC_045512.2 |Severe acute respiratory syndrome coronavirus 2|China", "NC_045512.2"),
        ("", ""),
    ],
)
def test_ids(header: str, name: str) -> None:
    assert id_of(header) == name


@pytest.mark.parametrize(
    ("header", "wanted", "label"),
    [
        ("a first second", "1", "first"),
        ("a first second", "1-", "first second"),
        ("a", "1", None),
        (SILVA, "1", "Bacteria;Firmicutes;Clostridium sensu stricto 2"),
        (SILVA, "1;3", "Clostridium sensu stricto 2"),
        (SILVA, "1;4", None),
        ("a|Clostridium sensu stricto 2| x y", "1", "Clostridium sensu stricto 2"),
        ("a b | Homo sapiens | x", "0", "a b"),
        ("a b | Homo sapiens | x", "1-", "Homo sapiens|x"),
        ("a||x", "1", None),
        ("a x organism=Homo length=9", "organism", "Homo"),
        ("a organism=Homo sapiens; length=9", "organism", "Homo sapiens"),
        ("a organism=Homo sapiens;", "organism", "Homo sapiens"),
        ("a tax=Bacteria;Firmicutes;Bacillus", "tax", "Bacteria;Firmicutes;Bacillus"),
        ("a;tax=Bacteria;size=3;", "tax", "Bacteria"),
        ("a [organism=Homo sapiens] [strain=K 12]", "strain", "K 12"),
        ("a|x|organism=Homo sapiens|9", "organism", "Homo sapiens"),
        ("a|organism=Homo sapiens;|9", "organism", "Homo sapiens"),
        ("a|organism=Homo sapiens; strain=K 12|9", "organism", "Homo sapiens"),
        ("a|organism=Homo sapiens; strain=K 12|9", "strain", "K 12"),
        ('a|organism="Homo sapiens"|9', "organism", "Homo sapiens"),
        ("a|tax=Bacteria; Firmicutes; Bacillus|9", "tax", "Bacteria; Firmicutes; Bacillus"),
        ('a organism="Homo sapiens" length=9', "organism", "Homo sapiens"),
        ("a;key=value;key2=b", "key", "value"),
        ("a key=value 1;key2=value 2", "key", "value 1"),
        ("a key=value;key2=value 2", "key2", "value 2"),
        ("a;size=3 some words", "size", "3"),
        ("a x", "organism", None),
        ("Bacteria;Firmicutes;Clostridium sensu stricto 2;", "0;3", "Clostridium sensu stricto 2"),
        ("Bacteria;Firmicutes;Clostridium sensu stricto 2;", "1", None),
        ("AB1; Bacteria; Clostridium sensu stricto 2", "1;2", "Clostridium sensu stricto 2"),
        ("a;size=3 x y", "1", "x"),
        ("a class='x y' n=1", "class", "x y"),
        ("a class=5'-UTR n=3'", "class", "5'-UTR"),
        ("a [protein=isocitrate dehydrogenase [NADP]] [gene=icd]", "protein", "isocitrate dehydrogenase [NADP]"),
        ("a [protein=isocitrate dehydrogenase [NADP]] [gene=icd]", "gene", "icd"),
        ("S1 Bacillus sp.; X\tLineage=Root;rootrank;Bacteria;domain;Firmicutes;phylum", "Lineage;5", "Firmicutes"),
        ("S1 Bacillus sp.; X\tLineage=Root;rootrank;Bacteria;domain;Firmicutes;phylum", "Lineage;9", None),
        ("a [tax=Bacteria; Clostridium butyricum]", "tax;2", "Clostridium butyricum"),
        (SILVA, "1;0", None),
        ("a", "1;1", None),
        ("a", "tax;1", None),
    ],
)
def test_classes(header: str, wanted: str, label: str | None) -> None:
    assert header_label(header, wanted) == label


@pytest.mark.parametrize(
    ("headers", "wanted", "said"),
    [
        (["{i} Clostridium butyricum", "{i} Clostridium tetani"], "1", "1 classes of 2 names.*1- takes all"),
        (["{i} x=Homo sapiens y=1", "{i} x=Homo erectus y=1"], "x", r"1 classes of 2 names.*write \[x=Homo"),
        (["{i} y=Homo;x=Homo sapiens z=1", "{i} y=Homo;x=Homo erectus z=1"], "x", "1 classes of 2 names"),
        (["{i} Homo Homo sapiens", "{i} Homo Homo erectus"], "2", "1 classes of 2 names"),
        (["{i} enhancer chr1:{i}", "{i} promoter chr1:{i}"], "1", None),
        (["{i} enhancer", "{i} promoter"], "1", None),
        (["{i} Bacteria;A{i}", "{i} Archaea;A{i}"] * 2, "1;1", None),
        (["{i} enhancer", "{i} promoter x"] * 2, "1-", None),
        (["{i} Bacteria;Homo sapiens", "{i} uncultured bacterium", "{i} uncultured archaeon"], "1", "1 classes of 2"),
        (["{i}|Clostridium butyricum", "{i}|Clostridium tetani"], "1", None),
    ],
)
def test_what_a_blank_cuts_is_warned_of(headers: list[str], wanted: str, said: str | None) -> None:
    found = cut_short([header.format(i=i) for i in range(10) for header in headers], wanted)
    assert found == "" if said is None else re.search(said, found)


def test_names_that_are_one_name_written_otherwise() -> None:
    assert alike(["TF 1", "tf1", "TF2", "x"]) == [["TF 1", "tf1"]]
    assert alike(["caf\u00e9", "cafe\u0301", "cafe"]) == [["cafe\u0301", "caf\u00e9"]]
    assert alike(["a\u200b", "\ufeffb", "a", "b"]) == [["a", "a\u200b"], ["b", "\ufeffb"]]
    assert alike(["0", "1", "01", "1.0", "1.5", "1a"]) == [["01", "1", "1.0"]]


def test_no_two_ids_are_alike() -> None:
    seen: Counter[str] = Counter()
    names = ["a", "a#2", "a", "b", "a", "a#2"]
    assert [numbered(name, seen) for name in names] == ["a", "a#2", "a#2#2", "b", "a#3", "a#2#3"]


def test_no_two_names_make_one_file() -> None:
    taken: set[str] = set()
    names = ["a/b", "a_b", "A b", "a_b_2", "x" * 300]
    assert [word_of(name, taken) for name in names] == ["a_b", "a_b_2", "A_b_3", "a_b_2_2", "x" * 200]
    assert word_of("a-b.c", set(), "._") == "a_b.c"
