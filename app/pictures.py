"""Pictures of what each memory kept, and figures as files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from app.files import replacing
from app.module import TitansModule
from app.trace import heard
from memory import NeuralMemory

SEQUENCES = 16  # in a picture of the memory
TOKENS = 256  # of each of them


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG.

    Raises:
        UserError: it cannot be written.
    """
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=120)


@torch.no_grad()
def memory_figure(module: TitansModule, batch: Any) -> Figure | None:
    """Surprise 1/2 |M(k) - v|^2 of every token, in each memory: as it came, once written, and at the end.

    The last curve asks the final memory for each token again: where it lies below the first, the memory kept something.
    The memories read what they read in the model, token by token; means over heads and up to 16 sequences.

    Args:
        module: a trained model.
        batch: its input; of long sequences the first 256 tokens are shown.

    Returns:
        one panel for each memory that was written to; None for a model without.
    """
    memories = module.backbone.memories()
    with heard(memories) as seen:
        module(batch)
    memories = {name: memory for name, memory in memories.items() if seen[name]}
    if not memories:
        return None
    figure = Figure(figsize=(9, 2.6 * len(memories)), layout="constrained")
    axes = figure.subplots(len(memories), squeeze=False)[:, 0]
    for axis, (name, memory) in zip(axes, memories.items(), strict=True):
        curves = surprise(memory, torch.cat(seen[name], 1)[:SEQUENCES, :TOKENS])
        for (label, values), style in zip(curves.items(), ("-", ":", "--"), strict=True):
            axis.plot(values.float().cpu(), style, label=label)
        axis.set(ylabel=f"{name}, surprise", ylim=(0, None))
    axes[0].legend(ncols=3)
    axes[-1].set_xlabel("token, persistent ones first")
    return figure


@torch.no_grad()
def surprise(memory: NeuralMemory, x: Tensor) -> dict[str, Tensor]:
    """Surprise [T] of each token of x [B, T, dim]: `as it came`, `once written`, and `at the end` of the sequence."""
    recording = memory.recording
    states = [memory.initial_state(len(x))]
    written = []
    remembered = []
    memory.recording = True
    memory.health = []
    for token in x.split(1, 1):
        _, state = memory(token, states[-1])
        states.append(state)
        _, health = memory.health.pop()
        written.append(health["surprise_after"])
    for token, state in zip(x.split(1, 1), states, strict=False):
        # The final memory is asked with the token's own keys.
        memory(token, replace(state, fast=states[-1].fast))
        _, health = memory.health.pop()
        remembered.append(health["surprise_before"])
    memory.recording = recording
    return {
        "as it came": memory.surprise(x).mean((0, 2)),
        "once written": torch.stack(written),
        "at the end": torch.stack(remembered),
    }
