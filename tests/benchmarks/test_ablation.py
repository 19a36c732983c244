"""The ablation's models are equal in size and differ where they say; finished runs are not run again."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
import torch

from app.module import TitansModule
from benchmarks.ablation import __main__ as ablation
from benchmarks.ablation.controls import GRU, Filled, Kind, ReplaceMixers, count
from benchmarks.shared import forecasts, runs
from benchmarks.shared.rows import markdown
from benchmarks.shared.runs import Run, digest, finish, seeded
from domains.timeseries import ForecastHead
from domains.timeseries.series import sample_series
from domains.timeseries.windows import Batch
from memory import BackboneConfig, MemoryConfig

CONFIG = str(Path(__file__).parents[2] / "conf" / "timeseries_ett.yaml")


def module(kind: Kind, mixing: str = "einfft") -> TitansModule:
    head = ForecastHead(32, 3, 12, look_back=24, patch=4, stride=2, channel_mixing=mixing)
    module = TitansModule(head, BackboneConfig(dim=32, layers=2, memory=MemoryConfig(heads=2)))
    ReplaceMixers(kind).setup(None, module, "fit")
    return module


def test_all_models_of_the_ablation_have_the_same_size() -> None:
    sizes = [count(module(kind, mixing)) for kind in get_args(Kind) for mixing in ("einfft", "none")]
    plain = TitansModule(
        ForecastHead(32, 3, 12, look_back=24, patch=4, stride=2),
        BackboneConfig(dim=32, layers=2, memory=MemoryConfig(heads=2)),
    )
    assert len(sizes) == 14 and sizes[0] == count(plain)
    assert max(abs(size - sizes[0]) for size in sizes) <= 2 * 32  # half a unit of 2 dim in each block


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_control_trains(kind: Kind) -> None:
    model = module(kind, "none")
    batch = Batch(torch.randn(4, 24, 3), torch.randn(4, 12, 3), torch.arange(4))
    model.head.loss(model(batch), batch).backward()
    mixers = [p for block in model.backbone.blocks for p in block.mixers.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in mixers)
    assert any((p.grad != 0).any() for p in mixers)


def test_what_stands_where_the_memory_stood() -> None:
    identity = module("identity", "none").eval()
    tokens = torch.randn(2, 12, 32)
    changed = tokens.clone()
    changed[:, 0] += 1
    before, after = (identity.backbone(x)[0] for x in (tokens, changed))
    assert torch.equal(before[:, 1:], after[:, 1:]) and not torch.equal(before[:, 0], after[:, 0])
    assert isinstance(module("gru").backbone.blocks[0].mixers[0].mixer, GRU)
    memories = {kind: next(iter(module(kind).backbone.memories().values())).config for kind in get_args(Kind)[:4]}
    assert [m.momentum for m in memories.values()] == [True, False, True, True]
    assert [m.forgetting for m in memories.values()] == [True, True, False, True]
    assert memories["linear memory"].depth == 1
    assert not isinstance(module("memory").backbone.blocks[0].mixers[0], Filled)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Options of a run of a second, in a fresh folder."""
    monkeypatch.chdir(tmp_path)
    series = sample_series(variables=2, rows=300)
    table = pd.DataFrame(series.values, columns=series.columns)
    table.insert(0, "date", pd.DatetimeIndex(series.stamps.astype("datetime64[ns]")))
    table.to_csv("mine.csv", index=False)
    options = "--data.file mine.csv --data.look_back 24 --data.horizon 12 --data.batch_size 256 --trainer.max_epochs 1"
    return f"{options} --trainer.accelerator cpu --trainer.log_every_n_steps 1".split()


class InThisProcess(ThreadPoolExecutor):
    """In place of a pool of fresh processes, which take many seconds to import everything."""

    def __init__(self, workers: int, *_: object) -> None:
        super().__init__(workers)


@pytest.mark.slow
def test_runs_are_trained_once(
    small: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(runs, "ProcessPoolExecutor", InThisProcess)
    (first,) = seeded("first", ["--config", CONFIG, *small], 1)
    assert first.name == f"first_{digest(runs.resolved(first.options))}_0"
    wrong = Run("wrong", (*first.options, "--data.look_back", "0"))
    with pytest.raises(RuntimeError, match="1 runs failed: wrong"):
        list(finish([first, wrong], workers=1))
    assert "data.look_back is 0; it must be from 1" in wrong.path.with_suffix(".log").read_text()
    kept = json.loads(first.path.read_text())
    assert kept["seconds"] > 0 and kept["validation"] > 0 and kept["metrics"]["test/mse"] > 0
    capsys.readouterr()
    monkeypatch.setattr(runs, "git_commit", lambda: kept["versions"]["commit"])
    again = dict(finish([first], workers=1))
    assert again[first]["date"] == kept["date"]  # read, not run
    monkeypatch.setattr(runs, "git_commit", lambda: "another")
    assert dict(finish([first], workers=1))[first]["date"] == kept["date"]
    assert f"kept from commit {kept['versions']['commit']}, this is another; delete" in capsys.readouterr().err


def test_another_configuration_is_another_run(small: list[str]) -> None:
    options = ["--config", CONFIG, *small]
    config = runs.resolved(options)
    same = runs.resolved(
        [*options, "--seed_everything", "7", "--trainer.logger.name", "x", "--model.optim.lr", "0.0002"]
    )
    assert same["seed_everything"] == 7 and digest(same) == digest(config)
    for part, key, value in (("trainer", "max_epochs", 2), ("model", "compile", True), ("data", "class_path", "x")):
        assert digest(config | {part: config[part] | {key: value}}) != digest(config)
    assert config["model"]["backbone"]["memory"]["theta_max"] is None  # the code's own defaults count too
    with pytest.raises(SystemExit, match="2"):
        seeded("x", [*options, "--data.horizom", "48"], 1)


def test_a_table_grows_with_every_finished_run(monkeypatch: pytest.MonkeyPatch, result: Callable[..., dict]) -> None:
    written, trained = {}, []
    monkeypatch.setattr(ablation, "write", lambda command, name, rows: written.update({name: rows}))
    monkeypatch.setattr(
        ablation, "seeded", lambda label, options, n: [Run(f"{label}_{i}", tuple(options)) for i in range(n)]
    )

    def finished(todo: Sequence[Run], workers: int, work: object):
        for i, run in enumerate(todo):
            trained.append(run.options)
            yield run, result(0.4 + i / 100, i % 2)

    monkeypatch.setattr(forecasts, "finish", finished)
    given = "ablation --sets ETTh1,ETTm1 --seeds 2 --kinds memory,gru --optim.lr 1e-3"
    monkeypatch.setattr("sys.argv", given.split(" "))
    ablation.main()
    table = written["ablation"]
    assert len(table) == 2 * 2 * 2 * 2 and len({row.metric for row in table}) == 16
    assert table[0].value == pytest.approx(0.405) and table[0].seeds == [0, 1] and table[0].commit == "abc"
    assert table[2].metric == "ETTh1 96/96 memory, EinFFT off, test mse" and "47094 parameters" in table[0].note
    assert table[0].command.endswith("--kinds memory,gru --optim.lr 1e-3") and markdown(table)
    assert all("--trainer.callbacks+=benchmarks.ablation.controls.ReplaceMixers" in options for options in trained)
    assert [options[-3:] for options in trained[:2]] == [("--trainer.callbacks.kind=memory", "--optim.lr", "1e-3")] * 2
