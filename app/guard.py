"""Numbers that end: a training step without finite gradients is skipped, and many in a row stop the training."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from lightning import Callback, Trainer
from torch import Tensor
from torch.optim import Optimizer

from app.declared import declared
from app.devices import whole
from app.errors import UserError
from app.module import TitansModule


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Norm of all numbers of some tensors, of all devices together where each holds a part of them."""
    return whole(torch.nn.utils.get_total_norm(tensors))


def gradient_norm(module: TitansModule) -> Tensor:
    """Norm of a module's gradients, before clipping: the same on all devices."""
    return total_norm([p.grad for p in module.parameters() if p.grad is not None])


class SkipNonFinite(Callback):
    """Leave out every optimiser step whose loss or gradient is not finite, and stop after many in a row.

    Weights, the optimiser's momenta and statistics such as those of batch norm are left as they were. Whether to skip
    is decided on the device, by the flag `found_inf` that fused optimisers know, so that the host never waits for it;
    only every `trainer.max_skipped` steps (on a CPU every step) does it look at the count. `norm` is that of the step's
    gradients, for callbacks that come later.

    Raises:
        UserError: `trainer.max_skipped` steps in a row were skipped, or a checkpoint's optimiser cannot skip any.
    """

    def __init__(self) -> None:
        # skipped in a row, in all, and the step where the row began
        self.counts: dict[str, int | Tensor] = {"row": 0, "total": 0, "first": 0}

    def state_dict(self) -> dict[str, int]:
        return {name: int(value) for name, value in self.counts.items()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.counts = dict(state)

    def on_train_start(self, trainer: Trainer, module: TitansModule) -> None:
        if not all(group["fused"] for group in trainer.optimizers[0].param_groups):
            raise UserError(
                f"{trainer.ckpt_path} is of an optimiser that cannot leave a step out, as earlier versions had; train "
                "anew, or begin with its weights by --model.init_from"
            )
        self.counts = {name: torch.tensor(int(n), device=module.device) for name, n in self.counts.items()}
        self.step = torch.tensor(trainer.global_step, device=module.device)  # on the device, as a graph needs it there
        self.norm = torch.zeros((), device=module.device)
        module.gradient_norm = self.norm
        self.buffers = [*module.buffers()]
        # Copies of the buffers from before the step in progress.
        self.good = [buffer.clone() for buffer in self.buffers]
        self.between_steps = True

    def on_train_end(self, trainer: Trainer, module: TitansModule) -> None:
        module.gradient_norm = None

    def on_train_batch_start(self, trainer: Trainer, module: TitansModule, batch: Any, batch_idx: int) -> None:
        if self.between_steps:
            for buffer, good in zip(self.buffers, self.good, strict=True):
                good.copy_(buffer)
        self.between_steps = False

    def on_before_optimizer_step(self, trainer: Trainer, module: TitansModule, optimizer: Optimizer) -> None:
        if module.taken is None:
            self.judge(module, optimizer)
        self.between_steps = True

    def judge(self, module: TitansModule, optimizer: Optimizer) -> None:
        """Decide whether the step in progress counts; everything stays on the device and at its place."""
        self.norm.copy_(gradient_norm(module))
        bad = ~self.norm.isfinite()
        optimizer.found_inf = bad.float()  # pyrefly: ignore[missing-attribute]  # set from outside, as GradScaler does
        counts = cast(dict[str, Tensor], self.counts)  # since the training has started
        row = (counts["row"] + 1) * bad
        counts["first"].copy_(torch.where(row == 1, self.step, counts["first"]))
        counts["row"].copy_(row)
        counts["total"].add_(bad)
        self.step.add_(1)
        for buffer, good in zip(self.buffers, self.good, strict=True):
            buffer.copy_(torch.where(bad, good, buffer))

    def on_train_batch_end(
        self, trainer: Trainer, module: TitansModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if module.carried:  # the newest: the next pieces of these sequences would have no finite loss either
            newest = module.carried.pop()
            module.carried.append(newest.map(lambda t: t.nan_to_num(0, 0, 0) if t.is_floating_point() else t))
        most = declared(trainer).max_skipped
        looks = module.device.type == "cpu" or trainer.global_step % most == 0
        if looks and int(self.counts["row"]) >= most:
            raise UserError(self._told(trainer, module, outputs["loss"], batch, batch_idx))

    @torch.no_grad()
    def _told(self, trainer: Trainer, module: TitansModule, loss: Tensor, batch: Any, batch_idx: int) -> str:
        """What stops the training: since when, at which batch, and how large the memories got while they read it."""
        module.backbone.record(True)
        with trainer.precision_plugin.forward_context():
            module(batch)
        norms = {name: float(value) for name, value in module.backbone.health().items() if name.endswith("_norm")}
        sizes = ", ".join(f"{name} {value:.3g}" for name, value in norms.items()) or "none"
        row = int(self.counts["row"])
        first = int(self.counts["first"])
        return (
            f"{row} training steps in a row had no finite loss or gradient, since step {first}; the last of them read "
            f"batch {batch_idx} of epoch {trainer.current_epoch} (loss {float(loss):.3g}; memory norms: {sizes}). Look "
            "at these data, lower model.optim.lr, or raise trainer.max_skipped; the checkpoints of before are good"
        )
