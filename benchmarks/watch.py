"""What a benchmark wants to know of every step of a training run, without making the device wait."""

import json
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

EVERY = 10  # steps from one look at the clock to the next


class Watch(Callback):
    """Loss and gradient norm before clipping of every step, and seconds per step, into a JSON file.

    The seconds are a median over stretches of EVERY steps without validation; null where there is none.

    Args:
        path: the file, written when training ends.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.norms: list[Tensor] = []
        self.losses: list[Tensor] = []
        self.seconds: list[float] = []
        self.start: float | None = None

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        self.norms.append(torch.nn.utils.get_total_norm(gradients))

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].detach())
        if trainer.global_step % EVERY:
            return
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        now = perf_counter()
        if self.start is not None:
            self.seconds.append((now - self.start) / EVERY)
        self.start = now

    def on_validation_start(self, trainer: Trainer, module: Any) -> None:
        self.start = None

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        found = {
            "gradient_norm": torch.stack(self.norms).tolist(),
            "loss": torch.stack(self.losses).tolist(),
            "seconds_per_step": median(self.seconds) if self.seconds else None,
        }
        self.path.write_text(json.dumps(found))
