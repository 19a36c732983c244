"""How many blocks give one model the parameters of another."""

from typing import Any

import torch

from benchmarks.shared.models import backbone_of
from domains.text import LanguageHead
from memory import TitansBackbone


def layers_for(own: dict[str, Any], other: dict[str, Any]) -> int:
    """Blocks that bring a language model's backbone nearest to the parameters of another, at least one.

    Args:
        own: the `model.backbone` of a config, whose parameters are wanted.
        other: the one that gets the blocks.
    """
    wanted = parameters(own, own["layers"])
    none, one = parameters(other, 0), parameters(other, 1)
    return max(round((wanted - none) / (one - none)), 1)


def parameters(backbone: dict[str, Any], layers: int) -> int:
    """Parameters of a language model's backbone with so many blocks; its embedding is not counted."""
    one, two = _built(backbone, 1), _built(backbone, 2)
    return one + (layers - 1) * (two - one)


def _built(backbone: dict[str, Any], layers: int) -> int:
    config = backbone_of({**backbone, "layers": layers})
    with torch.device("meta"):
        return sum(p.numel() for p in TitansBackbone(config, LanguageHead.feed_forward).parameters())
