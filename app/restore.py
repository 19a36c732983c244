"""What a checkpoint from anywhere must be before it is believed: the kinds of things that training writes into one."""

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.states import TrainerFn
from packaging.version import Version
from torch import Tensor
from torch.optim import Optimizer

from app.errors import UserError
from app.reading import Reading, reading
from memory import BackboneState

CURE = "train again or name another file"
KINDS: dict[str, type] = {
    "state_dict": dict,
    "hyper_parameters": dict,
    "config": str,
    "head": str,
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "pytorch-lightning_version": str,
}
SETTINGS = ("lr", "betas", "eps", "weight_decay")  # without which AdamW makes no step, in any version of torch
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of every parameter that has had a gradient


def check(content: Any, at: Reading) -> None:
    """Refuse what is no checkpoint, or holds something of another kind than it should.

    Raises:
        Unreadable: names the entry.
    """
    if not isinstance(content, dict) or "state_dict" not in content:
        raise at.error(f"no checkpoint: it is {_kind(content)} without a state_dict")
    for name, kind in KINDS.items():
        if name in content and (not isinstance(content[name], kind) or isinstance(content[name], bool)):
            raise at.error(f"no checkpoint: its {name} is {_kind(content[name])}, not of kind {kind.__name__}")
    if not all(isinstance(name, str) for name in content["state_dict"]):
        raise at.error("no checkpoint: a name in its state_dict is no text")
    carried = content.get("carried", [])
    if not isinstance(carried, list) or any(not isinstance(state, BackboneState) or state.apart for state in carried):
        raise at.error(f"no checkpoint: its carried is {_kind(carried)}, not a list of states of the backbone")
    # Lightning parses this version later, where what is no version would end as a traceback.
    Version(content.get("pytorch-lightning_version", "0"))


def refuse_other_weights(ours: dict[str, Any], theirs: dict[str, Any], parameters: Collection[str]) -> None:
    """Refuse, in one line, a checkpoint's tensors that are not those of the model, or weights that are no numbers.

    Args:
        ours: the state dict of the model.
        theirs: that of the checkpoint.
        parameters: names of what is trained; other tensors may hold NaN for what is not known.

    Raises:
        UserError: names the first three that differ, or the first weight that is not finite.
    """
    expected = _shapes(ours)
    stored = _shapes(theirs)
    wrong = sorted(name for name in expected.keys() | stored.keys() if expected.get(name) != stored.get(name))
    if wrong:
        named = [f"{name} is {stored.get(name, 'absent')}, not {expected.get(name, 'absent')}" for name in wrong[:3]]
        more = [f"and {len(wrong) - 3} more"] if len(wrong) > 3 else []
        raise UserError(f"the checkpoint does not fit the model of the config: {'; '.join(named + more)}")
    for name in sorted(theirs.keys() & {*parameters}):
        if not theirs[name].isfinite().all():
            raise UserError(f"{name} of the checkpoint is not finite, so that it answers nothing; {CURE}")


def _shapes(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a state dict, which may hold other things too (a head's column names)."""
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}


@contextmanager
def restoring(path: str | Path | None, kind: str) -> Iterator[Reading]:
    """As `reading`, for what is done with a checkpoint: what is wrong with it is said with its name."""
    with reading(path or "the checkpoint", kind, CURE) as at:
        try:
            yield at
        except UserError as error:
            if str(path) in str(error):
                raise
            raise UserError(f"{path}: {error}") from error


class CheckedRestore(_CheckpointConnector):
    """Lightning's reader of checkpoints; what goes wrong while one is restored ends as one line that names the file."""

    def _restore_modules_and_callbacks(
        self, checkpoint_path: str | Path | None = None, weights_only: bool | None = None
    ) -> None:
        with restoring(checkpoint_path, "a checkpoint of this model"):
            super()._restore_modules_and_callbacks(checkpoint_path, weights_only)

    def restore_training_state(self) -> None:
        with restoring(self._ckpt_path, "a checkpoint of this training") as at:
            if self._loaded_checkpoint and self.trainer.state.fn == TrainerFn.FITTING:
                self._check_training(at)
            super().restore_training_state()

    def _check_training(self, at: Reading) -> None:
        """Refuse a training's state that is not like the one that this training has before its first step."""
        trainer = self.trainer
        content = self._loaded_checkpoint
        schedules = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
        fresh = {
            "loops": {"fit_loop": trainer.fit_loop.state_dict()},
            "optimizer_states": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "lr_schedulers": schedules,
        }
        for name, ours in fresh.items():
            if name in content and (place := unlike(content[name], ours, name)):
                raise at.error(f"no checkpoint of this training: {place}")
        for optimizer, state in zip(trainer.optimizers, content.get("optimizer_states", []), strict=False):
            if place := _unlike_groups(state["param_groups"], optimizer) or _unlike_moments(state["state"], optimizer):
                raise at.error(f"no checkpoint of this training: optimizer_states {place}")


def unlike(theirs: Any, ours: Any, place: str) -> str:
    """Where a tree of plain values differs in kind from ours, in words; empty where it does not.

    Keys that only one of them has are left alone, as versions of libraries differ in them. A number must be finite, and
    what is counted here not below 0 there.
    """
    if isinstance(ours, dict):
        if not isinstance(theirs, dict):
            return f"{place} is {_kind(theirs)}"
        places = (unlike(theirs[key], ours[key], f"{place}.{key}") for key in ours if key in theirs)
        return next(filter(None, places), "")
    if isinstance(ours, list | tuple):
        if not isinstance(theirs, list | tuple) or len(theirs) != len(ours):
            return f"{place} is {_kind(theirs)}, not {len(ours)} values"
        places = (unlike(a, b, f"{place}.{i}") for i, (a, b) in enumerate(zip(theirs, ours, strict=True)))
        return next(filter(None, places), "")
    # None is an option of the optimiser that nobody had set.
    if isinstance(ours, bool) and theirs is None:
        return ""
    if isinstance(ours, bool | str):
        return "" if type(theirs) is type(ours) else f"{place} is {_kind(theirs)}"
    if isinstance(ours, int | float):
        number = isinstance(theirs, int | float) and not isinstance(theirs, bool) and math.isfinite(theirs)
        if number and isinstance(ours, int) and theirs < min(ours, 0):
            return f"{place} is {theirs}"
        return "" if number else f"{place} is {_kind(theirs)}"
    return ""


def _unlike_groups(groups: list[dict[str, Any]], optimizer: Optimizer) -> str:
    """Where groups of parameters lack a setting, or are not those of an optimizer, whose moments they would mix up."""
    for group, ours in zip(groups, optimizer.state_dict()["param_groups"], strict=True):
        missing = [name for name in SETTINGS if name not in group]
        if missing:
            return f"lack {missing[0]}"
        if group.get("params") != ours["params"]:
            return "hold other parameters in a group"
        # None is a switch that nobody has set.
        for name in (name for name, value in ours.items() if value is None):
            if not isinstance(group.get(name), bool | None):
                return f"hold {_kind(group[name])} as {name}"
    return ""


def _unlike_moments(states: Any, optimizer: Optimizer) -> str:
    """Where the moments of parameters are not those of an optimizer's parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not isinstance(states, dict):
        return f"state is {_kind(states)}"
    for index, state in states.items():
        if type(index) is not int or not 0 <= index < len(parameters):
            return f"hold moments of a parameter {str(index)[:30]!r}"
        if not isinstance(state, dict) or not {*MOMENTS} <= {*state}:
            return f"lack {' or '.join(MOMENTS)} of parameter {index}"
        # the fused optimiser looks at no shape: it would read and write behind the end of a shorter tensor
        for name in MOMENTS:
            like = torch.zeros(()) if name == "step" else parameters[index]
            value = state[name]
            if not isinstance(value, Tensor) or (value.shape, value.dtype) != (like.shape, like.dtype):
                return f"{name} of parameter {index} is {_kind(value)}"
    return ""


def _kind(value: Any) -> str:
    """What a value is, in few words."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return "nothing (null)" if value is None else f"of kind {type(value).__name__}"
