"""Two processes that Lightning starts train as one does, and end with it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.distributed import run as torch_run
from torch.distributed.launcher.api import elastic_launch

from app.orphans import end_with_parent
from tests.app.conftest import HERE, QUIET
from tests.app.test_callbacks import curves
from tests.app.test_checkpoints import TOY
from tests.app.test_cli import weights
from tests.processes import assert_ends_with_its_starter, forking, run_together, settle

ROOT = HERE.parent.parent
END = '--trainer.callbacks+={"class_path": "toy.End", "init_args": {"step": 3, "number": %d}}'
DDP = ["--config", str(ROOT / "conf/ddp.yaml"), "--trainer.devices=2"]
# What starts two processes, and on how many machines they believe they are.
LAUNCHERS = {"lightning": 1, "torchrun": 1, "two nodes": 2}


def started(launcher: str, *words: str) -> list[list[str]]:
    """The commands of one verb in two processes: one, or one for each node."""
    nodes = LAUNCHERS[launcher]
    told = ["app", *words, *DDP[:2], f"--trainer.devices={2 // nodes}", f"--trainer.num_nodes={nodes}"]
    if launcher == "lightning":
        return [[sys.executable, "-m", *told]]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    start = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc_per_node={2 // nodes}"]
    start += ["--master_addr=localhost", f"--master_port={port}"]
    return [[*start, f"--node_rank={node}", "-m", *told] for node in range(nodes)]


def forked(commands: list[list[str]]) -> tuple[list[int], str, float]:
    """As `together`, for torchrun on a CPU, without the seconds in which four interpreters import everything."""
    processes = [forking().Process(target=torchrun, args=(Path.cwd(), command)) for command in commands]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    return [process.exitcode for process in processes], Path("log").read_text(), time.time()


def torchrun(folder: Path, command: list[str]) -> None:
    """In a new process: torchrun, which forks its processes from this one."""
    settle(folder, folder / "log")
    from app.door import main

    options = torch_run.parse_args(["--start-method=fork", *command[command.index("torch.distributed.run") + 1 :]])
    config, *_ = torch_run.config_from_args(options)
    elastic_launch(config, main)(options.training_script_args)


def together(commands: list[list[str]]) -> tuple[list[int], str, float]:
    """Run commands side by side, each of several with a GPU of its own where there are some.

    Returns:
        their exit codes, all that they have written, and when the last of their processes had ended.
    """
    running = []
    with open("log", "w") as log:
        for node, command in enumerate(commands):
            sees = {"CUDA_VISIBLE_DEVICES": str(node)} if len(commands) > 1 else {}
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE), *sys.path]), **sees}
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    codes = [process.wait(200) for process in running]
    return codes, Path("log").read_text(), time.time()


GPUS = pytest.mark.gpu(2)
CASES = [("two nodes", "cpu"), *(pytest.param(name, "gpu", marks=GPUS) for name in LAUNCHERS)]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("launcher", "accelerator"), [("forked", "cpu"), CASES[1], CASES[3]])
def test_two_processes_equal_one(run: Callable, launcher: str, accelerator: str) -> None:
    """Same global batches, 51 evaluated samples that two devices cannot share evenly, one run folder, one report.

    In float64, as a GPU chooses its products by the number of rows. That processes which Lightning starts on a CPU are
    one training, a test of signals shows.
    """
    common = ["--config", "toy.yaml", "--data.samples=51", "--model.backbone.dropout=0"]
    common += [f"--trainer.accelerator={accelerator}", "--trainer.capture=false", "--trainer.precision=64-true"]
    run("fit", *common, "--trainer.devices=1")  # toy.yaml says nothing, and Lightning takes all that it finds
    if launcher == "forked":
        run_together(2, ["fit", *common, *QUIET, *DDP[:2]])
        log = "".join(Path(f"rank{rank}.log").read_text() for rank in range(2))
    else:
        codes, log, _ = together(started(launcher, "fit", *common, *QUIET))
        assert not any(codes), log
    assert log.count("best checkpoint: ") == 1
    (alone, _), (two, pictures) = curves(Path("runs/toy/version_0")), curves(Path("runs/toy/version_1"))
    for tag, tolerance in (("train/loss", 1e-6), ("val/mse", 1e-6), ("train/grad_norm", 1e-5)):
        assert list(two[tag].values()) == pytest.approx(list(alone[tag].values()), rel=tolerance), tag
    assert pictures == {"toy/answer": 2}
    first, second = (weights(f"runs/toy/version_{n}/checkpoints/last.ckpt") for n in (0, 1))
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=1e-5, atol=1e-6, msg=name)

    run("predict", *common, *DDP)  # on one device whatever the config says: one file, every row
    assert len(pd.read_csv("runs/toy/version_1/predictions.csv")) == 51


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=GPUS)])
def test_steps_taken_as_a_whole_are_those_of_ddp(run: Callable, accelerator: str) -> None:
    """With 13 samples in a global batch, which two devices cannot share evenly."""
    fit = ["fit", *TOY, *QUIET, "--config", str(ROOT / "conf/ddp.yaml"), f"--trainer.accelerator={accelerator}"]
    fit += ["--data.batch_size=13", "--model.backbone.dropout=0", "--trainer.capture=false"]
    run_together(2, fit, [*fit, "--trainer.callbacks+=toy.TakeWhole"])
    (one, _), (two, _) = (curves(Path(f"runs/toy/version_{n}")) for n in (0, 1))
    for tag in ("train/loss", "val/mse", "train/grad_norm"):
        assert list(two[tag].values()) == pytest.approx(list(one[tag].values()), rel=1e-4), tag
    log = Path("rank0.log").read_text()
    assert "trainer.capture" not in log


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("launcher", "accelerator"), CASES)
def test_others_end_with_a_process_that_was_killed(run: Callable, launcher: str, accelerator: str) -> None:
    killed = [*TOY, *QUIET, f"--trainer.accelerator={accelerator}", END % signal.SIGKILL]
    if accelerator == "cpu":  # whose collectives would fail at once, as those of GPUs do not
        killed.append('--trainer.callbacks+={"class_path": "toy.Hang", "init_args": {"step": 3}}')
    codes, log, ended = (forked if accelerator == "cpu" else together)(started(launcher, "fit", *killed))
    assert 0 not in codes, log
    assert ended - Path("ended").stat().st_mtime < 30, log
    # Lightning ends the processes that it has started by itself, if it notices first.
    said = ["another process of this run has ended", "Forcefully terminating all other processes"]
    assert sum(map(log.count, said)) == 1, log


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_others_end_with_a_process_that_cannot_read_its_data(run: Callable) -> None:
    with pytest.raises(AssertionError) as stop:
        run_together(2, ["fit", *TOY, *QUIET, "--trainer.accelerator=cpu", "--data=toy.OnePartBroken"])
    codes, log = str(stop.value).split("\n", 1)
    assert codes == "exit codes [1, 2]", log
    assert log.count("error: toy.csv, line 3") == log.count("another process of this run has ended") == 1, log


def orphan(talk: Connection) -> None:
    """A process that has started another one of a run; both keep `talk` open as long as they live."""
    if os.fork() == 0:
        end_with_parent()
        talk.send("started")
    time.sleep(60)


def test_no_process_outlives_the_one_that_has_started_it() -> None:
    assert_ends_with_its_starter(orphan)
