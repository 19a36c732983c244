"""What a command prints beside its own words: nothing that is wrong, of no use, or of our source files."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app import callbacks, quiet
from app.door import main


@pytest.fixture
def quietened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(warnings, "filters", list(warnings.filters))
    monkeypatch.setattr(logging.getLogger("lightning.pytorch.utilities.rank_zero"), "filters", [])
    quiet.quieten()


def test_our_warnings_name_no_source_file_and_those_of_libraries_do(quietened: None) -> None:
    ours = warnings.formatwarning("two rows were filled", UserWarning, str(Path(callbacks.__file__)), 160, None)
    theirs = warnings.formatwarning("this goes", UserWarning, str(Path(torch.__file__)), 7, None)
    assert ours == "warning: two rows were filled\n"
    assert str(Path(torch.__file__)) in theirs


def test_remarks_of_no_use_are_dropped_and_others_are_not(quietened: None, caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO, log.name):
        log.propagate, before = True, log.propagate
        log.info("💡 Tip: buy a cloud")
        log.info("TPU available: False, using: 0 TPU cores")
        log.info("`Trainer.fit` stopped: `max_steps=10` reached.")
        log.propagate = before
    assert caplog.messages == ["`Trainer.fit` stopped: `max_steps=10` reached."]


def test_fit_tells_its_parameters_in_one_line(run: Callable, capsys: pytest.CaptureFixture) -> None:
    command = main(["fit", "--config", "toy.yaml", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"])
    said = capsys.readouterr().out
    total = sum(parameter.numel() for parameter in command.model.parameters())
    assert f"parameters: {total:,} (head " in said
    assert "FLOPs" not in said


def test_a_training_shorter_than_the_log_interval_has_a_curve_and_no_warning(
    run: Callable, recwarn: pytest.WarningsRecorder
) -> None:
    run("fit", "--config", "toy.yaml", "--trainer.max_epochs=1", "--trainer.log_every_n_steps=50")
    assert not [warned for warned in recwarn if "logging interval" in str(warned.message)]
    events = EventAccumulator("runs/toy/version_0").Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2]  # the last of three steps
