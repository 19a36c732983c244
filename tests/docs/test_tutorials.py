"""Every block of the tutorials runs, in order and in a folder of its own, with trainings of two steps."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import domains
from app.door import main

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)(?: title=\"(.*?)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODEL = ["--model.backbone.dim=16", "--model.backbone.layers=1"]
SHORT = [f"--trainer.limit_{part}_batches={count}" for part, count in (("train", 2), ("val", 1), ("test", 1))]
ONE_EPOCH = ["--trainer.max_epochs=1", "--trainer.val_check_interval=2"]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
NOISE = re.compile(r"site-packages|\.py:\d|FLOPs|Tip:|Traceback")


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable[[str], str]:
    """Runs the blocks of a tutorial, and returns all that they print."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("app.trace.POINTS", 4)
    monkeypatch.setenv("TITANS_DATA", str(tmp_path / "data"))
    for path in (ROOT / "conf").rglob("*.yaml"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())

    def run(name: str) -> str:
        names: dict = {}
        for language, title, text in BLOCK.findall((ROOT / "docs" / "tutorials" / f"{name}.md").read_text()):
            if title:
                Path(title).parent.mkdir(parents=True, exist_ok=True)
                Path(title).write_text(text)
            elif language == "python":
                exec(compile(text, f"{name}.md", "exec"), names)
            for line in [] if language else text.splitlines():
                verb, *words = shlex.split(line, comments=True)[3:]
                main([verb, *words, *_smaller(verb, words)])
        printed = "".join(capfd.readouterr())
        assert not NOISE.search(printed), printed
        return printed

    return run


def _smaller(verb: str, words: list[str]) -> list[str]:
    """What makes a command short."""
    if verb == "explain":
        return ["--region=1-4"]
    if "--config" not in words and verb not in ("test", "backtest"):
        return []  # a domain's own verb, which takes no keys
    return [*(MODEL if "--config" in words else ()), *(ONE_EPOCH if verb == "fit" else ()), *SHORT, *QUIET]


def test_a_file_of_series_is_forecast(walk: Callable) -> None:
    printed = walk("forecasting")
    assert "2 variables: north, south" in printed and "prediction" in printed and "seasonal naive" in printed
    assert Path("forecast.csv").read_text().count("\n") == 1 + 2 * 24 and Path("forecast.png").is_file()
    page = Path("memory.html").read_text()
    assert '"name": "north"' in page and '"name": "south"' in page and "from 2024-02-19 16:00:00" in page


def test_dna_is_called(walk: Callable) -> None:
    printed = walk("dna")
    assert "calls.tsv: 20 sequences" in printed and "k-mer LR" in printed
    assert Path("calls.tsv").read_text().count("\n") == 21 and Path("pictures/new0.png").is_file()
    page = Path("memory.html").read_text()
    assert "Left out: all sequences from new12 on" in page and page.count('"pieces"') == 12


def test_a_text_is_read_and_written(walk: Callable) -> None:
    printed = walk("text")
    assert "state after" in printed and "page: memory.html" in printed
    pieces = re.search(r'"pieces": (\[.*?\]), "traces"', Path("memory.html").read_text())
    assert pieces and "".join(json.loads(pieces[1])[1:]) == Path("story.txt").read_text()


def test_a_domain_of_ones_own_is_a_folder_and_a_yaml(walk: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its module stays imported: the classes of heads are known to Python as long as anything refers to them.
    monkeypatch.setattr(domains, "__path__", [*domains.__path__, str(Path("domains").absolute())])
    printed = walk("own_domain")
    assert "predictions: lengths.csv" in printed and "mae" in printed
    assert Path("lengths.csv").read_text().startswith("length,prediction")
