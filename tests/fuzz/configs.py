"""Values of a configuration: the toy domain's and Lightning's keys, each given something else on the command line."""

import io
import json
import os
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from app.door import RENAMED, main
from app.errors import UserError
from app.optim import OptimConfig
from memory import BackboneConfig, MemoryConfig
from tests.fuzz.checkpoints import HERE  # which has put the toy domain on the path
from tests.fuzz.run import Format, names

VALUES = (
    *("-1", "0", "1", "-99999999999999999999", "1e400", "-1e400", ".nan", ".inf", "0.5", "-0.5", "2.5", "1e-320"),
    *("null", "true", "[]", "[1]", "[null]", "{}", "{a: 1}", "abc", "''", "${model}", "${nowhere}", "\u00e9"),
)
TRAINER = (
    *("max_epochs", "max_steps", "limit_train_batches", "limit_val_batches", "val_check_interval", "precision"),
    *("check_val_every_n_epoch", "log_every_n_steps", "accumulate_grad_batches", "gradient_clip_val", "max_time"),
    *("gradient_clip_algorithm", "deterministic", "num_sanity_val_steps", "overfit_batches", "min_epochs", "devices"),
)
KEYS = (
    *(f"model.backbone.{name}" for name in vars(BackboneConfig())),
    *(f"model.backbone.memory.{name}" for name in vars(MemoryConfig())),
    *(f"model.optim.{name}" for name in vars(OptimConfig())),
    *(f"trainer.{name}" for name in TRAINER),
    *("model.compile", "model.init_from", "model.head", "data.batch_size", "data.share"),
    *("seed_everything", "ckpt_path"),
)


def run(path: Path) -> None:
    """One step of training with the values of a file; how the command ends becomes an exception with the file's name
    where it names a key.
    """
    given: dict[str, str] = json.loads(path.read_bytes())
    quiet = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu",
             "--trainer.fast_dev_run=true")  # fmt: skip
    said = io.StringIO()
    eager = torch.compiler.set_stance("force_eager")  # a compiler's minutes are no fault of a value
    with eager, chdir(path.parent), redirect_stdout(io.StringIO()), redirect_stderr(said):
        try:
            values = [f"--{key}={value}" for key, value in given.items()]
            main(["fit", "--config", str(HERE / "toy.yaml"), *quiet, *values])
        except SystemExit as stop:
            line = said.getvalue().strip().splitlines()[-1]
            words = {word for key in given for word in (key.split(".")[-1], RENAMED.get(f"--{key}", ""))}
            named = line.startswith("error: ") and stop.code == 2 and names(line, words)
            raise UserError(f"{path.name if named else 'no key'}: {line}") from None
        finally:
            os.environ.pop("PL_GLOBAL_SEED", None)


def right(data: bytes) -> list[Any]:
    """What is accepted trains; nothing else is to compare."""
    return [None]


def later() -> st.SearchStrategy[bytes]:
    return st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), min_size=1, max_size=2).map(
        lambda given: json.dumps(given).encode()
    )


FORMATS = (Format("config", "fuzzed.json", later(), run, right, share=0.3),)
