"""The decoding benchmark in small, and its page."""

from pathlib import Path

import pytest
import torch

from app.module import TitansModule
from benchmarks.decode import __main__ as decode
from benchmarks.decode.page import EQUAL, MEMORY, SPEED, STREAMS, TIMES, page, where
from benchmarks.shared.rows import Row, read
from domains.text.decoder import Decoder
from memory import BackboneState

BASE = Path(__file__).parents[2] / "conf" / "base" / "text.yaml"
SMALL = f"base: {BASE}\nmodel:\n  backbone: {{dim: 16, layers: 1, heads: 2, window: 8, segment: 8}}\n"


@pytest.mark.slow
def test_variants_are_measured_beside_attention_and_streams_beside_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    options = ["--variants", "attention,mag", "--contexts", "4,9", "--batches", "2", "--streams", "1,2"]
    decode.main(["--config", "small.yaml", "--tokens", "3", *options])
    rows = {row.metric: row for row in read(tmp_path / "results" / "decode" / "decode_cpu.json")}
    for context in (4, 9):
        ours, theirs = (rows[where(name, 2, context, SPEED)].value for name in ("mag", "attention"))
        assert rows[where("mag", 2, context, TIMES)].value == pytest.approx(ours / theirs)
    assert rows[f"mag, float32, 2 {EQUAL}"].value == 1
    assert rows[f"mag, float32, 2 {STREAMS}"].value > 0
    assert "| attention |" in page(list(rows.values()))


@pytest.mark.slow
def test_a_cache_that_does_not_fit_is_a_row_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(Decoder):
        def __init__(self, module: TitansModule, row: BackboneState, rows: int, precision: torch.dtype | None) -> None:
            if rows > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            super().__init__(module, row, rows, precision)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(decode, "Decoder", Small)
    (tmp_path / "small.yaml").write_text(SMALL)
    options = ["--variants", "attention", "--contexts", "4", "--batches", "1,2", "--tokens", "3"]
    decode.main(["--config", "small.yaml", *options])
    rows = {row.metric: row for row in read(tmp_path / "results" / "decode" / "decode_cpu.json")}
    assert rows[where("attention", 1, 4, SPEED)].value > 0
    assert rows[where("attention", 2, 4, SPEED)].note == "out of memory; states take 0.0 GiB"


def test_the_page_says_why_something_has_no_number() -> None:
    def row(measure: str, value: float, note: str = "") -> Row:
        return Row(where("mag", 64, 16384, measure), value, None, "", "", "", [0], "a GPU", "", "abc", note=note)

    text = page([row(SPEED, 5000.0), row(MEMORY, float("nan"), "out of memory")])
    assert "|  | 64 x 16,384 |\n" in text
    assert "| mag | 5000 |\n" in text
    assert "| mag | out of memory |\n" in text
