"""The language benchmark from end to end on a made-up corpus: equal sizes, one training per run, every figure."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from benchmarks.language import __main__ as language
from benchmarks.language import delta_layers
from benchmarks.language import run as language_run
from benchmarks.language.__main__ import CASES, CONFIG, PEERS, bounds, joined, rows_of
from benchmarks.language.run import Reading, spike
from benchmarks.shared import runs
from benchmarks.shared.equal import layers_for, parameters
from benchmarks.shared.rows import Row
from data_prep.text import prepare
from domains.text.sample import documents
from memory import BackboneConfig
from tests.benchmarks.test_ablation import InThisProcess
from tests.data_prep.corpus import alone_in_this_process

TINY = [
    *("--data.tokenizer=byte", "--data.length=64", "--data.eval_length=64", "--data.batch_size=4"),
    *("--model.backbone.dim=16", "--model.backbone.heads=2", "--model.backbone.window=8", "--model.backbone.layers=1"),
    *("--model.backbone.memory.heads=2", "--model.backbone.memory.chunk=4", "--trainer.accelerator=cpu"),
]


@pytest.fixture(scope="module")
def own() -> dict:
    """The backbone of the config that all cases are changes of."""
    return runs.resolved(["--config", CONFIG])["model"]["backbone"]


@pytest.mark.parametrize("case", [case for case in CASES if case not in PEERS])
def test_every_case_has_the_parameters_of_the_config(own: dict, case: str) -> None:
    variant, *changes = CASES[case]
    other = {**own, "variant": variant, **({"conv": 0} if changes else {})}
    layers, wanted = layers_for(own, other), parameters(own, own["layers"])
    block = parameters(other, 2) - parameters(other, 1)
    assert abs(parameters(other, layers) - wanted) <= block / 2
    assert layers == {"lmm": 7, "mac": 6, "mag": 6, "mal": 6}.get(case, 11)


def test_options_of_fit_may_be_two_words() -> None:
    assert joined(["--a", "1", "--b=2", "--c.d", "-3"]) == ["--a=1", "--b=2", "--c.d=-3"]


def test_a_spike_is_counted_behind_the_warm_up() -> None:
    norms = [100.0, 2.0, 1.0, 3.0, 2.0, 8.0, 2.0, 2.0, 2.0, 2.0]
    assert spike(norms, 0.1) == 4 and spike(norms, 6) == 1 and spike(norms, 0.0) == 50


def result(nats: float) -> dict:
    found = {f"{way} at {place}": (nats, 10) for way in ("carried", "reset") for place in ("1K-4K", "4K-16K")}
    found |= {f"{way} on far repeats": (nats, 3) for way in ("carried", "reset", "cache")}
    kept = {"spike": 6.0, "layers": 8, "parameters": 9, "tokens": 7, "device": "cpu"}
    return kept | {
        "validation": nats,
        "figures": found,
        "config": {"seed_everything": 0},
        "versions": {"commit": "abc"},
    }


def test_memories_are_judged_by_their_controls() -> None:
    losses = {"lmm": 3.0, "mag": 2.9, "mag:model.optim.lr=1": 3.1, "swa-conv": 2.0}
    results = {case: [result(nats)] for case, nats in losses.items()}
    means = {case: {"validation": nats, "cache on far repeats": 1.0} for case, nats in losses.items()}
    assert bounds("code", "lmm", "validation", means) == ("", "")
    peer = {"deltanet": {"validation": 2.5}}
    assert bounds("code", "lmm", "validation", means | peer) == ("<= 2.5000", "<= 2.4000")
    assert bounds("code", "mag", "validation", means) == ("<= 1.9500", "<= 1.8500")
    assert bounds("code", "mag:model.optim.lr=1", "validation", means) == ("", "")  # another has the better claim
    assert bounds("code", "lmm", "carried on far repeats", means) == ("", "<= 1.0000")
    assert bounds("code", "swa-conv", "carried on far repeats", means) == ("", "")
    missed = {row.metric for row in rows_of("code", results) if "must" in row.misses()}
    assert missed == {"code mag: validation"} | {
        f"code {case}: {name}"
        for case in ("lmm", "mag", "mag:model.optim.lr=1")
        for name in (
            "carried, 4K-16K less 1K-4K",
            "carried less reset, 4K-16K",
            "carried less reset, far repeats",
            "gradient norm after warm-up, largest / median",
        )
    }


def test_figures_have_a_mean_and_a_spread() -> None:
    rows = rows_of("code", {"mag": [result(3.0), result(4.0)]})
    by_name = {row.metric: row for row in rows}
    row = by_name["code mag: carried at 4K-16K"]
    assert (row.value, row.spread, row.unit) == (3.5, pytest.approx(0.7071, abs=1e-4), "nats")
    assert row.note == "8 blocks, 9 parameters, 7 training tokens, mean of 10 tokens"


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with long documents, in which names of its own come again."""
    monkeypatch.setenv("TITANS_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    alone_in_this_process(monkeypatch)
    folder, random = tmp_path / "tales", Random(0)
    folder.mkdir()
    for part, count in (("train", 6), ("valid", 3), ("test", 3)):
        rows = []
        for number in range(count):
            names = ["".join(random.choices("qxzjkv", k=6)) for _ in range(3)]
            text = "".join(f"{story} {' '.join(names)} " for story in documents(2, number))
            rows.append(json.dumps({"text": text}))
        (folder / f"{part}.jsonl").write_text("\n".join(rows))
    prepare(str(folder), "byte", workers=1)
    return folder


@pytest.fixture
def command(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Row]]:
    """`python -m benchmarks.language` with tiny models, in this process; returns the rows of its results."""
    written: dict[str, list[Row]] = {}
    monkeypatch.setattr(language, "write", lambda command, name, rows: written.update({name: rows}))
    monkeypatch.setattr(language_run, "READING", Reading(least=300, longest=2000, period=64, near=16, batch=2))
    monkeypatch.setattr(runs, "ProcessPoolExecutor", InThisProcess)

    def run(*options: str) -> list[Row]:
        words = ["x", "--corpus", str(corpus), "--steps", "12", *options, "--", *TINY]
        monkeypatch.setattr(sys, "argv", words)
        language.main()
        return written["language"]

    return run


@pytest.mark.slow
def test_the_command_trains_once_and_reports_every_figure(
    command: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    whole = language_run.scores
    monkeypatch.setattr(language_run, "scores", lambda *_: (_ for _ in ()).throw(RuntimeError("lost")))
    with pytest.raises(RuntimeError, match="1 runs failed"):
        command("--cases", "swa-conv,kda")
    assert "left out: kda of flash-linear-attention (its kernels need a GPU)" in capsys.readouterr().out
    monkeypatch.setattr(language_run, "scores", whole)
    with monkeypatch.context() as patch:
        patch.setattr(language_run, "app", lambda *_: pytest.fail("trained again"))
        rows = command("--cases", "swa-conv")
    out = capsys.readouterr().out
    found = {row.metric.removeprefix("tales swa-conv: "): row for row in rows}
    for way in ("carried", "reset", "swapped", "cache"):
        for place in ("", " on far repeats", " at 64-256", " at 256-1K", " settled at 64-256"):
            assert ("settled" in place and way == "cache") or (0 < found[way + place].value < 7 and way + place in out)
        tokens = found[way].note.rpartition("mean of ")[2]
        assert tokens == found["carried"].note.rpartition("mean of ")[2]
    assert "carried at 0-64" in found and "reset at 0-64" not in found
    assert found["carried at 64-256"].value != found["reset at 64-256"].value
    assert found["gradient norm after warm-up, largest / median"].value >= 1
    assert all(row.seeds == [0] and "--cases swa-conv" in row.command for row in rows)
    with pytest.raises(SystemExit):
        command("--cases", "swa-con")


def test_options_of_the_memory_leave_the_blocks_of_controls(command: Callable) -> None:
    given = Namespace(steps=None, seeds="0,3")
    more = [*TINY, "--model.backbone.memory.expansion=8"]
    first, second = language.runs_of("tales", "swa", given, more)
    assert [run.options[-2:] for run in (first, second)] == [("--seed_everything", seed) for seed in ("0", "3")]
    assert first.name[:-1] == second.name[:-1] and (first.name[-1], second.name[-1]) == ("0", "3")
    wider = [option for option in first.options if "layers" in option]
    (plain, _) = language.runs_of("tales", "swa", given, TINY)
    assert wider == [option for option in plain.options if "layers" in option]


def test_a_case_may_be_changed_alone(command: Callable) -> None:
    given = Namespace(steps=None, seeds="0")
    case = "swa:model.backbone.conv=2:model.optim.lr=3e-4"
    (run,) = language.runs_of("tales", case, given, TINY)
    config = runs.resolved(run.options)["model"]
    assert (config["backbone"]["conv"], config["optim"]["lr"]) == (2, 3e-4)
    assert run.name.startswith("language_tales_swa_model.backbone.conv=2_model.optim.lr=3e-4_")
    assert language.base(case) == "swa"


class Running(nn.Module):
    """A layer with the library's interface: the running sum of a linear map, convolved over two tokens."""

    def __init__(self, hidden_size: int, num_heads: int, layer_idx: int, **_: object) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, hidden_size, bias=False, dtype=torch.bfloat16)
        self.number = layer_idx

    def forward(self, x: Tensor, past_key_values: object, use_cache: bool) -> tuple[Tensor, None, object]:
        assert x.dtype == torch.bfloat16 and use_cache
        before = past_key_values[self.number] if len(past_key_values) > self.number else None
        tail = x.new_zeros(len(x), 1, x.shape[2]) if before is None else before["conv_state"][0]
        both = torch.cat([tail, x], 1)
        y = self.linear(both[:, 1:] + both[:, :-1]).float().cumsum(1)
        y = y if before is None else y + before["recurrent_state"]
        state = {"recurrent_state": y[:, -1:], "conv_state": (both[:, -1:],)}
        tail.fill_(torch.nan)  # a layer may write into what it was given
        past_key_values.update(layer_idx=self.number, offset=x.shape[1], **state)
        return y, None, past_key_values


@pytest.mark.parametrize("name", ["DeltaNet", "GatedDeltaNet", "KimiDeltaAttention"])
def test_a_peers_layer_carries_its_state(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = SimpleNamespace(DeltaNet=Running, GatedDeltaNet=Running, KimiDeltaAttention=Running)
    monkeypatch.setattr(delta_layers, "import_module", lambda _: layers)
    config = BackboneConfig(f"benchmarks.language.delta_layers.{name}", dim=16, heads=2)
    mixer, x = getattr(delta_layers, name)(config), torch.randn(2, 9, 16)
    whole, _ = mixer(x)
    first, state = mixer(x[:, :5])
    for _ in range(2):  # the state is as it was
        second, _ = mixer(x[:, 5:], state.detach())
        torch.testing.assert_close(torch.cat([first, second], 1), whole)
    with pytest.raises(ValueError, match=f"{name} takes no padding"):
        mixer(x, None, torch.ones(2, 9, dtype=torch.bool))
