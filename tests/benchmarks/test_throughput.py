"""The throughput benchmark, as far as it goes without a GPU."""

from pathlib import Path

import pytest
import torch

from benchmarks.shared import problems
from benchmarks.shared.rows import Row
from benchmarks.throughput import __main__ as throughput
from benchmarks.throughput.page import GRAPH, PEAK, crossing, draw, page, where


def row(case: str, time: int, value: float, size: str = "base", must: str = "") -> Row:
    return Row(where(case, size, time, GRAPH), value, None, "K tokens/s", must, "", [0], "a GPU", "", "abc")


def test_the_page_has_a_line_for_each_case_and_says_what_failed(tmp_path: Path) -> None:
    rows = [row("mac", 4096, 70.0, must=">= 140"), row("mac", 4096, 20.0, "400m"), row("mag", 2048, float("nan"))]
    rows.append(Row(where("mac", "base", 4096, PEAK), 46.0, None, "GiB", "", "", [0], "a GPU", "", "abc", note="why"))
    text = page(rows)
    assert "|  | base 2,048 | base 4,096 | 400m 4,096 |\n" in text
    assert "| mac |  | 70 | 20 |\n| mag | — |  |  |\n" in text
    assert "mag, base, T=2048: CUDA graph | —" in text[text.index("Not measured") :]
    draw(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_where_nothing_was_measured_the_picture_is_empty(tmp_path: Path) -> None:
    draw(
        [Row(where("mac", "base", 4096, GRAPH), float("nan"), None, "K tokens/s", "", "", [0], "cpu", "")],
        tmp_path / "p.png",
    )
    assert (tmp_path / "p.png").is_file()


@pytest.mark.parametrize(
    ("speeds", "expected"), [({1: 7, 2: 3, 4: 3}, 2), ({1: 1, 2: 3, 4: 1}, None), ({8: 3}, None), ({1: 9, 2: 9}, 1)]
)
def test_a_crossing_is_where_a_case_stays_ahead(speeds: dict[int, float], expected: int | None) -> None:
    control = [row("attention", time, value) for time, value in ((1, 8), (2, 2), (4, 2))]
    assert crossing([*control, *(row("mag", time, value) for time, value in speeds.items())], "mag") == expected


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--cases", "mag,rnn"], "--cases rnn: there are attention, swa,"),
        (["--lengths", "5"], "--lengths 5"),
        ([], "CUDA GPU"),
    ],
)
def test_arguments(argv: list[str], said: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        throughput.main(argv)
    assert said in capsys.readouterr().err


def test_every_case_is_a_backbone_of_the_same_shell() -> None:
    model = throughput.Model(64, 1, 2, [8])
    own = [case for case, (variant, _) in throughput.CASES.items() if "." not in variant]
    sizes = {case: sum(p.numel() for p in throughput.backbone(case, model).parameters()) for case in own}
    assert sizes["attention"] == sizes["swa"] < sizes["lmm1"] < sizes["lmm2"] < sizes["mag"]


def test_a_recurrence_of_few_heads() -> None:
    problem = problems.scan(2, 9, 2, 1, backend="chunked", device="cpu", chunk=16, heads=2)
    assert problem.read().shape == (2, 9, 2, 64)
