"""What a checkpoint from anywhere must be, and what is said of one that is something else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import ToyData

from app.devices import lost_device
from app.module import load_module, read_checkpoint
from app.reading import Unreadable
from app.restore import restoring, unlike
from app.trainer import TitansTrainer

TOY = ("--config", "toy.yaml", "--trainer.max_epochs=1")
LAST = "runs/toy/version_0/checkpoints/last.ckpt"
OTHER = "runs/toy/version_0/checkpoints/x.ckpt"
GOOD = {"state_dict": {"a": torch.zeros(2)}, "hyper_parameters": {}, "pytorch-lightning_version": "2.6.0"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (torch.zeros(3), "no checkpoint: it is a float32 tensor of shape (3,) without a state_dict"),
        ([1], "it is of kind list without a state_dict"),
        ({"config": "model: {}"}, "it is of kind dict without a state_dict"),
        ({**GOOD, "state_dict": [1]}, "its state_dict is of kind list, not of kind dict"),
        ({**GOOD, "state_dict": {3: torch.zeros(1)}}, "a name in its state_dict is no text"),
        ({**GOOD, "hyper_parameters": None}, "its hyper_parameters is nothing (null), not of kind dict"),
        ({**GOOD, "config": 5}, "its config is of kind int, not of kind str"),
        ({**GOOD, "carried": 3}, "its carried is of kind int, not a list of states of the backbone"),
        ({**GOOD, "carried": [[]]}, "its carried is of kind list, not a list of states of the backbone"),
        ({**GOOD, "global_step": True}, "its global_step is of kind bool, not of kind int"),
        ({**GOOD, "pytorch-lightning_version": "bogus"}, "Invalid version: 'bogus'"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(tmp_path: Path, content: Any, says: str) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(Unreadable) as caught:
        read_checkpoint(tmp_path / "x.ckpt")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/x.ckpt: ") and says in message
    assert message.endswith("; train again or name another file")


def test_a_training_is_restored_from_its_like_only(run: Callable, refused: Callable) -> None:
    run("fit", *TOY)
    whole = torch.load(LAST)

    def line(change: Callable[[dict], Any], command: str = "fit") -> str:
        content = torch.load(LAST)
        change(content)
        torch.save(content, OTHER)
        said = refused(command, *TOY, "--trainer.max_epochs=2", f"--ckpt={OTHER}")
        assert said.startswith(f"error: {OTHER}: ")
        return said

    assert "its config names no trainer, model or data" in line(lambda c: c.update(config="[1]"), "test")
    assert "config that can be read (while parsing" in line(lambda c: c.update(config="{"), "test")
    assert "toy.ToyHead" in line(lambda c: c.update(head="other"), "test")
    lost = "backbone.norm.weight of the checkpoint is not finite, so that it answers nothing; train again"
    for command in ("fit", "test"):
        assert lost in line(lambda c: c["state_dict"]["backbone.norm.weight"].fill_(torch.nan), command)
    assert "head.out.bias is absent" in line(lambda c: c["state_dict"].pop("head.out.bias"), "test")
    assert "KeyError 'columns'" in line(lambda c: c["state_dict"].update({"head._extra_state": {}}), "test")
    assert "loops.fit_loop is of kind list" in line(lambda c: c["loops"].update(fit_loop=[]))
    assert "optimizer_states.0.param_groups.0.lr is nan" in line(
        lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr=float("nan"))
    )
    assert "exp_avg of parameter 0 is a float32 tensor of shape (5,)" in line(
        lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(5))
    )
    # the fused optimiser would write behind the end of these
    assert "exp_avg_sq of parameter 0 is a float32 tensor of shape ()" in line(
        lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg_sq=torch.zeros(()))
    )
    assert "is a float16 tensor" in line(
        lambda c: c["optimizer_states"][0]["state"][0].update(
            exp_avg=c["optimizer_states"][0]["state"][0]["exp_avg"].half()
        )
    )
    assert "optimizer_states lack lr" in line(lambda c: c["optimizer_states"][0]["param_groups"][0].pop("lr"))
    assert "hold a float32 tensor of shape (2,) as foreach" in line(
        lambda c: c["optimizer_states"][0]["param_groups"][0].update(foreach=torch.zeros(2))
    )
    assert "hold other parameters in a group" in line(
        lambda c: c["optimizer_states"][0]["param_groups"][0]["params"].__setitem__(-1, 0)
    )
    assert "lr_schedulers is of kind list, not 1 values" in line(lambda c: c.update(lr_schedulers=[]))
    torch.save(whole, OTHER)
    assert run("fit", *TOY, "--trainer.max_epochs=2", f"--ckpt={OTHER}").trainer.global_step == 6


def test_what_goes_on_from_a_checkpoint_needs_no_file_to_start_from(run: Callable) -> None:
    run("fit", *TOY)
    module = load_module(LAST).train()
    module.init_from = "gone.ckpt"
    trainer = TitansTrainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=7)
    trainer.fit(module, datamodule=ToyData(), ckpt_path=LAST)
    assert trainer.global_step == 7


@pytest.mark.parametrize(
    ("theirs", "ours", "place"),
    [
        ({"a": [1, 2.0, "x", None], "new": 1}, {"a": [1, 2, "y", 3.0], "old": 1}, ".a.3 is nothing"),
        ({"a": [1, 2.0, "x", 4]}, {"a": (1, 2, "y", 3.0)}, ""),
        ({"a": True}, {"a": 1}, ".a is of kind bool"),
        ({"a": 1}, {"a": True}, ".a is of kind int"),
        ({"a": float("inf")}, {"a": 1.0}, ".a is inf"),
        ({"a": -1}, {"a": 3}, ".a is -1"),
        ({"a": -1, "b": -0.5}, {"a": -1, "b": 1.0}, ""),
        ({"a": [1]}, {"a": None}, ""),
        ({"a": None}, {"a": True}, ""),
        ([1], {"a": 1}, " is of kind list"),
    ],
)
def test_where_two_trees_differ_in_kind(theirs: Any, ours: Any, place: str) -> None:
    assert unlike(theirs, ours, "x").startswith(f"x{place}" if place else "")
    assert bool(unlike(theirs, ours, "x")) == bool(place)


def test_that_another_process_has_ended_is_still_known_while_a_checkpoint_is_restored() -> None:
    with pytest.raises(Unreadable, match="x.ckpt: not a checkpoint") as caught, restoring("x.ckpt", "a checkpoint"):
        raise RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")
    assert lost_device(caught.value)
    with pytest.raises(Unreadable) as caught, restoring("x.ckpt", "a checkpoint"):
        raise KeyError("columns")
    assert not lost_device(caught.value)
