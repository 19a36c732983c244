"""The toy domain on the path, and the command line as a function."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import lightning  # noqa: F401  # not within a test, to whose standard error its log would write ever after
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # where `toy` lies, as a fourth domain would lie in domains/

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """`python -m app` in this process and a fresh folder: run("fit", "--config", "toy.yaml") returns the CLI object."""
    from app.door import main

    shutil.copy(HERE / "toy.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return lambda *args: main([*args, *QUIET])


@pytest.fixture
def refused(run: Callable, capsys: pytest.CaptureFixture) -> Callable:
    """Run a command that must end with exit code 2 and one line; returns the line."""

    def refuse(*args: str) -> str:
        with pytest.raises(SystemExit) as stop:
            run(*args)
        assert stop.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert sum("Traceback" in line for line in lines) == 0
        assert [line for line in lines if line.startswith("error:")] == lines[-1:]
        return lines[-1]

    return refuse
