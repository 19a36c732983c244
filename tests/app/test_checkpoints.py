"""Checkpoints that survive: written whole, found damaged, and gone on from as if nothing had happened."""

import errno
import json
import os
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from app.errors import UserError
from app.files import replacing, save_tensors, write_json
from app.module import read_checkpoint
from app.reading import Unreadable

TOY = ("--config", "toy.yaml", "--data.samples=80")  # five steps an epoch, two epochs
INSIDE = ("--trainer.val_check_interval=2",)
EACH = ("--trainer.save_minutes=0", *INSIDE)
STEPS = ("--trainer.max_epochs=-1", "--trainer.max_steps=10", "--trainer.accumulate_grad_batches=2")
ENDINGS = [  # options of fit, and what ends it
    ((), {"step": 4, "number": signal.SIGTERM}),  # in the last step of an epoch
    ((), {"step": 5, "number": signal.SIGINT, "validating": True}),  # in the validation behind an epoch
    (EACH, {"step": 4}),  # between two validations of an epoch
    (EACH, {"step": 9, "number": signal.SIGUSR1, "validating": True}),  # in a validation within an epoch
    (STEPS, {"step": 1}),  # from the file of the start
]


def states(run: str) -> dict[str, Any]:
    """What a training leaves of its model and optimiser, by file."""
    wanted = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers")
    return {
        path.stem: {key: value for key, value in read_checkpoint(path).items() if key in wanted}
        for path in Path(run, "checkpoints").glob("*.ckpt")
    }


def assert_equal(there: Any, here: Any, name: str = "") -> None:
    if isinstance(there, torch.Tensor):
        assert torch.equal(there, here), name
    elif isinstance(there, dict | list):
        keys, others = (thing.keys() if isinstance(thing, dict) else range(len(thing)) for thing in (there, here))
        assert keys == others, name
        for key in keys:
            assert_equal(there[key], here[key], f"{name}.{key}")
    else:
        assert there == here, name


@pytest.mark.slow
def test_an_ended_training_goes_on_bit_for_bit(run: Callable) -> None:
    straight = {}
    for number, (options, end) in enumerate(ENDINGS):
        if options not in straight:
            straight[options] = f"runs/straight/version_{len(straight)}"
            run("fit", *TOY, *options, "--trainer.logger.name=straight")
        callback = json.dumps({"class_path": "toy.End", "init_args": end})
        with pytest.raises(SystemExit) as stop:
            run("fit", *TOY, *options, f"--trainer.callbacks+={callback}")
        assert stop.value.code == (128 + end["number"] if "number" in end else 9)
        run("fit", *TOY, *options, "--ckpt=last")
        assert_equal(states(straight[options]), states(f"runs/toy/version_{number}"), f"{options} {end} ")


def test_every_flipped_bit_is_seen(tmp_path: Path) -> None:
    whole, flipped, plain = (tmp_path / name for name in ("whole.ckpt", "flipped.ckpt", "plain.ckpt"))
    content = {"state_dict": {"a": torch.rand(3, 5), "b": torch.rand(2000)}, "name": "x"}
    save_tensors(whole, content)
    assert_equal(content, read_checkpoint(whole))
    size, places = whole.stat().st_size, random.Random(0)
    for place in [*places.sample(range(8 * size), 60), *places.sample(range(8 * size - 800, 8 * size), 60)]:
        changed = bytearray(whole.read_bytes())
        changed[place // 8] ^= 1 << place % 8
        flipped.write_bytes(changed)
        with pytest.raises(Unreadable, match="flipped.ckpt: damaged"):
            read_checkpoint(flipped)

    torch.save(content, plain)  # by another hand: its members have checksums of their own
    assert_equal(content, read_checkpoint(plain))
    changed = bytearray(plain.read_bytes())
    changed[changed.index(content["state_dict"]["b"].numpy().tobytes()) + 77] ^= 1
    plain.write_bytes(changed)
    with pytest.raises(Unreadable, match="plain.ckpt: damaged or no checkpoint, in plain/data/1"):
        read_checkpoint(plain)


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Let no file grow past so many bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.filterwarnings("ignore:.*TensorBoard cannot write there", "ignore:.*not every picture could be written")
def test_what_cannot_be_written_is_one_line_and_leaves_the_last_good_file(
    run: Callable, refused: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run("fit", *TOY, "--trainer.max_epochs=1")
    last = Path("runs/toy/version_0/checkpoints/last.ckpt")
    before = last.read_bytes()
    capsys.readouterr()

    with at_most(len(before) // 4):
        line = refused("fit", *TOY, "--trainer.logger.version=0")
    assert "runs/toy/version_0/checkpoints: last.ckpt cannot be written there (File too large)" in line
    assert last.read_bytes() == before and not list(last.parent.glob("*.part"))
    assert "best checkpoint" not in capsys.readouterr().out

    run("predict", *TOY)
    run("test", *TOY)
    for command, name in (("predict", "predictions.csv"), ("test", "results.json")):
        kept = Path("runs/toy/version_0", name).read_text()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            line = refused(command, *TOY)
        assert f"runs/toy/version_0: {name} cannot be written there (No space left on device)" in line
        assert Path("runs/toy/version_0", name).read_text() == kept

    Path("runs/toy/version_1").mkdir()
    Path("runs/toy/version_1/checkpoints").write_text("in the way")
    line = refused("fit", *TOY, "--trainer.logger.version=1")
    assert "runs/toy/version_1/checkpoints: last.ckpt cannot be written there (" in line
    Path("in_the_way").write_text("")
    line = refused("fit", *TOY, "--trainer.logger.save_dir=in_the_way")
    assert "in_the_way/toy/version_0: the run cannot be written there (" in line


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    write_json(path, {"a": [1.5, float("nan")], "b": {"c": float("-inf"), "d": "text"}})
    assert json.loads(path.read_text()) == {"a": [1.5, None], "b": {"c": None, "d": "text"}}
    with pytest.raises(KeyError), replacing(path) as part:
        part.write_text("half")
        raise KeyError
    assert [file.name for file in path.parent.iterdir()] == ["x.json"] and "1.5" in path.read_text()
    os.mkfifo(tmp_path / "pipe")
    for place in (Path("."), Path("/"), tmp_path, tmp_path / "pipe"):
        with pytest.raises(UserError, match="cannot be written there"):
            write_json(place, {})
    assert (tmp_path / "pipe").is_fifo()  # a rename would take its place, and that of /dev/null


def test_the_last_run_of_a_name_goes_on_only_as_it_was(
    run: Callable, refused: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A run that died before its first file leaves an older one as the last, perhaps of another seed and data."""
    run("fit", *TOY, "--trainer.max_epochs=1")
    Path("runs/toy/version_1").mkdir()
    for change, named in (
        (["--seed_everything=1"], "seed_everything was 0 and is 1"),
        (["--data.batch_size=8"], "data.init_args.batch_size was 16 and is 8"),
        (["--trainer.gradient_clip_val=2"], "trainer.gradient_clip_val was 1.0 and is 2."),
        (["--model.optim.lr=0.1", "--trainer.max_epochs=3"], "trainer.max_epochs was 1 and is 3; model.optim.lr was"),
        ([], "data.sha256 was '2.0' and is '3.0'"),
    ):
        monkeypatch.setenv("TOY_SCALE", "2" if change else "3")
        command = ("fit", *TOY, "--trainer.max_epochs=1", *change)
        line = refused(*command, "--ckpt=last")
        assert line.startswith("error: runs/toy/version_0/checkpoints/last.ckpt is of another training: ")
        assert named in line
    run(*command, "--ckpt=runs/toy/version_0/checkpoints/last.ckpt")  # a file that is named is gone on with
    assert "warning: this is no longer the training that " in capsys.readouterr().out
    monkeypatch.delenv("TOY_SCALE")
    free = ["--trainer.log_every_n_steps=3", "--model.backbone.memory.backend=reference", "--trainer.save_minutes=1"]
    run("fit", *TOY, "--trainer.max_epochs=1", *free, "--ckpt=last")
    assert "warning" not in capsys.readouterr().out


def test_a_checkpoint_chooses_no_file_to_write(run: Callable) -> None:
    profiler = {"class_path": "lightning.pytorch.profilers.SimpleProfiler", "init_args": {"dirpath": "."}}
    profiler["init_args"]["filename"] = "written"
    run("fit", *TOY, "--trainer.max_epochs=1", f"--trainer.profiler={json.dumps(profiler)}")
    for path in Path(".").glob("*written*"):
        path.unlink()
    tested = run("test", "--ckpt=runs/toy/version_0/checkpoints/best.ckpt")
    assert tested.trainer.max_epochs == 1 and not list(Path(".").glob("*written*"))


def test_a_checkpoint_of_an_optimiser_that_cannot_skip_is_one_line(run: Callable, refused: Callable) -> None:
    run("fit", *TOY, "--trainer.max_epochs=1")
    content = read_checkpoint("runs/toy/version_0/checkpoints/last.ckpt")
    for group in content["optimizer_states"][0]["param_groups"]:
        group["fused"] = None
    save_tensors(Path("old.ckpt"), content)
    assert "old.ckpt is of an optimiser that cannot" in refused("fit", *TOY, "--ckpt=old.ckpt")
