"""Rows of measured numbers."""

import json
import runpy
from pathlib import Path

import pytest

from benchmarks import rows
from benchmarks.rows import Row, holds, markdown, read, write


def row(value: float = 0.385, must: str = "<= 0.390", aim: str = "<= 0.383") -> Row:
    return Row("ETTh1 96/96 test MSE", value, 0.001, "", must, aim, [0, 1, 2], "cpu", "python -m benchmarks.etth1")


@pytest.mark.parametrize(
    ("value", "bound", "kept"),
    [(1.0, "<= 1", True), (1.1, "<= 1", False), (1.0, ">= 1", True), (0.9, ">= 1", False), (9.0, "", True)],
)
def test_bounds(value: float, bound: str, kept: bool) -> None:
    assert holds(value, bound) is kept


def test_nan_misses_and_nonsense_is_refused() -> None:
    assert row(float("nan")).misses() == ["must", "aim"]
    with pytest.raises(ValueError, match="bound '<0.39' is neither"):
        row(must="<0.39")


def test_json_holds_the_keys_of_a_row_and_reads_back(tmp_path: Path) -> None:
    write("etth1", [row()], tmp_path)
    keys = ["metric", "value", "spread", "unit", "must", "aim", "seeds", "device", "command", "commit", "date", "note"]
    assert list(json.loads((tmp_path / "etth1.json").read_text())[0]) == keys
    assert read(tmp_path / "etth1.json") == [row()]
    header, _, line = (tmp_path / "etth1.md").read_text().splitlines()
    assert header.startswith("| metric | value |") and "| ETTh1 96/96 test MSE | 0.385 | 0.001 |" in line
    assert "| 0, 1, 2 |" in markdown([row()])


def test_the_summary_names_what_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    write("good", [row(0.380)], tmp_path)
    write("fair", [row()], tmp_path)
    for bad, code in (([], False), ([row(0.5)], True)):
        write("bad", bad, tmp_path)
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("benchmarks", run_name="__main__")
        assert bool(stop.value.code) is code
    out = capsys.readouterr().out
    assert "fair: ETTh1 96/96 test MSE is 0.385, misses aim <= 0.383" in out
    assert "bad: ETTh1 96/96 test MSE is 0.5, misses must <= 0.390, aim <= 0.383" in out and "good" not in out
