"""Models from a configuration that `resolved` gives."""

from typing import Any

from memory import BackboneConfig, MemoryConfig


def backbone_of(settings: dict[str, Any]) -> BackboneConfig:
    """The backbone that the `model.backbone` of a configuration describes."""
    options: dict[str, Any] = {**settings, "memory": MemoryConfig(**settings["memory"])}
    return BackboneConfig(**options)
