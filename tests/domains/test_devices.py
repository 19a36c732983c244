"""On two GPUs every domain trains as on one, whether each keeps the whole model or a part of it."""

from pathlib import Path

import pandas as pd
import pytest

from domains.timeseries.series import sample_series
from tests.processes import DDP, FSDP, ROOT, assert_alike, assert_same_losses, trained

TEXTS = ("lmm", "mac", "mag")
TRAININGS = {
    **{name: ("text_lm", "--data.source=sample", f"--model.backbone.variant={name}") for name in TEXTS},
    "genomics": (
        *("genomics_sample", "--data.floors=false", "--trainer.max_epochs=2", "--trainer.sync_batchnorm=true"),
        "--model.head.dropout=0",
    ),
    "timeseries": (
        *("timeseries_csv", "--data.file=mine.csv", "--data.look_back=48", "--data.horizon=12"),
        "--trainer.max_epochs=5",
    ),
}
# Steps of text; rounding in float32 has grown beyond what is compared after more.
STEPS = {"64-true": 40, "32-true": 8}


def options_of(training: str, precision: str) -> list[str]:
    """What a training is told on any number of devices; its table of series is written here."""
    name, *options = TRAININGS[training]
    if name == "text_lm":
        options += [f"--trainer.max_steps={STEPS[precision]}", "--trainer.val_check_interval=4"]
        options += ["--trainer.limit_val_batches=2"]
    if name == "timeseries_csv":
        series = sample_series(variables=3, rows=1500, seed=1)
        table = pd.DataFrame(series.values, columns=series.columns)
        table.insert(0, "date", pd.DatetimeIndex(series.stamps.astype("datetime64[ns]")))
        table.to_csv("mine.csv", index=False)
    shared = ["--model.backbone.dropout=0", "--trainer.capture=false", f"--trainer.precision={precision}"]
    return ["--config", str(ROOT / f"conf/{name}.yaml"), *options, *shared]


@pytest.mark.gpu(2)
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("training", "precision"), [*((name, "64-true") for name in TRAININGS), *((name, "32-true") for name in TEXTS)]
)
def test_two_gpus_train_alike(training: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 on matrix products; in float32 with kernels, where Adam makes steps of mere rounding."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    options = options_of(training, precision)
    folder = Path("runs") / Path(options[1]).stem
    alone = trained(1, options, folder, "gpu")
    judge = assert_alike if precision == "64-true" else assert_same_losses
    for strategy in (DDP, (*DDP, "--trainer.capture=true"), FSDP):
        judge(trained(2, [*options, *strategy], folder, "gpu"), alone)
