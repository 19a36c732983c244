"""Every test of data preparation runs in an empty folder, whose `data` is the data folder."""

from pathlib import Path

import pytest

from tests.data_prep.corpus import alone_in_this_process


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TITANS_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    alone_in_this_process(monkeypatch)
    return tmp_path
