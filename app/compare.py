"""What makes runs comparable at first sight in TensorBoard: their names, their settings with a score, and the order of
their curves.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from lightning import Callback, Trainer

from app.board import Board
from app.module import TitansModule

# Custom scalars: {group: {chart: [kind, [pattern of tags, ...]]}}.
LAYOUT = {
    "loss": {
        "training": ["Multiline", ["^train/loss$", "^train/loss_max$"]],
        "validation": ["Multiline", ["^val/"]],
    },
    "rate": {
        "learning rate": ["Multiline", ["^train/lr$"]],
        "gradient norm": ["Multiline", ["^train/grad_norm$"]],
        "tokens per second": ["Multiline", ["^train/tokens_per_second$"]],
        "steps skipped": ["Multiline", ["^train/skipped$"]],
    },
    "memory health": {
        "surprise before and after a batch's tokens": ["Multiline", ["^memory/.*/surprise_"]],
        "step θ": ["Multiline", ["^memory/.*/theta_mean$"]],
        "momentum η": ["Multiline", ["^memory/.*/eta_mean$"]],
        "forgetting α": ["Multiline", ["^memory/.*/alpha_mean$"]],
        "norm of the memory": ["Multiline", ["^memory/.*/weight_norm$"]],
        "norm of its momentum": ["Multiline", ["^memory/.*/momentum_norm$"]],
    },
}
SETTINGS = ("seed_everything", "trainer.max_epochs", "trainer.max_steps", "model.", "data.")  # what may make a score
LONGEST = 100  # characters of a name


def run_name(keys: Sequence[str]) -> str:
    """What a command line says of seed, model and data beside its config files: `variant=mac,lr=0.001`, or nothing.

    Args:
        keys: words such as `--model.backbone.variant`, `mac`, `--model.optim.lr=0.001`.
    """
    changed = {}
    for word, following in zip(keys, [*keys[1:], ""], strict=True):
        key, equals, value = word.partition("=")
        if key.startswith(("--model.", "--data.", "--seed_everything")):
            value = value if equals else following
            files = re.sub(r"[^,=[]*/", "", value)  # without their folders, each of a list
            changed[key.removeprefix("--").rpartition(".")[2]] = files
    named = ",".join(f"{key}={value}" for key, value in changed.items())
    return re.sub(r"[^\w.,=+-]+", "_", named)[:LONGEST]


def settings(config: dict[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a configuration that may make a score, by its key without `model` and `init_args`."""
    for name, value in config.items():
        key = f"{at}{name}"
        if isinstance(value, dict):
            yield from settings(value, f"{key}.")
        elif key.startswith(SETTINGS) and value is not None:
            short = key.removeprefix("model.").replace(".init_args.", ".")
            yield short, value if isinstance(value, bool | int | float | str) else str(value)


class LogComparison(Callback):
    """The settings of a run beside `hp_metric`, its best score so far by the head's metric, and the order of curves.

    Args:
        config: the run's complete configuration.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def on_fit_start(self, trainer: Trainer, module: TitansModule) -> None:
        if isinstance(trainer.logger, Board) and trainer.is_global_zero:
            trainer.logger.begin(dict(settings(self.config)), LAYOUT)

    def on_validation_end(self, trainer: Trainer, module: TitansModule) -> None:
        score = trainer.callback_metrics.get(f"val/{module.head.monitor}")
        if trainer.sanity_checking or score is None:
            return
        # The callback that keeps the best checkpoint comes last: it does not know of this validation yet.
        before = getattr(trainer.checkpoint_callback, "best_model_score", None)
        better = min if module.head.mode == "min" else max
        best = score if before is None else better(before, score)  # of a number and NaN, the first
        for logger in trainer.loggers:
            logger.log_metrics({"hp_metric": float(best)}, trainer.global_step - 1)
