"""A language model learns the same on any number of devices, also where each keeps but a part of it."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_prep.text import prepare
from tests.domains.text.conftest import SMALL
from tests.processes import DDP, FSDP, QUIET, run_together, trained_alike


@pytest.fixture
def options(corpus: Path) -> list[str]:
    """Documents that leave devices with unequal numbers of tokens, and states carried over pieces of windows."""
    prepare(str(corpus), "byte", workers=1)
    return [
        *(*SMALL, f"--data.corpus={corpus}", "--data.by_document=true", "--data.tbptt=2", "--data.batch_size=35"),
        *("--trainer.max_steps=8", "--trainer.val_check_interval=3"),
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_any_number_of_devices_trains_alike(options: list[str]) -> None:
    trained_alike(options, Path("runs/text_lm"))


def state(path: str) -> dict[str, Tensor]:
    return {name: x for name, x in torch.load(path, map_location="cpu")["state_dict"].items() if isinstance(x, Tensor)}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("accelerator", "strategy"),
    [("cpu", FSDP), *(pytest.param("gpu", strategy, marks=pytest.mark.gpu(2)) for strategy in (DDP, FSDP))],
)
def test_any_number_of_devices_goes_on_from_any_checkpoint(
    options: list[str], accelerator: str, strategy: tuple[str, ...]
) -> None:
    # The checkpoints of both validations: the first is in the middle of a window, and holds the window's state.
    every = "{'class_path': 'ModelCheckpoint', 'init_args': {'mode': 'max', 'save_top_k': -1, 'filename': 'at_{step}'}}"
    fit = ["fit", *options, *QUIET, f"--trainer.callbacks+={every}", f"--trainer.accelerator={accelerator}"]
    fit += ["--trainer.capture=false", "--trainer.precision=64-true"]
    two = [*fit, *strategy]
    run_together(1, fit)
    shutil.copy("runs/text_lm/version_0/checkpoints/at_step=3.ckpt", "of_one.ckpt")
    run_together(2, two, [*two, "--ckpt=of_one.ckpt"])
    shutil.copy("runs/text_lm/version_1/checkpoints/at_step=3.ckpt", "of_two.ckpt")
    run_together(1, [*fit, "--ckpt=of_two.ckpt"])
    alone, *others = (state(f"runs/text_lm/version_{number}/checkpoints/last.ckpt") for number in range(4))
    for other in others:
        torch.testing.assert_close(other, alone, rtol=1e-5, atol=1e-5)
