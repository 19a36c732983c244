"""What a run writes down for TensorBoard."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter
from toy import ToyHead

from app.callbacks import Pictures
from app.guard import SkipNonFinite
from app.module import TitansModule
from app.optim import OptimConfig
from app.runs import curves_folder
from memory import BackboneConfig


def curves(folder: Path) -> tuple[dict[str, dict[int, float]], dict[str, int]]:
    """Scalars, {tag: {step: value}}, and the number of pictures of each tag."""
    events = EventAccumulator(str(curves_folder(folder))).Reload()
    tags = events.Tags()
    scalars = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in tags["scalars"]}
    return scalars, {tag: len(events.Images(tag)) for tag in tags["images"]}


def test_curves_and_pictures(run: Callable) -> None:
    run("fit", "--config", "toy.yaml", "--trainer.gradient_clip_val=1e-9", "--model.optim.warmup=2")
    scalars, pictures = curves(Path("runs/toy/version_0"))
    steps = [0, 1, 2, 3, 4, 5]
    assert {"train/loss", "train/lr", "train/grad_norm", "train/tokens_per_second", "val/mse"} <= scalars.keys()
    schedule = OptimConfig(warmup=2)
    expected = [schedule.lr * schedule.factor(step, 6) for step in steps]
    assert list(scalars["train/lr"].values()) == pytest.approx(expected)
    assert list(scalars["train/loss"]) == list(scalars["train/tokens_per_second"]) == steps
    assert min(scalars["train/grad_norm"].values()) > 1e-6  # before clipping
    assert list(scalars["memory/layer0/theta_mean"]) == [4]  # every fifth log step
    assert list(scalars["val/mse"]) == [2, 5]
    assert pictures == {"toy/answer": 2}  # once per validation, and none of the sanity check


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, [3, 6, 9, 12]), (1e9, [3, 12])])
def test_pictures_of_quick_validations_are_the_first_and_the_last(
    run: Callable, monkeypatch: pytest.MonkeyPatch, seconds: float, steps: list[int]
) -> None:
    monkeypatch.setattr(Pictures, "SECONDS", seconds)
    run("fit", "--config", "toy.yaml", "--trainer.max_epochs=4")
    events = EventAccumulator(str(curves_folder(Path("runs/toy/version_0")))).Reload()
    assert [event.step for event in events.Images("toy/answer")] == steps


def test_accumulated_gradients_are_logged_once_per_optimiser_step(run: Callable) -> None:
    run("fit", "--config", "toy.yaml", "--trainer.accumulate_grad_batches=3", "--trainer.max_epochs=5")
    scalars, _ = curves(Path("runs/toy/version_0"))
    assert list(scalars["train/grad_norm"]) == list(scalars["train/loss"]) == [0, 1, 2, 3, 4]
    assert list(scalars["memory/layer0/theta_mean"]) == [4]


def test_a_training_does_not_depend_on_tensorboard(
    run: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Neither a full disk nor a folder that is deleted ends it, and a disk that is full is told of once."""

    whole, written = RecordWriter.write, []

    def full(writer: RecordWriter, data: bytes) -> None:
        written.append(data)
        if len(written) > 5:
            raise OSError(28, "No space left on device")
        whole(writer, data)

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="version_0: TensorBoard cannot") as warned:
        patch.setattr(RecordWriter, "write", full)
        run("fit", "--config", "toy.yaml")
    assert sum("TensorBoard" in str(warning.message) for warning in warned) == 1
    said = capsys.readouterr()
    assert "best checkpoint: " in said.out and "Traceback" not in said.err

    def delete(module: TitansModule, *_: object) -> None:
        if module.trainer.global_step == 2:
            shutil.rmtree("runs")

    monkeypatch.setattr(TitansModule, "on_train_batch_end", delete)
    with pytest.warns(UserWarning, match="TensorBoard cannot write there .No such file"):
        run("fit", "--config", "toy.yaml")
    assert {path.name for path in Path("runs").rglob("*.ckpt")} == {"best.ckpt", "last.ckpt"}


def test_compiling_changes_no_checkpoint_key() -> None:
    config = BackboneConfig(dim=8, heads=2, layers=1)
    config.memory.heads = 2
    plain, compiled = (TitansModule(ToyHead(8, 3), config, compile=switch) for switch in (False, True))
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    assert compiled.backbone._compiled_call_impl is not None and plain.backbone._compiled_call_impl is None


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_no_step_waits_for_the_device(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between log steps nothing makes the host wait: not the loss, nor whether the step is skipped, nor the step."""

    def watched(owner: type, name: str) -> None:
        method = getattr(owner, name)

        def watch(*args: object, **kwargs: object) -> object:
            torch.cuda.set_sync_debug_mode("error")
            try:
                return method(*args, **kwargs)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        monkeypatch.setattr(owner, name, watch)

    watched(TitansModule, "training_step")
    watched(TitansModule, "backward")
    for name in ("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end"):
        watched(SkipNonFinite, name)
    watched(TitansModule, "lr_scheduler_step")
    run("fit", "--config", "toy.yaml", "--trainer.accelerator=gpu", "--trainer.devices=1", "--trainer.max_epochs=1")
