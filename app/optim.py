"""AdamW as every domain uses it: who decays, and the learning rate over the run."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from memory.bounds import check_bounds


@dataclass
class OptimConfig:
    """AdamW with linear warm-up and cosine decay, stepped once per optimiser step.

    Args:
        lr: peak learning rate.
        weight_decay: decay of the matrices of linear and convolution layers; nothing else decays.
        betas: AdamW's two momenta.
        warmup: length of the warm-up, as a fraction of all steps (below 1) or in steps (1 and above).
        final: learning rate at the end, as a fraction of `lr`.
    """

    lr: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = 0.05
    final: float = 0.1

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optim.lr is {self.lr}; it must be positive")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas are {self.betas}; give two numbers from 0 to below 1")
        bounds = {"weight_decay": (0, math.inf), "warmup": (0, math.inf), "final": (0, 1)}
        check_bounds("optim", vars(self), bounds)

    def factor(self, step: int, steps: int) -> float:
        """Learning rate of `step` (from 0) in a run of `steps`, as a fraction of the peak."""
        warmup = round(self.warmup * steps) if self.warmup < 1 else int(self.warmup)
        if step < warmup:
            return (step + 1) / warmup
        done = min((step - warmup) / max(steps - 1 - warmup, 1), 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))

    def build(self, model: nn.Module, steps: int) -> tuple[AdamW, LambdaLR]:
        """Optimiser of `model`, which can leave a step out (`found_inf`), and its schedule over `steps` steps."""
        matrices, rest = split_parameters(model)
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        optimizer = AdamW([group for group in groups if group["params"]], lr=self.lr, betas=self.betas, fused=True)
        # With this attribute set, Lightning would leave unscaling to the optimiser and refuse to clip gradients.
        optimizer._step_supports_amp_scaling = False
        return optimizer, LambdaLR(optimizer, lambda step: self.factor(step, steps))


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters that decay, the matrices of linear and convolution layers, and those that do not.

    Norms, biases, embeddings (also where a linear layer shares them), the memory's initial weights and persistent
    tokens do not decay.
    """
    embeddings = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Embedding)}
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d)
    matrices = {id(layer.weight) for layer in model.modules() if isinstance(layer, layers)} - embeddings
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [p for p in parameters if id(p) in matrices], [p for p in parameters if id(p) not in matrices]


# checkpoints written outside the command line hold this object; let torch.load(weights_only=True) read it back
torch.serialization.add_safe_globals([OptimConfig])
