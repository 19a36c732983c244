"""Two processes that Lightning starts train as one does, and end with it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd
import pytest
import torch

from app.devices import end_with_parent
from tests.app.conftest import HERE, QUIET
from tests.app.test_callbacks import curves
from tests.app.test_cli import weights
from tests.processes import forking

ROOT = HERE.parent.parent
DDP = ["--config", str(ROOT / "conf/ddp.yaml"), "--trainer.devices=2"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_equal_one(run: Callable) -> None:
    """Same global batches, 51 evaluated samples that two devices cannot share evenly, one run folder, one report."""
    common = ["--config", "toy.yaml", "--data.samples=51", "--model.backbone.dropout=0"]
    run("fit", *common)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}

    command = [sys.executable, "-m", "app", "fit", *common, *DDP, *QUIET]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best checkpoint: ") == 1
    (alone, _), (two, pictures) = curves(Path("runs/toy/version_0")), curves(Path("runs/toy/version_1"))
    for tag, tolerance in (("train/loss", 1e-6), ("val/mse", 1e-6), ("train/grad_norm", 1e-5)):
        assert list(two[tag].values()) == pytest.approx(list(alone[tag].values()), rel=tolerance), tag
    assert pictures == {"toy/answer": 2}
    first, second = (weights(f"runs/toy/version_{n}/checkpoints/last.ckpt") for n in (0, 1))
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=1e-5, atol=1e-6, msg=name)

    run("predict", *common, *DDP)  # on one device whatever the config says: one file, every row
    assert len(pd.read_csv("runs/toy/version_1/predictions.csv")) == 51


def orphan(talk: Connection) -> None:
    """A process that has started another one of a run; both keep `talk` open as long as they live."""
    if os.fork() == 0:
        end_with_parent()
        talk.send("started")
    time.sleep(60)


def test_no_process_outlives_the_one_that_has_started_it() -> None:
    context = forking()
    ours, theirs = context.Pipe()
    parent = context.Process(target=orphan, args=(theirs,))
    parent.start()
    theirs.close()
    assert ours.recv() == "started"
    parent.kill()
    parent.join()
    assert ours.poll(20), "it lives on"
    with pytest.raises(EOFError):
        ours.recv()
