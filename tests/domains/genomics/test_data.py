"""The DataModule: parts, batches, repairs, refusals, and the report."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from app.data import ShardedBatches
from data_prep.files import DownloadError, data_root
from domains.genomics import GenomicsData
from domains.genomics import data as data_module
from domains.genomics.data import LengthBatches, Part
from domains.genomics.readers import Layout
from domains.genomics.report import K, complaints
from domains.genomics.sample import ORDERS, PLANTED, planted_orders, planted_pairs, sample_records

Write = Callable[[str, str], Path]


def table(rows: int = 60, seed: int = 0, classes: str | list[str] = "ba") -> pd.DataFrame:
    random = np.random.default_rng(seed)
    texts = ["".join(random.choice(list("ACGT"), random.integers(30, 60))) for _ in range(rows)]
    return pd.DataFrame({"sequence": texts, "label": [classes[i % len(classes)] for i in range(rows)]})


def made(path: Path, **options: object) -> GenomicsData:
    data = GenomicsData(train=str(path), floors=False, **options)
    data.setup("fit")
    return data


def test_classes_are_sorted_and_validation_is_carved(tmp_path: Path) -> None:
    table(100).to_csv(tmp_path / "x.csv", index=False)
    data = made(tmp_path / "x.csv")
    assert data.classes == ["a", "b"] and (data.input_size, data.output_size) == (5, 2)
    assert len(data.parts["train"]) + len(data.parts["val"]) == 100
    assert len(data.parts["val"]) == pytest.approx(10, abs=2)
    assert data.parts["test"].sequences is data.parts["val"].sequences
    assert data.report["train"]["classes"]["a"] + data.report["val"]["classes"]["a"] == 50


def test_a_split_column_names_the_parts(tmp_path: Path) -> None:
    table(90).assign(split=["train", "dev", "test"] * 30).to_csv(tmp_path / "x.csv", index=False)
    data = made(tmp_path / "x.csv")
    assert [len(data.parts[part]) for part in ("train", "val", "test")] == [30, 30, 30]


def test_rows_of_another_part_are_never_trained_on(tmp_path: Path) -> None:
    table(90).assign(split=["train", "dev", "test"] * 30).to_csv(tmp_path / "x.csv", index=False)
    table(20, 1).to_csv(tmp_path / "y.csv", index=False)
    with pytest.raises(ValueError, match="x.csv: is data.train, but its split column names rows of test; give one"):
        made(tmp_path / "x.csv", test=str(tmp_path / "y.csv"))
    with pytest.raises(ValueError, match="y.csv: has no split, which others have; give all files one or none"):
        GenomicsData(train=[str(tmp_path / "x.csv"), str(tmp_path / "y.csv")], floors=False).setup()


def test_overlapping_rows_do_not_straddle_the_split(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pieces = ["".join(random.choice(list("ACGT"), 200)) for _ in range(60)]
    rows = [(piece[start : start + 120], "ab"[i % 2]) for i, piece in enumerate(pieces) for start in (0, 40, 80)]
    pd.DataFrame(rows, columns=["sequence", "label"]).to_csv(tmp_path / "x.csv", index=False)
    data = made(tmp_path / "x.csv")
    assert data.report[f"test_rows_sharing_{K}mers_with_train"]["any"] == 0  # test is validation here
    by_row = made(tmp_path / "x.csv", group="none")
    assert by_row.report[f"test_rows_sharing_{K}mers_with_train"]["half"] > 0.5
    assert any("have half of their" in line for line in complaints(by_row.report))


def test_a_group_column_is_kept_together(tmp_path: Path) -> None:
    table(100).assign(group=[f"g{i // 10}" for i in range(100)]).to_csv(tmp_path / "x.csv", index=False)
    data = made(tmp_path / "x.csv", val_share=0.2)
    assert len(data.parts["val"]) % 10 == 0 and len(data.parts["val"]) > 0


def test_a_row_without_a_group_stands_alone(tmp_path: Path) -> None:
    """Were they one group, validation would hold all of them or none."""
    table(100).assign(group=["g", "g", *[""] * 98]).to_csv(tmp_path / "x.csv", index=False)
    assert 5 < len(made(tmp_path / "x.csv").parts["val"]) < 15


def test_batches_hold_similar_lengths_and_every_row_once() -> None:
    records = sample_records(rows=1000, shortest=20, longest=300)
    part = Part(records.sequences, torch.zeros(1000, dtype=torch.long))
    batches = LengthBatches(part, 10, training=True)
    seen, padding = [], 0.0
    for index in batches:
        batch = part[index]
        width = batch.bases.shape[1]
        padding += 1 - part.lengths[index].sum().item() / (10 * width)
        seen += index.tolist()
    assert sorted(seen) == list(range(1000)) and padding / len(batches) < 0.05
    assert [i.tolist() for i in batches] == [i.tolist() for i in LengthBatches(part, 10, training=True)]
    evaluated = torch.cat([*LengthBatches(part, 10, training=False)])
    assert sorted(evaluated.tolist()) == list(range(1000))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("world", [2, 3])
def test_devices_share_batches_and_lengths(world: int, training: bool) -> None:
    """All devices together see every row once, in training batch by batch, and each has one of the longest."""
    part = Part(sample_records(rows=100).sequences, torch.zeros(100, dtype=torch.long))
    dealt = [[*LengthBatches(part, 20, training, replicas=world, rank=rank)] for rank in range(world)]
    steps = list(zip(*dealt, strict=True)) if training else [[torch.cat(shares) for shares in dealt]]
    whole = [*LengthBatches(part, 20, training, replicas=1, rank=0)] if training else [torch.arange(100)]
    assert len({len(shares) for shares in dealt}) == 1
    for shares, batch in zip(steps, whole, strict=True):
        assert torch.cat(shares).sort().values.tolist() == batch.sort().values.tolist()
        longest = part.lengths[batch].sort().values[-world:]
        assert sorted(int(part.lengths[share].max()) for share in shares) == longest.tolist()


def test_a_resumed_epoch_goes_on_where_it_stopped() -> None:
    part = Part(sample_records(rows=100).sequences, torch.zeros(100, dtype=torch.long))
    batches: ShardedBatches = LengthBatches(part, 10, training=True)
    whole = [index.tolist() for index in batches]
    batches.start = 4
    assert [index.tolist() for index in batches] == whole[4:] and len([*batches]) == 10


def test_lower_case_u_and_iupac_are_one_warning(tmp_path: Path) -> None:
    rows = table(40)
    rows.loc[0, "sequence"] = "acguACGURYACGTACGTACGTACGT"
    rows.to_csv(tmp_path / "x.csv", index=False)
    with pytest.warns(UserWarning, match="4 lower-case letters read as upper-case, 2 U read as T, 2 ambiguous") as seen:
        made(tmp_path / "x.csv")
    assert len([w for w in seen if "ambiguous" in str(w.message)]) == 1


def test_rows_of_n_are_dropped_and_long_ones_cut(tmp_path: Path) -> None:
    rows = table(60)
    rows.loc[:3, "sequence"] = "N" * 40
    rows.to_csv(tmp_path / "x.csv", index=False)
    with pytest.warns(UserWarning, match="dropped 4 sequences with more N than data.max_n"):
        data = made(tmp_path / "x.csv", max_n=0.5, max_length=35)
    assert len(data.parts["train"]) + len(data.parts["val"]) == 56
    assert data.parts["train"].lengths.max() == 35 and 0 < data.report["truncated"]["train"] <= 56


@pytest.mark.parametrize("length", [1, 7])
def test_sequences_of_a_few_bases_are_data(tmp_path: Path, length: int) -> None:
    rows = table(60)
    rows["sequence"] = [text[: 1 + i % length] for i, text in enumerate(rows["sequence"])]
    rows.to_csv(tmp_path / "x.csv", index=False)
    data = GenomicsData(train=str(tmp_path / "x.csv"), group="none")
    data.setup()
    assert data.parts["train"].lengths.min() == 1 and "floors" in data.report


@pytest.mark.parametrize(
    ("labels", "test_labels", "message"),
    [
        ("aaaaaaaaaa", "a", "all sequences are of class 'a'; a classifier needs at least two"),
        ("a", "a", "all sequences are of class .*label_from to header or table"),
        ("aaaaaaaaab", "a", "class 'b' has one sequence in train; add some or drop the class"),
        ("aabbaabbaa", "c", "class 'c' of test is missing in train .*; add it to train or drop it from test"),
    ],
)
def test_classes_that_cannot_be_learnt_are_refused(tmp_path: Path, labels: str, test_labels: str, message: str) -> None:
    table(10, classes=labels).to_csv(tmp_path / "train.csv", index=False)
    table(1, 5, classes=test_labels).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(ValueError, match=message) as caught:
        made(tmp_path / "train.csv", test=str(tmp_path / "test.csv"))
    assert ".csv" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either data.set or data.train"),
        ({"set": "gue/tf_9"}, "data.set 'gue/tf_9' is unknown; choose"),
        ({"set": "gue/tf_0", "test": "x.csv"}, "data.val and data.test go with data.train"),
        ({"source": "sample", "batch_size": 0}, "must be at least 1"),
        ({"source": "sample", "train": "x.csv"}, "data.source is sample, which reads no files"),
    ],
)
def test_wrong_settings_are_one_line(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenomicsData(**options)


def test_a_set_that_is_not_there_is_named_or_replaced_loudly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TITANS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="run `python -m data_prep genomics --set gue/tf_0`"):
        GenomicsData(set="gue/tf_0", source="file").setup()
    data = GenomicsData(set="gue/tf_0", floors=False)

    def fails(name: str, retries: int) -> None:
        raise DownloadError("https://x: no network")

    monkeypatch.setattr(data_module, "fetch", fails)
    with pytest.warns(UserWarning, match=r"https://x: no network\).\nGENERATED DATA TAKE ITS PLACE"):
        data.setup()
    assert data.provenance()["data"] == "sample" and data.published() == {}


def test_a_set_that_is_not_there_is_downloaded_before_its_classes_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TITANS_DATA", str(tmp_path))

    def served(name: str, retries: int) -> None:
        folder = tmp_path / "genomics" / name
        folder.mkdir(parents=True)
        for part in ("train", "dev", "test"):
            table(20, classes="xyz").to_csv(folder / f"{part}.csv", index=False)

    monkeypatch.setattr(data_module, "fetch", served)
    assert GenomicsData(set="gue/tf_0").output_size == 3


def test_length_alone_is_reported_and_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    random = np.random.default_rng(0)
    rows = [("".join(random.choice(list("ACGT"), 30 + 10 * (i % 2))), "ab"[i % 2]) for i in range(300)]
    pd.DataFrame(rows, columns=["sequence", "label"]).to_csv(tmp_path / "x.csv", index=False)
    data = GenomicsData(train=str(tmp_path / "x.csv"))
    data.setup("fit")
    floors = data.provenance()["report"]["floors"]
    assert data.report["floors_on"] == "val"  # there is no test part
    assert floors["length only"]["accuracy"] == 1 and floors["majority"]["accuracy"] < 0.7
    assert "the LENGTH of a sequence alone reaches accuracy 1.000" in " ".join(capsys.readouterr().out.split())


def test_the_sample_is_learnt_by_kmers_and_not_by_length() -> None:
    data = GenomicsData(source="sample")
    data.setup()
    floors = data.report["floors"]
    assert floors["k-mer LR"]["accuracy"] > 0.9 and floors["length only"]["accuracy"] < 0.5
    assert complaints(data.report) == [] and data.provenance()["data"] == "sample"


def test_a_planted_pair_is_told_by_both_motifs_only() -> None:
    genome = torch.randint(4, (20000,), dtype=torch.uint8)
    sequences, labels = planted_pairs(genome, 50, 1000, seed=3)
    assert sequences.lengths.tolist() == [1128] * 50 and 0.2 < labels.float().mean() < 0.8
    text = ["".join("ACGTN"[c] for c in sequences[i].tolist()) for i in range(50)]
    for row, label in zip(text, labels.tolist(), strict=True):
        kinds = [row.count("GGATCCTAGCGCTA"), row.count("TTGCAACGGTCAAT")]
        assert kinds == [1, 1] if label == 0 else sorted(kinds) == [0, 2]
    again, _ = planted_pairs(genome, 50, 1000, seed=3)
    assert torch.equal(again.codes, sequences.codes)


def test_planted_motifs_are_told_by_their_order_only() -> None:
    genome = torch.randint(4, (20000,), dtype=torch.uint8)
    sequences, labels = planted_orders(genome, 60, 500, seed=3)
    assert sequences.lengths.tolist() == [1128] * 60
    for row, label in enumerate(labels.tolist()):
        text = "".join("ACGTN"[c] for c in sequences[row].tolist())
        places = [text.index(motif.decode()) for motif in PLANTED]
        order = "".join(name for _, name in sorted(zip(places, "abc", strict=True)))
        first, middle, last = sorted(places)
        assert middle - first == last - middle == 500
        assert ORDERS[label] == order
    assert {*labels.tolist()} == {*range(len(ORDERS))}
    again, _ = planted_orders(genome, 60, 500, seed=3)
    assert torch.equal(again.codes, sequences.codes)


def fasta(path: Path, rows: int, seed: int) -> Path:
    texts = table(rows, seed)["sequence"]
    path.write_text("".join(f">seq{i}\n{text}\n" for i, text in enumerate(texts)))
    return path


def test_train_and_test_may_have_a_file_per_class(tmp_path: Path) -> None:
    names = [("pos", "train_1", 20), ("neg", "train_2", 20), ("neg", "test_1", 5), ("pos", "test_2", 7)]
    given = [f"{name}={fasta(tmp_path / f'{file}.fa', rows, i)}" for i, (name, file, rows) in enumerate(names)]
    data = GenomicsData(train=given[:2], test=given[2:], floors=False)
    data.setup()
    assert data.classes == ["neg", "pos"] and data.report["test"]["classes"] == {"neg": 5, "pos": 7}
    assert data.asked.ids[0] == "test_1.fa:seq0" and data.name == "train_1.fa"


def test_classes_that_differ_by_case_are_warned_of(tmp_path: Path) -> None:
    table(60).assign(label=["TF1", "tf1", "none"] * 20).to_csv(tmp_path / "x.csv", index=False)
    with pytest.warns(UserWarning, match="x.csv: classes 'TF1', 'tf1' differ only in blanks, case"):
        assert len(made(tmp_path / "x.csv").classes) == 3


def test_a_class_that_a_table_writes_for_nothing_is_warned_of(tmp_path: Path) -> None:
    table(60, classes=["0", "1", "NA"]).to_csv(tmp_path / "x.csv", index=False)
    with pytest.warns(UserWarning, match="x.csv: 20 rows are of a class 'NA'; drop them if it means unknown"):
        assert made(tmp_path / "x.csv").classes == ["0", "1", "NA"]


def test_a_class_whose_sequences_are_all_dropped_is_refused(tmp_path: Path) -> None:
    rows = table(60)
    rows.loc[rows["label"] == "a", "sequence"] = "NNNNNA"
    rows.to_csv(tmp_path / "x.csv", index=False)
    with (
        pytest.warns(UserWarning, match="dropped 30 sequences"),
        pytest.raises(ValueError, match="x.csv: class 'a' has no sequence with so few N as data.max_n asks for in tr"),
    ):
        made(tmp_path / "x.csv", max_n=0.5)


def test_sequences_of_two_classes_are_told(tmp_path: Path) -> None:
    rows = pd.concat([table(60), table(6).assign(label=list("bababb"))])  # the last is the one that says something new
    rows.to_csv(tmp_path / "x.csv", index=False)
    report = made(tmp_path / "x.csv", val=str(tmp_path / "x.csv")).report
    assert report["train"]["duplicates"] == 6 and report["train"]["contradicted"] == 1
    assert complaints(report)[0].startswith("1 of train, 1 of val, 1 of test repeat the sequence of another row")


def test_n_are_counted_in_what_is_read(tmp_path: Path) -> None:
    rows = table(40)
    rows["sequence"] = [text[:20] + "N" * 60 if i < 30 else "N" * 15 + text for i, text in enumerate(rows["sequence"])]
    rows.to_csv(tmp_path / "x.csv", index=False)
    with pytest.warns(UserWarning, match="dropped 10 sequences with more N"):
        data = made(tmp_path / "x.csv", max_length=20, max_n=0.5)
    batch = data.asked[torch.arange(2)]
    assert batch.bases.shape[1] == 20 and batch.whole.tolist() == [80, 80] and len(batch.ids) == 2


REAL = data_root() / "genomics"


@pytest.mark.skipif(not (REAL / "gue" / "mouse_3").is_dir(), reason="needs the GUE task mouse_3 in TITANS_DATA")
def test_a_real_task_has_its_rows_and_its_known_floor() -> None:
    data = GenomicsData(set="gue/mouse_3", source="file")
    data.setup()
    assert [len(data.parts[part]) for part in ("train", "val", "test")] == [1904, 239, 239]
    assert data.report["floors"]["k-mer LR"]["mcc"] == pytest.approx(0.666, abs=0.05)
    assert data.published()["DNABERT-2 117M, pretrained"]["mcc"] == 0.665


@pytest.mark.skipif(not (REAL / "genomic_benchmarks").is_dir(), reason="needs GenomicBenchmarks tests in TITANS_DATA")
def test_overlapping_real_windows_are_grouped() -> None:
    file = REAL / "genomic_benchmarks" / "human_nontata_promoters.test.csv.gz"
    data = GenomicsData(train=str(file), layout=Layout(group_col="none"), floors=False)
    data.setup()
    assert data.report[f"test_rows_sharing_{K}mers_with_train"]["half"] < 0.01  # by row: more than a third
