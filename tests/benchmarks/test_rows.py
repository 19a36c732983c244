"""Rows of measured numbers."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.pages import SOURCES, main, page, sources
from benchmarks.shared.rows import Row, holds, read, write

ROOT = Path(__file__).parents[2]


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


def test_json_holds_the_keys_of_a_row_and_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write("study", "etth1", [row()])
    keys = ["metric", "value", "spread", "unit", "must", "aim", "seeds", "device", "command", "commit", "date", "note"]
    assert list(json.loads(path.read_text())[0]) == keys and read(path) == [row()]
    assert path.resolve() == tmp_path / "results/study/etth1.json"


def test_a_page_tells_each_run_once_and_no_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write("study", "etth1", [row(), row(0.4), row(float("nan"))])
    (path.parent / "etth1_scores.png").touch()
    main()
    text = path.with_suffix(".md").read_text()
    assert "| ETTh1 96/96 test MSE | 0.385 ± 0.001 |  | 0, 1, 2 |  | 1 |\n" in text and "| — |" in text
    assert text.count("`python -m benchmarks.etth1`") == 1 and "![etth1_scores](etth1_scores.png)" in text
    assert "0.390" not in text and "must" not in text and "aim" not in text


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*/*.json")), ids=lambda path: path.stem)
def test_the_pages_in_the_repository_are_made_from_their_results(path: Path) -> None:
    assert path.with_suffix(".md").read_text() == page(path)


@pytest.mark.parametrize("path", sorted((ROOT / "docs/results").glob("*.md")), ids=lambda path: path.stem)
def test_a_page_by_hand_names_all_sources_of_its_rows(path: Path) -> None:
    assert path.read_text() == sources(path.read_text(), path.parent)


def test_sources_are_told_by_day_and_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    later = replace(row(), device="NVIDIA H200", commit="a" * 40, date="2026-12-02")
    sooner = replace(row(), device="cpu (x86_64, 1 threads)", commit="b" * 40 + "-dirty", date="2026-12-01")
    write("study", "etth1", [later, sooner, later])
    link = "[etth1](results/study/etth1.md)"
    text = sources(f"# Page\n\n{SOURCES}| {link} | stale |\n\nText\n", tmp_path)
    assert text.splitlines()[4:-2] == [
        f"| {link} | 2026-12-01 | CPU (x86_64, 1 threads) | bbbbbbb* |",
        f"| {link} | 2026-12-02 | H200 | aaaaaaa |",
    ]
    assert text.endswith("|\n\nText\n")


def test_the_summary_names_what_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="there are no results in results/"):
        runpy.run_module("benchmarks", run_name="__main__")
    write("study", "good", [row(0.380)])
    write("study", "fair", [row()])
    for bad, code in (([], False), ([row(0.5)], True)):
        write("study", "bad", bad)
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("benchmarks", run_name="__main__")
        assert bool(stop.value.code) is code
    out = capsys.readouterr().out
    assert "fair: ETTh1 96/96 test MSE is 0.385, misses aim <= 0.383" in out
    assert "bad: ETTh1 96/96 test MSE is 0.5, misses must <= 0.390, aim <= 0.383" in out and "good" not in out
