"""What a benchmark wants to know of every step of a training run, without making the device wait."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from app.guard import gradient_norm


class Watch(Callback):
    """Loss and gradient norm before clipping of every step, into a JSON file.

    Args:
        path: the file, written when training ends.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.norms: list[Tensor] = []
        self.losses: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        self.norms.append(gradient_norm(module))

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].detach())

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        found = {"gradient_norm": torch.stack(self.norms).tolist(), "loss": torch.stack(self.losses).tolist()}
        self.path.write_text(json.dumps(found))
