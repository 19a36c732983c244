"""Evaluation steps whose forward pass is recorded once and replayed, against those launched kernel by kernel."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from test_capture import BOTH, CONFIG, QUIET, Asking, Recorder
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor
from toy import NormedHead, ToyData

from app.capture import CaptureSteps, evaluation_refusal
from app.graphs import WARM_UP
from app.guard import SkipNonFinite
from app.module import TitansModule
from app.trainer import TitansTrainer
from memory import BackboneConfig
from tests.reads import as_a_graph

EPOCHS = 5


class Scores(Callback):
    """The score of every validation, and that of a test."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_validation_end(self, trainer, module):
        self.values.append(float(trainer.callback_metrics["val/mse"]))

    def on_test_end(self, trainer, module):
        self.values.append(float(trainer.callback_metrics["test/mse"]))


class Evaluation(CaptureSteps):
    """Captures no training step, so that what is recorded is an evaluation batch's."""

    def on_train_start(self, trainer, module):
        pass


class Ragged(ToyData):
    """A last evaluation batch of more tokens than the others have."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if not self.trainer.training and len(batch[0]) == 12:
            return [batch[0].repeat(1, 2, 1), batch[1]]
        return batch


def trainer_of(
    folder: Path, device: str, recorder: Callable | None, *callbacks: Callback, **more: Any
) -> TitansTrainer:
    captures = [Evaluation(recorder)] if recorder else []
    return TitansTrainer(
        accelerator=device, devices=1, default_root_dir=folder, callbacks=[SkipNonFinite(), *captures, *callbacks],
        enable_checkpointing=False, capture=False, max_epochs=EPOCHS, **{**QUIET, **more},
    )  # fmt: skip


def evaluated(
    folder: Path,
    device: str,
    recorder: Callable | None,
    *callbacks: Callback,
    data: type = ToyData,
    head: type = NormedHead,
    config: BackboneConfig = CONFIG,
    **more: Any,
) -> list[float]:
    """Scores of a training's validations, of four batches each, and of a test of what it trained."""
    scores = Scores()
    trainer = trainer_of(folder, device, recorder, scores, *callbacks, **more)
    torch.manual_seed(0)
    module = TitansModule(head(8, 3), config)
    trainer.fit(module, datamodule=data(samples=50))
    trainer.test(module, datamodule=data(samples=50), verbose=False)
    assert module.answer is None
    return scores.values


def close(ours: list[float], theirs: list[float]) -> None:
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("device", BOTH)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])  # autocast keeps what it has made of a weight
def test_a_captured_validation_scores_what_has_been_trained_since(tmp_path: Path, device: str, precision: Any) -> None:
    alone = evaluated(tmp_path, device, None, precision=precision)
    assert len({*alone[:EPOCHS]}) == EPOCHS, "a training that changes nothing would tell nothing"
    recorder = Recorder()
    close(evaluated(tmp_path, device, recorder, precision=precision), alone)
    # 50 samples are two batches of 13 and two of 12; a test has graphs of its own, for which these come too seldom
    assert (recorder.recorded, recorder.replayed) == (2, 4 * EPOCHS - 2 * WARM_UP)


@pytest.mark.parametrize("device", BOTH)
def test_the_check_before_a_training_is_captured_too(tmp_path: Path, device: str) -> None:
    recorder = Recorder()
    sanity = {"num_sanity_val_steps": -1}
    close(evaluated(tmp_path, device, recorder, **sanity), evaluated(tmp_path, device, None, **sanity))
    assert (recorder.recorded, recorder.replayed) == (2, 4 * (EPOCHS + 1) - 2 * WARM_UP)


@pytest.mark.parametrize("device", BOTH)
def test_training_and_evaluation_are_captured_beside_each_other(tmp_path: Path, device: str) -> None:
    recorder = Recorder()
    close(evaluated(tmp_path, device, None, CaptureSteps(recorder)), evaluated(tmp_path, device, None))
    assert recorder.recorded == 3


@pytest.mark.parametrize("device", BOTH)
def test_batches_of_another_layout_are_not_answered_by_its_graph(tmp_path: Path, device: str) -> None:
    recorder = Recorder()
    close(evaluated(tmp_path, device, recorder, data=Ragged), evaluated(tmp_path, device, None, data=Ragged))
    assert recorder.recorded == 2


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal", "swa"])
def test_an_evaluation_reads_the_same_memory_whenever_it_comes(tmp_path: Path, variant: str) -> None:
    config = replace(CONFIG, variant=variant, window=2)
    evaluated(tmp_path, "cpu", lambda work, pool: as_a_graph(work), config=config)


@pytest.mark.parametrize("device", BOTH)
def test_weights_that_have_moved_are_read_where_they_are(tmp_path: Path, device: str) -> None:
    class Move(Callback):
        """Gives the module other tensors, as some ways of averaging weights do."""

        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 3:
                self.kept = [parameter.data for parameter in module.parameters()]
                for parameter in module.parameters():
                    parameter.data = parameter.data.clone()

    recorder = Recorder()
    close(evaluated(tmp_path, device, recorder, Move()), evaluated(tmp_path, device, None, Move()))
    assert recorder.recorded == 4


@pytest.mark.parametrize("device", BOTH)
def test_a_test_after_a_training_has_graphs_in_a_pool_of_its_own(
    tmp_path: Path, device: str, capsys: pytest.CaptureFixture
) -> None:
    recorder = Recorder()
    captures = CaptureSteps(recorder)
    trainer = trainer_of(tmp_path, device, None, captures)
    module, data = TitansModule(NormedHead(8, 3), CONFIG), ToyData(samples=100)
    trainer.fit(module, datamodule=data)
    first, recorded = captures.pool, recorder.recorded
    trainer.test(module, datamodule=data, verbose=False)
    assert captures.pool is not first and recorder.recorded == recorded + 1  # of its seven batches, five are alike
    assert "cannot be captured" not in capsys.readouterr().out
    captures.pool.failed = True
    trainer.test(module, datamodule=data, verbose=False)
    assert recorder.recorded == recorded + 1


@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_an_evaluation_that_waits_for_the_device_goes_on_kernel_by_kernel(
    tmp_path: Path, device: str, capsys: pytest.CaptureFixture
) -> None:
    def refuse(work: Callable, pool: Any) -> Callable:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    recorder = Recorder() if device == "gpu" else refuse
    close(evaluated(tmp_path, device, recorder, head=Asking), evaluated(tmp_path, device, None, head=Asking))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trainer.capture")]
    assert len(lines) == 1
    said = (
        "trainer.capture: all steps are launched kernel by kernel, as one of the evaluation steps cannot be captured: "
    )
    assert lines[0].startswith(said)


@pytest.mark.parametrize("device", BOTH)
def test_nothing_is_replayed_once_an_evaluation_cannot_be_captured(tmp_path: Path, device: str) -> None:
    class Waiting(NormedHead):
        """It waits for the device in evaluations alone."""

        def readout(self, hidden, batch):
            return super().readout(hidden, batch) * (1 if self.training or hidden.sum().item() > -1e9 else 2)

    class Refusing(Recorder):
        def __call__(self, work, pool):
            if not torch.is_grad_enabled() and pool is None:
                raise RuntimeError("operation not permitted when stream is capturing")
            return super().__call__(work, pool)

    recorder = Refusing()
    captured = evaluated(tmp_path, device, None, CaptureSteps(recorder), head=Waiting)
    close(captured, evaluated(tmp_path, device, None, head=Waiting))
    # a layout of evaluation batches comes twice a validation, and is recorded in the second
    assert recorder.replayed == 2 * 3 - WARM_UP


def test_an_evaluation_that_is_profiled_is_not_captured_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    recorder = Recorder()
    evaluated(tmp_path, "cpu", recorder, profiler="simple")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trainer.capture")]
    assert lines == ["trainer.capture: evaluation steps are launched kernel by kernel, as they are being profiled"]
    assert recorder.recorded == 0


def test_weights_that_devices_gather_from_each_other_are_in_no_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tmp_path, "cpu", None)
    module = TitansModule(NormedHead(8, 3), CONFIG)
    trainer.strategy.model = module
    assert evaluation_refusal(trainer, module) == ""
    trainer.strategy.model = torch.nn.Sequential(module)
    assert "gather" in evaluation_refusal(trainer, module)
    trainer.strategy.model = module
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    mesh = init_device_mesh("cpu", (1,))
    try:
        module.head.out.weight = torch.nn.Parameter(distribute_tensor(module.head.out.weight, mesh, [Replicate()]))
        assert "gather" in evaluation_refusal(trainer, module)
    finally:
        torch.distributed.destroy_process_group()
