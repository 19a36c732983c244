"""Signals as schedulers send them: to one process of several, under SLURM, and to commands that save nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from app import signals
from app.module import read_checkpoint
from tests.app.conftest import HERE, QUIET
from tests.app.test_checkpoints import TOY
from tests.app.test_cli import weights
from tests.app.test_ddp import DDP, ROOT

END = '--trainer.callbacks+={"class_path": "toy.End", "init_args": {"step": 3, "number": %d}}'
SLURM = {"NTASKS": 1, "JOB_NAME": "x", "JOB_ID": 7, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_NODELIST": "localhost"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_signal_to_one_device_stops_all_of_them_at_one_step(run: Callable) -> None:
    common = [*TOY, "--model.backbone.dropout=0"]
    run("fit", *common)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}
    command = [sys.executable, "-m", "app", "fit", *common, *DDP, *QUIET, END % signal.SIGTERM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "terminate called" not in done.stderr  # by a thread of one of them that wakes as it ends
    assert done.stdout.count("stopped by SIGTERM at step 4; go on with --ckpt last") == 1
    assert sorted(os.listdir("runs/toy")) == ["version_0", "version_1"]
    run("fit", *common, "--ckpt=last")  # on one device
    straight, resumed = (weights(f"runs/toy/version_{n}/checkpoints/last.ckpt") for n in (0, 1))
    for name in straight:
        torch.testing.assert_close(resumed[name], straight[name], rtol=1e-5, atol=1e-6, msg=name)


def test_a_job_of_slurm_is_not_requeued_in_the_middle_of_a_step(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would write a file of its own at once, between any two operations, and call scontrol."""
    for name, value in SLURM.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    with pytest.raises(SystemExit) as stop:
        run("fit", *TOY, "--trainer.devices=1", END % signal.SIGUSR1)
    assert stop.value.code == 128 + signal.SIGUSR1
    assert read_checkpoint("runs/toy/version_0/checkpoints/last.ckpt")["global_step"] == 4


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_command_that_saves_nothing_ends_at_once(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop, signals.ending():
        os.kill(os.getpid(), number)
    assert stop.value.code == 128 + number
    with pytest.raises(SystemExit), signals.ending():
        signals.postpone()
        os.kill(os.getpid(), number)
        assert signals.received() == number
        os.kill(os.getpid(), number)  # a second one does not wait
    assert signal.getsignal(number) is before
