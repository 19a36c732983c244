"""Whether a training that goes on from a checkpoint is the one that wrote it."""

import json
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from app.errors import UserError

# What a training may change when it goes on: no weight depends on it. Everything else of its configuration must stay.
MAY_CHANGE = (
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "plugins", "sync_batchnorm")),
    *(f"trainer.{key}" for key in ("logger", "callbacks", "profiler", "log_every_n_steps", "default_root_dir")),
    *(f"trainer.{key}" for key in ("enable_progress_bar", "enable_model_summary", "enable_checkpointing")),
    *(
        f"trainer.{key}"
        for key in ("save_minutes", "max_skipped", "capture", "max_time", "num_sanity_val_steps", "fast_dev_run")
    ),
    *(f"trainer.{key}" for key in ("benchmark", "detect_anomaly", "inference_mode", "use_distributed_sampler")),
    *("model.init_from", "model.compile", "model.backbone.memory.backend"),
)


def differences(then: Any, now: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """Leaves in which two configurations differ, {dotted key: (then, now)}."""
    if isinstance(then, dict) and isinstance(now, dict):
        both = ({k: differences(then.get(k), now.get(k), f"{key}.{k}".lstrip(".")) for k in then | now}).values()
        return {k: v for part in both for k, v in part.items()}
    return {} if then == now else {key: (then, now)}


def changes(then: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Differences of two configurations that make them two trainings."""
    free = tuple(f"{key}." for key in MAY_CHANGE)
    return {key: values for key, values in differences(then, now).items() if not f"{key}.".startswith(free)}


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """The same as numbers, texts, lists and dictionaries, which a checkpoint may hold."""
    return json.loads(json.dumps(values, default=str))


def judge(changed: dict[str, tuple[Any, Any]], checkpoint: str, strict: bool) -> None:
    """Say what differs between a checkpoint's training and this one.

    Args:
        changed: {what: (then, now)}.
        checkpoint: the file.
        strict: it was not named, but found as the last of a run's name.

    Raises:
        UserError: something differs, and `strict`.
    """
    named = [f"{key} was {then!r} and is {now!r}" for key, (then, now) in changed.items()]
    if named and strict:
        more = f"; and {len(named) - 3} more" if len(named) > 3 else ""
        raise UserError(
            f"{checkpoint} is of another training: {'; '.join(named[:3])}{more}. Give the same, leave --ckpt out "
            "to train anew, or name the file with --ckpt FILE to go on from it all the same"
        )
    for line in named:
        rank_zero_only(print)(f"warning: this is no longer the training that {checkpoint} is of: {line}")
