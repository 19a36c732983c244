"""The classifier in Python answers as the command line does."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

from app.door import main as app
from domains.genomics import Classifier


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Sequences of two classes, told apart by what they are made of."""
    random = np.random.default_rng(0)
    rows = [
        ("".join(random.choice(list("AATTATCG" if i % 2 else "GGCCGCAT"), 60)), "at" if i % 2 else "gc")
        for i in range(80)
    ]
    return pd.DataFrame(rows, columns=["sequence", "label"])


@pytest.fixture(scope="module")
def trained(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    small = {"model.backbone.dim": 8, "model.backbone.layers": 1, "model.head.conv_layers": 0, "data.floors": False}
    trainer = {"trainer.max_epochs": 2, "trainer.enable_progress_bar": False, "trainer.log_every_n_steps": 1}
    options = small | trainer | {"trainer.accelerator": "cpu", "data.batch_size": 16, "model.optim.lr": 0.02}
    return Classifier(options, folder=tmp_path_factory.mktemp("runs")).fit(table)


def test_a_saved_model_answers_as_the_command_line_does(
    trained: Classifier, table: pd.DataFrame, tmp_path: Path
) -> None:
    found = trained.predict(table["sequence"])
    assert list(found) == ["id", "length", "n_fraction", "truncated", "class", "p_at", "p_gc"]
    assert (found["class"] == table["label"]).mean() > 0.9
    trained.save(tmp_path / "model.ckpt")
    again = Classifier.load(tmp_path / "model.ckpt").predict(table)
    pd.testing.assert_frame_equal(found, again)
    (tmp_path / "x.fa").write_text("".join(f">row{i}\n{text}\n" for i, text in enumerate(table["sequence"])))
    words = ["--ckpt", str(tmp_path / "model.ckpt"), "--input", str(tmp_path / "x.fa"), "--device", "cpu"]
    app(["predict", *words, "--output", str(tmp_path / "o.csv")])
    told = pd.read_csv(tmp_path / "o.csv")
    assert told["id"].tolist() == found["id"].tolist()
    np.testing.assert_allclose(told["p_gc"], found["p_gc"], atol=1e-5)


def test_bad_sequences_are_passed_over_and_records_keep_their_ids(trained: Classifier) -> None:
    records = [SeqRecord(Seq("ACGTACGT"), id="good"), SeqRecord(Seq("EFIL"), id="bad")]
    with pytest.warns(UserWarning, match="passed over 1 sequences: 1 with letters that are no nucleotides"):
        found = trained.embed(records)
    assert found["id"].tolist() == ["good"] and list(found)[4:] == [f"e{i}" for i in range(16)]
    with pytest.raises(ValueError, match="no sequence could be read; passed over 1 sequences"):
        trained.predict(["EFIL"])
    with pytest.raises(ValueError, match="^sequences: holds no sequence"):
        trained.predict([])
    with pytest.raises(ValueError, match="^sequences: no column 'sequence' among 'x'"):
        trained.predict(pd.DataFrame({"x": ["ACGT"]}))
    with pytest.raises(ValueError, match="files are read one at a time; give one path"):
        trained.predict([Path("a.fa")])
    with pytest.raises(ValueError, match=r"looks like a sequence; give a list"):
        trained.predict("ACGT" * 1000)


@pytest.mark.filterwarnings("ignore:passed over")
def test_sequences_come_in_many_kinds(trained: Classifier) -> None:
    right = trained.predict(["ACGTACGT", "GGC"])
    bare = right.drop(columns="id")
    for given, ids in (
        ([b"ACGTACGT", Seq("GGC")], ["row0", "row1"]),
        ((text for text in ("ACGTACGT", "GGC")), ["row0", "row1"]),
        (["ACGTACGT", None, float("nan"), pd.NA, "GGC"], ["row0", "row4"]),
        ({"x": "ACGTACGT", 5: SeqRecord(Seq("GGC"), id="y")}, ["x", "5"]),
        (pd.DataFrame({"sequence": ["ACGTACGT", Seq("GGC")], "id": [1, "b"], 0: [1, "b"]}), ["1", "b"]),
    ):
        found = trained.predict(given)
        assert found["id"].tolist() == ids
        pd.testing.assert_frame_equal(found.drop(columns="id"), bare, atol=1e-5)


def test_labels_come_in_many_kinds(table: pd.DataFrame, tmp_path: Path) -> None:
    model = Classifier(folder=tmp_path)
    mixed = [0, "one", 1.5, True, Seq("A"), b"b", None, float("nan")] * 10
    path = model._kept("train", table.assign(label=mixed, other=[[1, 2]] * 80))
    found = pd.read_parquet(path)
    assert found["label"].dropna().tolist() == ["0", "one", "1.5", "True", "A", "b"] * 10
    assert found["other"][0].tolist() == [1, 2] and found["sequence"].tolist() == table["sequence"].tolist()
    assert model._kept("train", table) != path and pd.read_parquet(path).equals(found)  # each run finds its own table
    assert model._kept("train", [Path("a.fa"), "b.fa"]) == ["a.fa", "b.fa"]
    with pytest.raises(ValueError, match="two columns of the table are called 'label'; rename or drop one"):
        model._kept("train", pd.concat([table, table["label"]], axis=1))


def test_what_is_wrong_is_an_error_and_no_end_of_the_process(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an option is not what it should be, see above"):
        Classifier({"model.backbone.width": 3}, folder=tmp_path).fit(table)
    for given in (["ACGT", "GGGG"], table["sequence"], table.to_numpy(), [table], table.to_dict("list"), [], None):
        with pytest.raises(ValueError, match="are given with their labels, as a table of columns sequence and label"):
            Classifier(folder=tmp_path).fit(given)
    with pytest.raises(ValueError, match="was not trained yet"):
        Classifier().predict(["ACGT"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict", "--device", "gpu", "--output", "o.csv"], "--device 'gpu' is none of this machine; choose cpu"),
        (["predict", "--device", "cuda:99", "--output", "o.csv"], "--device 'cuda:99' is none of this machine; choose"),
        (
            ["explain", "--device", "cpu", "--output", "taken"],
            "no folder can be made there (File exists); name another",
        ),
        (["scan", "--device", "cpu", "--width", "9", "--output", "taken"], "no folder can be made there (File exists)"),
        (["scan", "--device", "cpu", "--width", "9", "--output", "tracks"], "no contig could be read; it holds none"),
    ],
)
def test_what_a_command_cannot_do_is_one_line(
    trained: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], says: str
) -> None:
    for name in ("x.fa", "taken"):
        (tmp_path / name).write_text("")
    files = ["--input", str(tmp_path / "x.fa"), "--ckpt", str(trained.checkpoint)]
    with pytest.raises(SystemExit):
        app([*words[:-1], str(tmp_path / words[-1]), *files])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and says in error
