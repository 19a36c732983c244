"""Training steps that are recorded once and replayed, against those that Lightning takes one by one."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from toy import NormedHead, ToyData, ToyHead

from app.capture import CaptureSteps
from app.graphs import MOST, WARM_UP, CudaGraph
from app.guard import SkipNonFinite
from app.module import TitansModule
from app.trainer import TitansTrainer
from memory import BackboneConfig, MemoryConfig, wavefront
from tests.reads import as_a_graph

CONFIG = BackboneConfig(dim=8, heads=2, layers=1, dropout=0.2, memory=MemoryConfig(heads=2, chunk=4))
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
BOTH = ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)]


class Losses(Callback):
    """Loss, gradient norm and learning rate of every step."""

    def __init__(self) -> None:
        self.values: list[list[float]] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        guard = next(callback for callback in trainer.callbacks if isinstance(callback, SkipNonFinite))
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        assert isinstance(rate, float) and not trainer.optimizers[0].param_groups[0]["capturable"]
        self.values.append([float(outputs["loss"]), float(guard.norm), rate])


class Recorder:
    """Takes the place of a CUDA graph: what is recorded is done anew at every call, as a graph would do it."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, work: Callable, pool: Any) -> Callable:
        self.recorded += 1
        graph = work if pool is None else CudaGraph(work, pool)

        def replay() -> Any:
            self.replayed += 1
            return graph()

        return replay


def trained(
    folder: Path, device: str, recorder: Callable | None, head: type = NormedHead, **more: Any
) -> tuple[Losses, TitansTrainer]:
    """A training of three epochs of three batches; captured where there is a recorder."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    losses = Losses()
    captures = [*more.pop("more_callbacks", []), *([CaptureSteps(recorder)] if recorder else [])]
    toy = {key: more.pop(key) for key in ("spoil", "samples") if key in more}
    config = more.pop("config", CONFIG)
    trainer = TitansTrainer(
        accelerator=device, devices=1, default_root_dir=folder, callbacks=[SkipNonFinite(), losses, *captures],
        max_epochs=3, enable_checkpointing=False, limit_val_batches=0, gradient_clip_val=0.5, max_skipped=3,
        capture=False, **QUIET, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    trainer.fit(TitansModule(head(8, 3), config), datamodule=ToyData(**{"samples": 50, **toy}))
    return losses, trainer


def weights(trainer: TitansTrainer) -> list[torch.Tensor]:
    optimizer = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
    return [
        value.cpu() for value in [*trainer.lightning_module.state_dict().values(), *optimizer] if torch.is_tensor(value)
    ]


pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


@pytest.mark.parametrize("device", BOTH)
def test_captured_steps_train_what_single_ones_do(tmp_path: Path, device: str) -> None:
    alone, first = trained(tmp_path, device, None)
    recorder = Recorder()
    captured, second = trained(tmp_path, device, recorder)
    assert (recorder.recorded, recorder.replayed) == (1, 9 - WARM_UP)
    assert first.global_step == second.global_step == 9
    torch.testing.assert_close(torch.tensor(captured.values), torch.tensor(alone.values), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weights(second), weights(first), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal", "swa"])
def test_a_step_reads_the_same_memory_whenever_it_is_taken(tmp_path: Path, variant: str) -> None:
    trained(tmp_path, "cpu", lambda work, pool: as_a_graph(work), config=replace(CONFIG, variant=variant, window=2))


def test_a_head_that_reads_what_it_is_given_anew_is_found(tmp_path: Path) -> None:
    class Shifted(ToyHead):
        def embed(self, batch):
            return self.inp(batch[0] + self.shift), None

    class Shift(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            module.head.shift = torch.ones(3)

    with pytest.raises(AssertionError, match=r"work reads other memory than at first, of \[12\] bytes"):
        trained(tmp_path, "cpu", lambda work, pool: as_a_graph(work), head=Shifted, more_callbacks=[Shift()])


@pytest.mark.parametrize("device", BOTH)
@pytest.mark.parametrize("variant", ["lmm", "mac", "mag"])
def test_blocks_work_side_by_side_where_a_graph_launches_them(
    tmp_path: Path, device: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = []
    run = wavefront.run

    def counted(blocks, x, mask, sizes):
        pieces.append(len(sizes))
        return run(blocks, x, mask, sizes)

    monkeypatch.setattr(wavefront, "PIECE", 1)
    monkeypatch.setattr(wavefront, "run", counted)
    memory = replace(CONFIG.memory, chunk=2)
    config = replace(CONFIG, layers=2, dropout=0.0, variant=variant, segment=2, window=2, memory=memory)
    options = {"config": config, "precision": "64-true"}  # rounding grows from step to step
    alone, _ = trained(tmp_path, device, None, **options)
    assert not pieces
    captured, trainer = trained(tmp_path, device, Recorder(), **options)
    assert min(pieces) > 1
    assert not trainer.lightning_module.backbone.side_by_side
    torch.testing.assert_close(torch.tensor(captured.values), torch.tensor(alone.values), rtol=1e-4, atol=1e-6)


class Noted(Callback):
    """Whether blocks work side by side in each training step."""

    def __init__(self) -> None:
        self.values: list[bool] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.values.append(module.backbone.side_by_side)


def test_blocks_wait_for_each_other_where_a_step_gets_no_graph(tmp_path: Path) -> None:
    """Of layouts that do not come again, and of a training that is refused beside validations that are captured."""

    class Cut(ToyData):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            place = self.trainer.fit_loop.epoch_loop.batch_idx
            return [batch[0][:, : 2 + place], batch[1]] if self.trainer.training else batch

    for data, more in ((Cut, {"max_epochs": 1}), (ToyData, {"max_epochs": 4, "accumulate_grad_batches": 2})):
        noted = Noted()
        recorder = Recorder()
        trainer = TitansTrainer(
            accelerator="cpu", default_root_dir=tmp_path, enable_checkpointing=False, capture=False, **QUIET, **more,
            callbacks=[SkipNonFinite(), noted, CaptureSteps(recorder)],
        )  # fmt: skip
        trainer.fit(TitansModule(ToyHead(8, 3), CONFIG), datamodule=data(samples=50, batch_size=10))
        assert noted.values and not any(noted.values)
    assert recorder.recorded  # of the second, validations


@pytest.mark.parametrize("device", BOTH)
def test_a_captured_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path: Path, device: str) -> None:
    counts = []
    for recorder in (None, Recorder()):
        trainer = trained(tmp_path, device, recorder, spoil=[2], samples=80)[1]
        guard = next(callback for callback in trainer.callbacks if isinstance(callback, SkipNonFinite))
        counts.append(guard.state_dict())
        assert all(value.isfinite().all() for value in weights(trainer))
    assert counts[0] == counts[1] and counts[0]["total"] == 3 and recorder.replayed == 15 - WARM_UP


@pytest.mark.parametrize("device", BOTH)
def test_captured_steps_whose_memories_are_measured_say_what_single_ones_do(tmp_path: Path, device: str) -> None:
    class Measure(Callback):
        """Looks at the memory in the second half of the training."""

        def __init__(self) -> None:
            self.found: list[dict[str, float]] = []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            module.backbone.record(trainer.global_step >= 4)

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.found.append({name: float(value) for name, value in module.backbone.health().items()})

    alone = Measure()
    captured = Measure()
    recorder = Recorder()
    trained(tmp_path, device, None, more_callbacks=[alone])
    trained(tmp_path, device, recorder, more_callbacks=[captured])
    assert (recorder.recorded, recorder.replayed) == (2, 9 - 2 * WARM_UP)
    assert [bool(found) for found in captured.found] == [False] * 4 + [True] * 5
    for one, other in zip(alone.found, captured.found, strict=True):
        assert other == pytest.approx(one, rel=1e-3)
    assert captured.found[-1] != captured.found[-2]


def test_no_more_layouts_are_captured_than_fit(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class Cut(ToyData):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            place = self.trainer.fit_loop.epoch_loop.batch_idx
            return [batch[0][:, : 1 + place % (MOST + 2)], batch[1]] if self.trainer.training else batch

    recorder = Recorder()
    trainer = TitansTrainer(
        accelerator="cpu", default_root_dir=tmp_path, callbacks=[SkipNonFinite(), CaptureSteps(recorder)],
        max_epochs=4, enable_checkpointing=False, limit_val_batches=0, capture=False, **QUIET,
    )  # fmt: skip
    data = Cut(samples=10 * (MOST + 2), batch_size=10)
    cycle = BackboneConfig(dim=8, heads=2, layers=1, memory=MemoryConfig(heads=2, chunk=1))
    trainer.fit(TitansModule(ToyHead(8, 3), cycle), datamodule=data)
    assert recorder.recorded == MOST
    assert f"batches of {MOST} layouts are captured, others are not" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"accumulate_grad_batches": 2}, "gradients of several batches are accumulated"),
        ({"profiler": "simple"}, "being profiled"),
    ],
)
def test_what_cannot_be_captured_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, options: dict, why: str
) -> None:
    recorder = Recorder()
    trained(tmp_path, "cpu", recorder, **options)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trainer.capture")]
    assert len(lines) == 1 and why in lines[0] and recorder.recorded == 0


class Asking(ToyHead):
    """A head that waits for the device."""

    def readout(self, hidden, batch):
        return super().readout(hidden, batch) * (1 if hidden.sum().item() > 0 else 2)


def test_a_step_that_refuses_to_be_captured_is_taken_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def refuse(work: Callable, pool: Any) -> Callable:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    losses, trainer = trained(tmp_path, "cpu", refuse)
    alone = trained(tmp_path, "cpu", None)[0]
    assert losses.values == alone.values
    assert not trainer.lightning_module.backbone.side_by_side
    assert "cannot be captured: operation not permitted when stream is capturing\n" in capsys.readouterr().out


@pytest.mark.gpu
def test_a_step_that_waits_for_the_device_goes_on_kernel_by_kernel(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    recorder = Recorder()
    losses = trained(tmp_path, "gpu", recorder, head=Asking)[0]
    alone = trained(tmp_path, "gpu", None, head=Asking)[0]
    torch.testing.assert_close(torch.tensor(losses.values), torch.tensor(alone.values), rtol=1e-4, atol=1e-6)
    assert "cannot be captured" in capsys.readouterr().out and recorder.replayed == 0
