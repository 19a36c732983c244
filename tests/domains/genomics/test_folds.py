"""Cross-validation: every row is tested on once, and runs that are finished are not done again."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.door import main as app
from domains.genomics import GenomicsData
from domains.genomics import folds as module
from domains.genomics.folds import summary

Write = Callable[[str, str], Path]


@pytest.fixture
def table(write: Write) -> Path:
    """Sixty sequences in groups of three, which overlap."""
    random = np.random.default_rng(0)
    lines = []
    for group in range(20):
        text = "".join(random.choice(list("ACGT"), 80))
        lines += [f"s{group}_{i},{text[5 * i : 5 * i + 60]},{'ab'[group % 2]}" for i in range(3)]
    return write("my.csv", "id,sequence,label\n" + "\n".join(lines) + "\n")


def test_every_row_is_tested_once_and_groups_stay_together(table: Path) -> None:
    tested = []
    for fold in range(4):
        data = GenomicsData(train=str(table), floors=False, folds=4, fold=fold)
        data.setup()
        ids = data.asked.ids.tolist()
        assert set(Counter(name.split("_")[0] for name in ids).values()) == {3}
        assert data.parts["test"].labels.bincount().min() > 0 and len(data.parts["val"])
        assert sum(len(data.parts[part]) for part in ("train", "val", "test")) == 60
        tested += ids
    assert len(tested) == len(set(tested)) == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 30}, r"my.csv: 20 groups of overlapping sequences make no 30 folds; lower data.folds"),
        ({"folds": 1}, "data.folds must be 0, or 2 or more"),
        ({"folds": 3, "fold": 3}, "data.fold lie between 0 and data.folds - 1"),
        ({"folds": 3, "test": "x.csv"}, "data.folds part data.train, which must be given, and without data.test"),
    ],
)
def test_folds_that_cannot_be_are_refused(table: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenomicsData(train=str(table), floors=False, **options).setup()


def test_the_summary_is_mean_and_spread() -> None:
    found = summary({"a": {"mcc": 0.5, "auroc": 1.0}, "b": {"mcc": 0.7, "auroc": None}})
    assert list(found["metrics"]) == ["mcc"]
    assert found["metrics"]["mcc"] == {"mean": 0.6, "spread": pytest.approx(0.1414, abs=1e-4), "values": [0.5, 0.7]}


def test_one_command_trains_and_tests_all_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training itself is left out: what `fit` and `test` leave behind is written in their place."""
    asked: list[tuple[str, dict[str, str]]] = []

    def written(words: list[str]) -> int:
        options = dict(word.removeprefix("--").split("=") for word in words[1:])
        asked.append((words[0], options))
        run = Path(options["trainer.logger.save_dir"], options["trainer.logger.name"], "version_0")
        run.mkdir(parents=True, exist_ok=True)
        if words[0] == "test":
            if options["data.fold"] == "1" and options["seed_everything"] == "1" and not any(run.parents[1].glob("go")):
                return 2
            metrics = {"test/mcc": int(options["data.fold"]), "test/auroc": None}
            (run / "results.json").write_text(json.dumps({"metrics": metrics}))
        return 0

    monkeypatch.setattr(module, "command", written)
    output = tmp_path / "runs"
    words = ["folds", "--folds", "2", "--seeds", "2", "--output", str(output), "--data.train=my.csv"]
    with pytest.raises(SystemExit):
        app(words)
    assert "fold1_seed1: `test` above ended with 2" in capsys.readouterr().err
    assert json.loads((output / "folds.json").read_text())["metrics"]["mcc"]["values"] == [0, 0, 1]
    (output / "go").touch()
    app(words)
    assert [verb for verb, _ in asked] == ["fit", "test"] * 5  # of the four, the last twice
    assert {(o["data.folds"], o["data.fold"], o["seed_everything"]) for _, o in asked} == {
        ("2", fold, seed) for fold in "01" for seed in "01"
    }
    kept = json.loads((output / "folds.json").read_text())["metrics"]["mcc"]
    assert kept["values"] == [0, 0, 1, 1] and kept["mean"] == 0.5
    app([*words, "--data.batch_size=8"])
    assert len(asked) == 18  # another recipe is trained anew
    with pytest.raises(SystemExit):
        app([*words, "--ckpt", "best"])
    assert "folds trains models of its own; leave --ckpt out" in capsys.readouterr().err
