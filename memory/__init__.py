"""Titans in PyTorch: a memory that learns at test time, and the backbones built on it."""

from memory.backbone import TitansBackbone
from memory.config import BackboneConfig, MemoryConfig
from memory.layers import SwiGLU
from memory.neural_memory import NeuralMemory
from memory.state import BackboneState, MemoryState
from memory.unequal import read_unequal

__all__ = [
    "BackboneConfig",
    "BackboneState",
    "MemoryConfig",
    "MemoryState",
    "NeuralMemory",
    "SwiGLU",
    "TitansBackbone",
    "read_unequal",
]
