"""Steps of every domain and of recall may be recorded once and replayed: losses and scores are as of single steps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback

from app.capture import CaptureSteps
from app.door import main
from app.graphs import CudaGraph

CONF = Path(__file__).parents[2] / "conf"
STEPS = 12
SMALL = [
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.logger=false"),
    *("--trainer.enable_checkpointing=false", "--trainer.limit_val_batches=0", "--trainer.log_every_n_steps=50"),
    *(f"--trainer.max_steps={STEPS}", "--trainer.max_epochs=-1", "--model.backbone.dim=16"),
    *("--model.backbone.dropout=0.2", "--trainer.precision=32-true", "--trainer.capture=false"),
]
TRAININGS = {
    "timeseries": ("timeseries_ett", "--data.source=sample", "--data.look_back=24", "--data.horizon=12"),
    "genomics": (
        *("genomics_sample", "--data.floors=false", "--data.batch_size=8", "--model.head.conv_layers=2"),
        *("--model.head.reverse_complement=augment", "--model.head.hide=0.1", "--data.max_length=60"),
    ),
    "recall": ("recall_aftermath", "--data.batch_size=8", "--trainer.check_val_every_n_epoch=1"),
    "text": (
        "text_lm",
        "--data.length=32",
        "--data.batch_size=4",
        "--data.tbptt=3",
        "--data.tbptt_groups=2",
        "--model.backbone.segment=32",
    ),
}


class Losses(Callback):
    """Loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(float(outputs["loss"]))


class Scores(Callback):
    """What a model answered to every validation batch, in one number, and all scores of every validation."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []
        self.answers: list[float] = []

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.answers.append(float(outputs.double().abs().mean()))

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self.values.append(scores)


class Replays(CaptureSteps):
    """Steps as CUDA graphs, or without a GPU done anew at every replay; counts them."""

    def __init__(self) -> None:
        super().__init__(self.recorded)
        self.replayed = 0

    def recorded(self, work: Any, pool: Any) -> Any:
        graph = work if pool is None else CudaGraph(work, pool)

        def replay() -> Any:
            self.replayed += 1
            return graph()

        return replay


class Answers(Replays):
    """Of evaluation steps alone."""

    def on_train_start(self, trainer: Any, module: Any) -> None:
        pass


def fit_of(domain: str, device: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a domain's small training in a folder, which holds no data."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TITANS_DATA", str(folder))
    config, *options = TRAININGS[domain]
    return ["fit", "--config", str(CONF / f"{config}.yaml"), *SMALL, *options, f"--trainer.accelerator={device}"]


@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("domain", TRAININGS)
def test_replayed_steps_have_the_losses_of_single_ones(
    domain: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = fit_of(domain, device, tmp_path, monkeypatch)
    found = []
    for watching in ("Losses", "Losses,Replays"):
        callbacks = [f"--trainer.callbacks+={__name__}.{name}" for name in watching.split(",")]
        trainer = main([*fit, *callbacks]).trainer
        by_name = {type(callback).__name__: callback for callback in trainer.callbacks}
        found.append(by_name["Losses"].values)
    assert by_name["Replays"].replayed >= STEPS // 2 and len(found[0]) == STEPS
    torch.testing.assert_close(torch.tensor(found[1]), torch.tensor(found[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("domain", TRAININGS)
def test_replayed_evaluations_have_the_scores_of_single_ones(
    domain: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = fit_of(domain, device, tmp_path, monkeypatch)
    fit += ["--trainer.max_steps=4", "--trainer.val_check_interval=1", "--trainer.check_val_every_n_epoch=null"]
    fit += ["--trainer.limit_val_batches=2", "--trainer.num_sanity_val_steps=0"]
    found = []
    for watching in ("Scores", "Scores,Answers"):
        callbacks = [f"--trainer.callbacks+={__name__}.{name}" for name in watching.split(",")]
        trainer = main([*fit, *callbacks]).trainer
        by_name = {type(callback).__name__: callback for callback in trainer.callbacks}
        found.append(by_name["Scores"])
    alone, captured = found
    assert by_name["Answers"].replayed >= 4 and len(alone.values) >= 4
    assert len({*alone.answers}) >= 6, "three validations of two batches must at least see other weights"
    assert captured.answers == pytest.approx(alone.answers, rel=1e-4)
    for one, other in zip(alone.values, captured.values, strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-6, nan_ok=True)
