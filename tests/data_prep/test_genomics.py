"""A public set becomes one table, and only when it holds what was published."""

import gzip
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from data_prep import genomics, gue
from data_prep.__main__ import main
from data_prep.files import LOCK
from data_prep.genomics import SETS, PublicSet, fetch, local_files

NAME = "dummy_mouse_enhancers_ensembl"


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zip as the package serves it, of 6 train and 2 test sequences."""
    monkeypatch.setitem(SETS, NAME, PublicSet((6, 2), (3, 8)))
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for split, rows in (("train", 6), ("test", 2)):
            for i in range(rows):
                archive.writestr(f"{NAME}/{split}/{'np'[i % 2]}egative/{i}.txt", "ACGTACGT"[: 3 + i] + "\n")
    return path


def test_a_zip_becomes_one_table(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["genomics", "--set", NAME, "--file", str(packed), "--root", str(tmp_path)]) == 0
    path = tmp_path / "genomics" / "genomic_benchmarks" / f"{NAME}.csv.gz"
    assert str(path) in capsys.readouterr().out and local_files(NAME, tmp_path) == {"train": [path]}
    table = pd.read_csv(path)
    assert list(table) == ["id", "sequence", "label", "split"] and len(table) == 8
    assert table[table["split"] == "train"]["label"].value_counts().to_dict() == {"negative": 3, "pegative": 3}
    assert table["sequence"].str.len().max() == 8 and table["id"].is_unique
    assert fetch(NAME, tmp_path) == [path]  # a second call downloads nothing


def test_missing_rows_and_other_lengths_are_refused(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for expected, message in ((PublicSet((7, 2), (3, 8)), "published are"), (PublicSet((6, 2), (3, 9)), "lengths run")):
        monkeypatch.setitem(SETS, NAME, expected)
        assert main(["genomics", "--set", NAME, "--file", str(packed), "--root", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
    assert not local_files(NAME, tmp_path)


def test_what_is_no_zip_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "set.zip").write_text("no zip")
    assert main(["genomics", "--set", NAME, "--file", str(tmp_path / "set.zip"), "--root", str(tmp_path)]) == 2
    assert "not the zip of a GenomicBenchmarks set" in capsys.readouterr().err
    assert main(["genomics", "--set", "nothing", "--root", str(tmp_path)]) == 2
    assert "unknown set 'nothing'; choose from human_enhancers_cohn" in capsys.readouterr().err


def test_a_gue_task_is_fetched_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def served(url: str, path: Path, sha256: None, retries: int) -> Path:
        asked.append(url)
        rows = {"train": 1904, "dev": 239, "test": 239}[Path(url).stem]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("sequence,label\n" + f"{'A' * 101},1\n" * rows)
        return path

    monkeypatch.setattr(genomics, "download", served)
    paths = fetch("gue/mouse_3", tmp_path)
    assert [path.name for path in paths] == ["train.csv", "dev.csv", "test.csv"]
    assert all(
        url.endswith(f"/GUE/mouse/3/{part}.csv") for url, part in zip(asked, ("train", "dev", "test"), strict=True)
    )
    assert [*local_files("gue/mouse_3", tmp_path)] == ["train", "val", "test"]
    with pytest.raises(ValueError, match="published are"):
        fetch("gue/tf_0", tmp_path)
    assert all(f"/{gue.REVISION}/" in url for url in asked)  # a fixed revision, not the newest one of a branch


@pytest.mark.parametrize("name", ["gue/mouse_3", "gue/tf_2"])
def test_what_is_served_must_be_what_is_known(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = dict(zip(("train", "dev", "test"), SETS[name].rows, strict=True))
    checksums = []

    def served(url: str, path: Path, sha256: str | None, retries: int) -> Path:
        checksums.append(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("sequence,label\n" + f"{'A' * 101},1\n" * rows[Path(url).stem])
        return path

    monkeypatch.setattr(genomics, "download", served)
    paths = fetch(name, tmp_path)
    assert checksums == list(gue.SHA256.get(name[4:], [None] * 3))
    recorded = (paths[0].parent / LOCK).is_file()
    assert recorded == (name[4:] not in gue.SHA256)
    if recorded:
        assert fetch(name, tmp_path) == paths
        paths[1].write_text("sequence,label\nA,1\n")
        with pytest.raises(ValueError, match="dev.csv: sha256 is .* recorded .* at the first download"):
            fetch(name, tmp_path)


def test_packed_tables_are_found_too(tmp_path: Path) -> None:
    folder = tmp_path / "genomics" / "gue" / "tf_0"
    folder.mkdir(parents=True)
    for part in ("train", "dev"):
        (folder / f"{part}.csv.gz").write_bytes(gzip.compress(b"sequence,label\n"))
    assert local_files("gue/tf_0", tmp_path) == {}  # the test part is missing
    (folder / "test.csv").write_text("sequence,label\n")
    assert len(local_files("gue/tf_0", tmp_path)) == 3
