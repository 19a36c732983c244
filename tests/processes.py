"""Runs of the command line in several processes that train together, and what must not depend on their number.

The processes start as torchrun starts them on so many nodes, but on this machine, on its CPU or each on a GPU of its
own. They are forked from a server that has imported everything once, as each would take seconds to do so by itself.
"""

import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from app.runs import curves_folder

ROOT = Path(__file__).parents[1]
DDP = ("--config", str(ROOT / "conf/ddp.yaml"))
FSDP = ("--config", str(ROOT / "conf/fsdp.yaml"))
QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu")
TIMEOUT = 100  # seconds that a process may take


@dataclass
class Trained:
    """What a run has left.

    Args:
        curves: values of each scalar in TensorBoard, step by step.
        weights: the tensors of last.ckpt.
        fitted: the metrics that `fit` found last.
        tested: the metrics of `test` on last.ckpt.
    """

    curves: dict[str, list[float]]
    weights: dict[str, Tensor]
    fitted: dict[str, float]
    tested: dict[str, float]


def trained_alike(options: Sequence[str], folder: Path) -> Trained:
    """Train and test in one, two and three processes, which must see the same losses and end alike.

    Args:
        options: of all commands; without dropout, as each process draws its own.
        folder: of the runs.

    Returns:
        the run in three processes.
    """
    alone = trained(1, options, folder)
    for world in (2, 3):
        found = trained(world, [*options, *DDP], folder)
        assert_alike(found, alone)
    return found


def assert_alike(found: Trained, alone: Trained) -> None:
    """Two runs have seen the same losses and ended alike."""
    assert_same_losses(found, alone)
    torch.testing.assert_close(found.weights, alone.weights, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert found.tested == pytest.approx(alone.tested, rel=1e-6)


def assert_same_losses(found: Trained, alone: Trained) -> None:
    """Two runs have seen the same losses, in training and in the test."""
    for tag in ("train/loss", "train/grad_norm"):
        assert found.curves[tag] == pytest.approx(alone.curves[tag], rel=1e-5), tag
    assert found.tested == pytest.approx(alone.tested, rel=1e-5) and len(found.tested) > 1


def trained(world: int, options: Sequence[str], folder: Path, accelerator: str = "cpu") -> Trained:
    """Fit and test in `world` processes."""
    options = [*options, *QUIET, f"--trainer.accelerator={accelerator}", "--trainer.log_every_n_steps=1"]
    metrics = run_together(world, ["fit", *options], ["test", *options, "--ckpt=last"])
    newest = max(folder.iterdir(), key=lambda path: int(path.name.removeprefix("version_")))
    events = EventAccumulator(str(curves_folder(newest))).Reload()
    curves = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    state = torch.load(newest / "checkpoints" / "last.ckpt", map_location="cpu")["state_dict"]
    return Trained(curves, {name: value for name, value in state.items() if isinstance(value, Tensor)}, *metrics)


def forking() -> ForkServerContext:
    """What starts processes; all tests of this process share the server that forks them."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.preload"])
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # With the second, a module that looks for a GPU as it is imported does not start CUDA, which forks could not use.
    with mock.patch.dict(os.environ, {"PYTHONPATH": path, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}):
        ensure_running()
    return context


def assert_ends_with_its_starter(start: Callable[..., None], *args: Any) -> None:
    """A process that is killed leaves none behind that it has started.

    Args:
        start: in a process of its own, starts another one and sends one word over the connection that it is given last;
            both keep that open as long as they live.
        args: before the connection.
    """
    context = forking()
    ours, theirs = context.Pipe()
    starter = context.Process(target=start, args=(*args, theirs))
    starter.start()
    theirs.close()
    assert ours.recv() == "started"
    starter.kill()
    starter.join()
    assert ours.poll(20), "it lives on"
    with pytest.raises(EOFError):
        ours.recv()


def run_together(world: int, *commands: Sequence[str]) -> list[dict[str, float]]:
    """Run one command after another in `world` processes, each of which sees one GPU at most, in this folder.

    Returns:
        the metrics of each command, of the first process.

    Raises:
        AssertionError: a process failed or hung; the message holds what all have written.
    """
    context = forking()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    logs = [Path(f"rank{rank}.log").absolute() for rank in range(world)]
    started = []
    for rank, log in enumerate(logs):
        # what torchrun tells a process: https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
        told = {
            "TORCHELASTIC_RUN_ID": "test",
            "RANK": rank,
            "GROUP_RANK": rank,
            "LOCAL_RANK": 0,
            "WORLD_SIZE": world,
            "LOCAL_WORLD_SIZE": 1,
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": port,
            "CUDA_VISIBLE_DEVICES": rank,
        }
        environment = {**os.environ, **{name: str(value) for name, value in told.items()}}
        node = [f"--trainer.num_nodes={world}", "--trainer.devices=1"]
        mine = [[*command, *node] for command in commands]
        process = context.Process(target=_run, args=(environment, Path.cwd(), log, mine))
        process.start()
        started.append(process)
    try:
        for process in started:
            process.join(TIMEOUT)
        codes = [process.exitcode for process in started]
        assert codes == [0] * world, f"exit codes {codes}\n" + "\n".join(log.read_text() for log in logs)
    finally:
        for process in started:
            process.kill()
    return json.loads(logs[0].with_suffix(".json").read_text())


def settle(folder: Path, log: Path) -> None:
    """In a new process: work in `folder` and write all output into `log`."""
    os.chdir(folder)
    sys.stdout = sys.stderr = log.open("a", buffering=1)  # stays open for a traceback
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)


def _run(environment: dict[str, str], folder: Path, log: Path, commands: Sequence[Sequence[str]]) -> None:
    """In a new process: the commands, with all output in `log` and the metrics in a JSON beside it."""
    os.environ.clear()
    os.environ.update(environment)
    settle(folder, log)

    from app.door import main  # not above: a test may read this module before it has set its environment

    measured = [main(list(command)).trainer.callback_metrics for command in commands]
    values = [{name: value.item() for name, value in metrics.items()} for metrics in measured]
    log.with_suffix(".json").write_text(json.dumps(values))
