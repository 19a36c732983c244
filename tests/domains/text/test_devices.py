"""A language model learns the same on any number of devices."""

from pathlib import Path

import pytest

from data_prep.text import prepare
from tests.domains.text.conftest import SMALL
from tests.processes import trained_alike


@pytest.mark.slow
def test_any_number_of_devices_trains_alike(corpus: Path) -> None:
    """Ends of documents leave devices with unequal numbers of tokens; states are carried over pieces of windows."""
    prepare(str(corpus), "byte", workers=1)
    options = [
        *(*SMALL, f"--data.corpus={corpus}", "--data.by_document=true", "--data.tbptt=2", "--data.batch_size=35"),
        *("--trainer.max_steps=8", "--trainer.val_check_interval=4"),
    ]
    trained_alike(options, Path("runs/text_lm"))
