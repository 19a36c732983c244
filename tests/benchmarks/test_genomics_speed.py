"""The speed of reading DNA: what it reads, and that a machine that misses a bound says so."""

from pathlib import Path

import torch
import yaml

from benchmarks.genomics_speed import CONFIGS, measure, merged, untrained
from domains.genomics.stream import Reader

ROOT = Path(__file__).parents[2]


def test_the_model_is_that_of_the_configs_laid_one_on_the_other() -> None:
    paths = [ROOT / path for path in CONFIGS.split(",")]
    below, above = (yaml.safe_load(path.read_text())["model"] for path in paths)
    module = untrained(paths)
    assert module.backbone.config.dim == above["backbone"]["dim"] != below["backbone"]["dim"]
    assert module.backbone.config.memory.chunk == merged(below, above)["backbone"]["memory"]["chunk"]
    assert module.head.read == above["head"]["init_args"]["read"]


def test_every_way_of_reading_has_a_row_in_bases_a_second() -> None:
    reader = Reader(untrained([ROOT / "conf" / "genomics_sample.yaml"]), torch.device("cpu"), 1024)
    rows = measure(reader, 1024, 2048, 2, {"device": "here", "command": "python -m benchmarks.genomics_speed"})
    assert [row.metric for row in rows] == [
        "sequences of 251 bases",
        "sequences of 1,000 bases",
        "one record of 2,048 bases",
        "from a file, sequences of 1,000 bases",
    ]
    assert all(row.unit == "bases/CPU-s" and row.value > 0 and row.spread is not None for row in rows)
    assert [row.must for row in rows] == [">= 20000"] * 3 + [""]
