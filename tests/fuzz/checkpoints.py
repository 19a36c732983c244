"""Checkpoints: damaged files, and files that hold other things than training writes."""

import functools
import io
import logging
import os
import shutil
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from app.cli import stored_config
from app.door import main
from app.module import load_module, read_checkpoint
from app.trainer import TitansTrainer
from tests.fuzz.damage import BYTES, VALUES, Draw, damaged, damaged_tree
from tests.fuzz.run import Format

HERE = Path(__file__).parents[1] / "app"
sys.path.insert(0, str(HERE))  # where the toy domain lies
for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.ERROR)
QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
         "enable_model_summary": False, "max_steps": 9}  # fmt: skip
PLAIN = tuple(value for value in VALUES if not isinstance(value, str) or value.isascii())


@functools.cache
def trained() -> bytes:
    """A checkpoint of eight steps of the toy domain."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        shutil.copy(HERE / "toy.yaml", folder)
        os.chdir(folder)
        try:
            main(["fit", "--config", "toy.yaml", "--trainer.enable_progress_bar=false"])
            return Path("runs/toy/version_0/checkpoints/last.ckpt").read_bytes()
        finally:
            os.chdir(here)


def content(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@st.composite
def crafted(draw: Draw) -> bytes:
    """A checkpoint in which a value or two are others, or something else altogether."""
    tree = content(trained())
    values = (*PLAIN, torch.zeros(()), torch.zeros(3), torch.full((8, 8), torch.nan), "bogus", {"a": torch.zeros(2)})
    if draw(st.booleans()):  # what stands at the top is what is looked at first
        key = draw(st.sampled_from(sorted(tree)))
        tree[key] = draw(st.sampled_from(values))
        if draw(st.booleans()):
            del tree[draw(st.sampled_from(sorted(tree)))]
        return saved(tree)
    return saved(draw(damaged_tree(tree, values)))


def weights(path: Path) -> dict[str, list[float]]:
    """Those of a model that is loaded, after it has gone on training by a step from the same file."""
    from toy import ToyData

    stored_config(read_checkpoint(path), path)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        TitansTrainer(**QUIET).fit(load_module(path).train(), datamodule=ToyData(), ckpt_path=path)
    return {name: value.tolist() for name, value in load_module(path).named_parameters()}


def right(data: bytes) -> list[Any]:
    """The weights that the file holds by torch's own reader, which a whole file held before."""
    state = content(data)["state_dict"]
    names = [name for name in content(trained())["state_dict"] if name != "head._extra_state" and name != "head.scale"]
    found = {name: state[name].tolist() for name in names}
    if not all(torch.equal(state[name], content(trained())["state_dict"][name]) for name in names):
        raise ValueError("other weights than were saved")
    return [found]


FORMATS = (
    Format("crafted.ckpt", "fuzzed.ckpt", crafted(), weights, right, share=0.3),
    Format(
        "damaged.ckpt",
        "fuzzed.ckpt",
        st.builds(trained).flatmap(lambda d: damaged(d, BYTES)),
        weights,
        right,
        share=0.3,
    ),  # fmt: skip
)
