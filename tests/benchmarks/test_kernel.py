"""The kernel benchmark, as far as it goes without a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.kernel import __main__ as kernel
from benchmarks.kernel import flops, page, peers
from benchmarks.kernel.cases import RATIOS, Case, cases
from benchmarks.shared import problems
from benchmarks.shared.rows import Row, read
from benchmarks.shared.timing import Problem
from memory.ops import Unserved


@pytest.mark.parametrize(
    ("depth", "width", "hidden", "forward", "both"),
    [(1, 64, 64, 66, 246), (2, 64, 128, 238, 958), (2, 64, 256, 451, 1827)],
)
def test_operations_per_token(depth: int, width: int, hidden: int, forward: int, both: int) -> None:
    counted = flops.per_token(depth, width, hidden, 64)
    assert [round(count / 1000) for count in counted] == [forward, both]
    chunk, main = 64, 10 * width**2 + 4 * 64 * width if depth == 1 else 22 * width * hidden + 4 * 64 * (width + hidden)
    assert counted[0] == main + 2 * chunk**2


def test_operations_grow_linearly_with_depth() -> None:
    counts = [flops.per_token(depth, 64, 128, 64)[1] for depth in (2, 3, 4)]
    assert counts[1] - counts[0] == counts[2] - counts[1] > 0


def test_attention_needs_half_of_the_square() -> None:
    assert flops.attention(2, 8, 4, 16) == (4 * 2 * 4 * 8 * 8 * 16 / 2, 3.5 * 4 * 2 * 4 * 8 * 8 * 16 / 2)


def test_cases_have_readable_bounds_and_distinct_titles() -> None:
    listed = cases()
    assert len({case.title for case in listed}) == len(listed)
    assert {name for pair in RATIOS for name in pair[:2]} <= {case.name for case in listed}
    for case in listed:
        for bounds in (*case.bounds, case.memory):
            Row(case.title, 1.0, None, "ms", *(bounds or ("", "")), [0], "cpu", "")


@pytest.mark.parametrize(
    ("argv", "said"), [(["--only", "l9"], "--only l9: no such case; there are chunked, decode-layer"), ([], "CUDA GPU")]
)
def test_arguments(argv: list[str], said: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        kernel.main(argv)
    assert said in capsys.readouterr().err


def test_results_are_kept_by_device() -> None:
    assert kernel.file_name("kernel", "NVIDIA H100 80GB HBM3") == "kernel_h100"


def test_a_missing_peer_is_named() -> None:
    with pytest.raises(peers.Missing, match=r"no_such_peer.*; pip install some-peer==1"):
        peers.load("no_such_peer", "some-peer==1")


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("forget_to", ["zero", "init"])
def test_the_scan_depends_on_every_leaf(depth: int, forget_to: str) -> None:
    problem = problems.scan(1, 66, depth, 1, 64, forget_to, "chunked", "cpu")
    gradients = torch.autograd.grad(problem.forward().float().square().sum(), problem.leaves)
    assert all(g.isfinite().all() and g.any() for g in gradients)
    assert problem.bytes() == sum(x.numel() * x.element_size() for x in (*problem.leaves, problem.read()))


@pytest.mark.parametrize("make", [problems.decode_scan, problems.decode_layer])
def test_decoding_moves_the_state_in_place(make: type) -> None:
    torch.manual_seed(0)
    problem = make("cpu", "chunked")
    first, second = problem.read(), problem.read()
    assert first.shape[1] == 1 and not torch.equal(first, second)


class Fake(kernel.Benchmark):
    """On a device that takes 2 ms for a plain call and 1 ms for a CUDA graph."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: list[Row]) -> None:
        monkeypatch.setattr(kernel, "device_name", lambda device: "some device")
        monkeypatch.setattr(kernel, "capture", lambda run: None)
        monkeypatch.setattr(kernel, "milliseconds", lambda run, repeats: [1.0 if run is None else 2.0] * repeats)
        super().__init__(4, rows)
        self.tflops, self.gbs = 1.0, 1.0


def problem() -> Problem:
    x = torch.ones(1000, requires_grad=True)
    return Problem(lambda: x * 2, [x])


def test_a_case_leaves_rows_for_both_ways_and_ratios(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    old = Row("old", 1.0, None, "ms", "", "", [0], "some device", "c")
    benchmark = Fake(monkeypatch, [old])
    ours = Case("l1", "ours", problem, work=(1e9, 1e9), bounds=(("<= 1.5", ""), ("", "")))
    for case in (ours, replace(ours, name="ttt", title="theirs", work=None)):
        benchmark.run(case)
        benchmark.compare(case.name)
    row = benchmark.rows["ours: forward"]
    assert row.value == 2.0 and row.spread == 0 and row.misses() == ["must"]
    assert row.note == "1 TFLOP/s = 100%, 0 GB/s = 1%" and row.command.endswith("--repeats 4 --only l1")
    assert benchmark.rows["ours: forward, CUDA graph"].value == 1.0
    assert benchmark.rows["theirs / ours: forward and backward"].value == 1.0
    benchmark.save("kernel_some")
    path = tmp_path / "results/kernel/kernel_some.json"
    assert read(path)[:2] == [old, row] and not path.with_suffix(".png").exists()
    assert "| ours: forward | ms | 2 ± 0 | 1 ± 0 | 1 TFLOP/s" in page.page(read(path))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Unserved("depth 1"), "not served: depth 1"),
        (peers.Missing("no fla; pip install fla"), "not installed: no fla; pip install fla"),
        (torch.OutOfMemoryError("x"), "out of memory"),
        (RuntimeError("first line\nsecond"), "RuntimeError: first line"),
    ],
)
def test_what_fails_leaves_rows_that_say_why(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Problem:
        raise error

    stale = f"ours: forward{page.GRAPH}"
    benchmark = Fake(monkeypatch, [Row(stale, 1.0, None, "ms", "", "", [0], "some device", "c")])
    benchmark.run(Case("l1", "ours", fail, memory=("<= 1", "")))
    benchmark.run(Case("ttt", "theirs", problem))
    benchmark.compare("ttt")
    assert stale not in benchmark.rows
    assert [row.note for row in list(benchmark.rows.values())[:3]] == [said] * 3
    assert benchmark.rows["theirs / ours: forward"].misses() == ["must", "aim"]
    assert "| ours: forward | ms | — |" in page.page(list(benchmark.rows.values()))


def test_the_plot_holds_what_was_swept(tmp_path: Path) -> None:
    metric = "L_M=1 d=64, 131,072 tokens, T={}: forward and backward{}"
    rows = [
        Row(metric.format(time, way), 1.0 + time, None, "ms", "", "", [0], "d", "c")
        for time in (2048, 4096)
        for way in ("", page.GRAPH)
    ]
    swept = [case.title for case in cases() if case.name.startswith("sweep")]
    assert all(page.SWEPT.fullmatch(f"{title}: forward and backward") for title in swept)
    assert page.series(rows) == {"L_M=1 d=64": {2048: 2049.0, 4096: 4097.0}}
    page.draw(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
