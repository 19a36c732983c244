"""Layers of flash-linear-attention as mixers of our blocks: the same shell, optimiser and data for a peer.

python -m app fit --config conf/text_code.yaml --model.backbone.variant benchmarks.language.delta_layers.DeltaNet
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from memory import BackboneConfig
from memory.layers import MIXED_IN
from memory.state import State

PACKAGE = "flash-linear-attention==0.6.0"


def missing() -> str | None:
    """Why these layers cannot run here; None where they can."""
    if not torch.cuda.is_available():
        return "its kernels need a GPU"
    try:
        import_module("fla.layers")
    except ImportError as error:
        return f"{error}; pip install {PACKAGE}"
    return None


@dataclass
class DeltaState(State):
    """A layer between two calls.

    Args:
        recurrent: the matrix of each head, [B, H, d, d], as the layer lays it out.
        conv: last inputs of the convolutions on queries, keys and values.
    """

    recurrent: Tensor
    conv: list[Tensor]


class _Cache:
    """What a layer of the library asks its cache for, with room for one layer, number 0."""

    def __init__(self, state: DeltaState | None) -> None:
        self.entries: list[dict[str, Any]] = []
        if state is not None:
            tails = [t.clone() for t in state.conv]  # a layer may write into them
            self.update(0, state.recurrent, tails)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, layer: int) -> dict[str, Any]:
        return self.entries[layer]

    def update(self, layer_idx: int, recurrent_state: Tensor, conv_state: Sequence[Tensor], offset: int = 0) -> None:
        self.entries = [{"recurrent_state": recurrent_state, "conv_state": list(conv_state)}]

    @property
    def state(self) -> DeltaState:
        """What the layer has left."""
        return DeltaState(self.entries[0]["recurrent_state"], self.entries[0]["conv_state"])


class DeltaNet(nn.Module):
    """The delta rule with unit queries and keys, short convolutions, and an RMSNorm on what is read (2406.06484)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.layer = self.built(import_module("fla.layers"), config)

    def built(self, layers: Any, config: BackboneConfig) -> nn.Module:
        """The library's layer."""
        return layers.DeltaNet(hidden_size=config.dim, num_heads=config.heads, layer_idx=0)

    def forward(
        self, x: Tensor, state: DeltaState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, DeltaState]:
        """[B, T, dim] to [B, T, dim] in bfloat16, which its kernels want, and the state after it; no padding.

        Raises:
            ValueError: there is padding.
        """
        if mask is not None:
            raise ValueError(f"{type(self).__name__} takes no padding; give sequences of equal length")
        cache = _Cache(state)
        y, *_ = self.layer(x.bfloat16(), past_key_values=cache, use_cache=True)
        return y, cache.state


class InductionDeltaNet(DeltaNet):
    """The delta rule that starts as the memory does with `induction`: keys at the token before, queries made alike."""

    def built(self, layers: Any, config: BackboneConfig) -> nn.Module:
        """The library's layer with other weights to start from."""
        layer: Any = super().built(layers, config)
        with torch.no_grad():
            for conv, delay in ((layer.q_conv1d, 0), (layer.k_conv1d, 1), (layer.v_conv1d, 0)):
                conv.weight.mul_(MIXED_IN)
                conv.weight[..., :-2] = 0
                conv.weight[..., -1 - delay] += 1
            layer.q_proj.weight.copy_(layer.k_proj.weight)
            layer.q_conv1d.weight.zero_()[..., 1:] = layer.k_conv1d.weight[..., :-1]
        return layer


class GatedDeltaNet(DeltaNet):
    """The delta rule with forgetting, one gate a head, values as wide as keys (2412.06464)."""

    def built(self, layers: Any, config: BackboneConfig) -> nn.Module:
        """The library's layer."""
        width = config.dim // config.heads
        return layers.GatedDeltaNet(
            hidden_size=config.dim, num_heads=config.heads, head_dim=width, expand_v=1, layer_idx=0
        )


class KimiDeltaAttention(DeltaNet):
    """The delta rule with forgetting, one gate a key channel (2510.26692)."""

    def built(self, layers: Any, config: BackboneConfig) -> nn.Module:
        """The library's layer."""
        width = config.dim // config.heads
        return layers.KimiDeltaAttention(hidden_size=config.dim, num_heads=config.heads, head_dim=width, layer_idx=0)
