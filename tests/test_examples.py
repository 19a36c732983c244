"""Every example is short, and does what it says."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from docs.notebooks import notebook

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable:
    """Runs an example's notebook, cell by cell, in an empty folder, and returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def printed(name: str) -> str:
        names = {"__name__": "__main__"}  # a notebook has no `__file__`
        for cell in json.loads((EXAMPLES / f"{name}.ipynb").read_text())["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
        return capfd.readouterr().out

    return printed


def test_the_layer_learns_in_a_transformer_of_ones_own(run: Callable) -> None:
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", run("transformer"))]
    assert len(losses) == 20 and losses[-1] < 0.6 * losses[0]


def test_a_frame_is_forecast(run: Callable) -> None:
    errors = dict(re.findall(r"^ *(this run|naive) +all +(\S+)", run("forecast"), re.MULTILINE))
    assert float(errors["this run"]) < float(errors["naive"]) / 10
    assert Path("meters.ckpt").is_file()


def test_dna_is_classified(run: Callable) -> None:
    (right,) = re.findall(r"right: (\d+)%", run("dna"))
    assert int(right) > 90
    assert Path("promoters.ckpt").is_file()


def test_a_conversation_stays_in_the_state(run: Callable) -> None:
    out = run("chat")
    turns = re.findall(r"^> (.*)", out, re.MULTILINE)
    (tokens,) = re.findall(r"(\d+) tokens are in a state", out)
    # The token before a document, the turns as bytes and their answers.
    assert int(tokens) == 1 + len("".join(turns)) + 30 * len(turns)
    assert Path("conversation.state").is_file()


def test_a_memory_beside_a_decoder_recalls_what_its_attention_does_not_see(run: Callable) -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[hf]'")
    losses = dict(re.findall(r"^(with|without) memory: loss (\S+)", run("huggingface"), re.MULTILINE))
    chance = math.log(32)
    assert float(losses["with"]) < chance - 0.1 and abs(float(losses["without"]) - chance) < 0.02
    assert Path("titans", "model.safetensors").is_file() and Path("adapter", "adapter_model.safetensors").is_file()


def test_notebooks_are_the_examples() -> None:
    for path in EXAMPLES.glob("*.py"):
        held = json.loads(path.with_suffix(".ipynb").read_text())
        assert held == notebook(path.stem, path.read_text()), "run python -m docs.notebooks"
        code = ["".join(cell["source"]) for cell in held["cells"] if cell["cell_type"] == "code"]
        assert [line for line in "\n".join(code).splitlines() if line] == [
            line for line in path.read_text().splitlines()[1:] if line
        ]


def test_each_is_short() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert len(lines) == 5 and max(lines.values()) <= 40, lines
