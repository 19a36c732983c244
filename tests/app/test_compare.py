"""TensorBoard at first sight: what a run is called, what it was set to, and its best score."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from app.compare import LAYOUT, LogComparison, run_name
from app.runs import curves_folder


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ("--config a.yaml --trainer.max_steps 9", ""),
        ("--model.backbone.variant mac --model.optim.lr=1e-3", "variant=mac,lr=1e-3"),
        ("--data.file /home/me/my.csv --seed_everything 3", "file=my.csv,seed_everything=3"),
        ("--data.train [a.fa,b.fa] --model.compile", "train=_a.fa,b.fa_,compile="),
        ("--data.train [in/a.fa,in/b.fa] --data.test [yes=/x/c.fa]", "train=_a.fa,b.fa_,test=_yes=c.fa_"),
    ],
)
def test_a_run_is_named_by_what_its_command_changes(keys: str, name: str) -> None:
    assert run_name(keys.split()) == name


def test_a_name_is_no_path_and_not_too_long_for_a_file_system() -> None:
    name = run_name(["--data.file", "../../etc/../x" * 50, "--data.folder=" + "y" * 300])
    assert "/" not in name and len(name) == 100


def test_settings_and_the_best_score_are_there_to_compare(run: Callable) -> None:
    run("fit", "--config", "toy.yaml", "--model.backbone.dim=16", "--trainer.max_epochs=3", "--model.optim.lr=0.1")
    folder = curves_folder(Path("runs/toy/version_0"))
    assert folder.name == "dim=16,lr=0.1"
    run("test", "--config", "toy.yaml", "--ckpt=last", "--model.backbone.dim=16")
    assert curves_folder(Path("runs/toy/version_0")) == folder  # pictures of a test stand beside the curves
    events = EventAccumulator(str(folder)).Reload()
    validated, best = ([event.value for event in events.Scalars(tag)] for tag in ("val/mse", "hp_metric"))
    assert best == [min(validated[: i + 1]) for i in range(3)]
    assert [event.step for event in events.Scalars("val/mse")] == [event.step for event in events.Scalars("hp_metric")]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert found["backbone.dim"].number_value == 16 and found["optim.lr"].number_value == 0.1
    assert found["head.class_path"].string_value == "toy.ToyHead" and found["backbone.memory.chunk"].number_value == 4
    assert not any(key.startswith(("trainer.logger", "model.")) for key in found)


def test_a_score_that_is_no_number_is_not_the_best() -> None:
    logged: list[dict[str, float]] = []
    trainer = SimpleNamespace(
        callback_metrics={"val/mse": torch.tensor(torch.nan)},
        sanity_checking=False,
        checkpoint_callback=SimpleNamespace(best_model_score=torch.tensor(0.5)),
        loggers=[SimpleNamespace(log_metrics=lambda values, step: logged.append(values))],
        global_step=7,
    )
    module = SimpleNamespace(head=SimpleNamespace(monitor="mse", mode="min"))
    LogComparison({}).on_validation_end(cast(Any, trainer), cast(Any, module))
    assert logged == [{"hp_metric": 0.5}]


def test_curves_stand_in_three_groups_and_every_pattern_finds_one(run: Callable) -> None:
    run("fit", "--config", "toy.yaml", "--trainer.max_epochs=2")
    events = EventAccumulator(str(Path("runs/toy/version_0"))).Reload()
    (written,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(written.tensor_proto.string_val[0])
    assert [group.title for group in layout.category] == list(LAYOUT) == ["loss", "rate", "memory health"]
    tags = events.Tags()["scalars"]
    patterns = [tag for group in layout.category for chart in group.chart for tag in chart.multiline.tag]
    assert len(patterns) == 13 and not [p for p in patterns if not any(re.search(p, tag) for tag in tags)]
