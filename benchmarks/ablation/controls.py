"""What may stand where the memory stands, for the ablation: weaker memories, attention, a GRU, nothing."""

from dataclasses import replace
from typing import Any, Literal

from lightning import Callback, Trainer
from torch import Tensor, nn

from app.module import TitansModule
from domains.timeseries.einfft import EinFFT
from memory import BackboneConfig
from memory.attention import Attention
from memory.mixers import MemoryMixer

Kind = Literal["memory", "no momentum", "no forgetting", "linear memory", "attention", "gru", "identity"]


class GRU(nn.Module):
    """A gated recurrent unit in the place of a mixer."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, dim, batch_first=True)

    def forward(self, x: Tensor, state: None = None, mask: None = None) -> tuple[Tensor, None]:
        """[B, T, dim] to [B, T, dim]."""
        return self.gru(x)[0], None


class Identity(nn.Module):
    """A mixer that adds nothing, so that no token learns of another."""

    def forward(self, x: Tensor, state: None = None, mask: None = None) -> tuple[Tensor, None]:
        """Zeros of the shape of `x`."""
        return x.new_zeros(x.shape), None


class Filled(nn.Module):
    """A mixer beside an MLP on each token alone, whose width makes up for the parameters that the mixer lacks.

    Args:
        mixer: maps [B, T, dim] to the same.
        dim: width of a token.
        missing: parameters to add; they come in steps of 2 dim.
    """

    def __init__(self, mixer: nn.Module, dim: int, missing: int) -> None:
        super().__init__()
        self.mixer = mixer
        width = round(missing / (2 * dim))
        self.filling = nn.Sequential(nn.Linear(dim, width, bias=False), nn.SiLU(), nn.Linear(width, dim, bias=False))

    def forward(self, x: Tensor, state: object = None, mask: Tensor | None = None) -> tuple[Tensor, object]:
        """[B, T, dim] to [B, T, dim], and the mixer's state."""
        y, state = self.mixer(x, state, mask)
        return y + self.filling(x), state


def mixer(kind: Kind, config: BackboneConfig) -> nn.Module:
    """A fresh mixer of one kind; a linear memory is a matrix without norm or residual, stepped within its bound."""
    changes: dict[str, dict[str, Any]] = {
        "memory": {},
        "no momentum": {"momentum": False},
        "no forgetting": {"forgetting": False},
        "linear memory": {"depth": 1, "norm": False, "residual": False, "theta_max": 1.0},
    }
    if kind in changes:
        return MemoryMixer(replace(config, memory=replace(config.memory, **changes[kind])))
    if kind == "attention":
        return Attention(config.dim, config.heads, config.persistent, None)
    return GRU(config.dim) if kind == "gru" else Identity()


class ReplaceMixers(Callback):
    """Put a control in the place of every memory before training or a checkpoint's weights come in.

    Whatever the control and the channel mixing lack against memory and EinFFT, a `Filled` makes up for: all models of
    the ablation have the same number of parameters, up to half a unit of its MLP.

    Args:
        kind: what takes the memory's place.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def setup(self, trainer: Trainer, module: TitansModule, stage: str) -> None:
        config = module.backbone.config
        for block in module.backbone.blocks:
            fresh = mixer(self.kind, config)
            wanted = count(block.mixers) + count(EinFFT(config.dim))
            missing = wanted - count(fresh) - count(block.feed_forward)
            if missing < -2 * config.dim:
                raise ValueError(f"{self.kind} has {-missing} parameters more than the memory; make the memory larger")
            block.mixers[0] = Filled(fresh, config.dim, missing) if missing >= config.dim else fresh


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(p.numel() for p in module.parameters())
