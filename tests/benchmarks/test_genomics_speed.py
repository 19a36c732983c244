"""The speed of reading DNA: what it reads, and that a machine that misses a bound says so."""

from pathlib import Path

import pytest
import torch

from app.module import TitansModule
from benchmarks.genomics_speed import measure, untrained
from domains.genomics.stream import Reader

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def module() -> TitansModule:
    options = ["--model.backbone.dim=16", "--model.head.read=strands", "--data.source=sample"]
    return untrained(["--config", str(ROOT / "conf" / "genomics_sample.yaml"), *options])


def test_the_model_is_that_of_the_config_and_the_options(module: TitansModule) -> None:
    assert (module.backbone.config.dim, module.head.read) == (16, "strands")
    assert module.head.norm.weight.shape == (32,)


def test_every_way_of_reading_has_a_row_in_bases_a_second(module: TitansModule) -> None:
    reader = Reader(module, torch.device("cpu"), 1024)
    rows = measure(reader, 1024, 2048, 2, {"device": "here", "command": "python -m benchmarks.genomics_speed"})
    assert [row.metric for row in rows] == [
        "sequences of 251 bases",
        "sequences of 1,000 bases",
        "one record of 2,048 bases",
        "from a file, sequences of 1,000 bases",
    ]
    assert all(row.unit == "bases/CPU-s" and row.value > 0 and row.spread is not None for row in rows)
    assert [row.must for row in rows] == [">= 20000"] * 3 + [""]
