"""What a benchmark wants to know of every step of a training run, without making the device wait."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from app.guard import SkipNonFinite


class Watch(Callback):
    """Loss and gradient norm before clipping of every step, into a JSON file.

    Args:
        path: the file, written when training ends.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.norms: list[Tensor] = []
        self.losses: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        self.guard = next(callback for callback in trainer.callbacks if isinstance(callback, SkipNonFinite))

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].detach())
        self.norms.append(self.guard.norm.clone())

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        found = {"gradient_norm": torch.stack(self.norms).tolist(), "loss": torch.stack(self.losses).tolist()}
        self.path.write_text(json.dumps(found))
