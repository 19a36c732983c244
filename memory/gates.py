"""The logits of a memory's gates: theta (inner step), eta (momentum) and alpha (forgetting), as far as there are."""

import torch
from torch import Tensor, nn

from memory.config import MemoryConfig


class GateLogits(nn.Linear):
    """One map of [B, T, dim] to the logits of all gates: as several maps, each would read all of x again.

    Args:
        dim: model width.
        config: which gates there are, and where they start.
        channels: alphas of a head.
    """

    def __init__(self, dim: int, config: MemoryConfig, channels: int) -> None:
        self.heads = config.heads
        self.rows = {"theta": self.heads}  # outputs of each gate, in the order of the weight's rows
        if config.momentum:
            self.rows["eta"] = self.heads
        if config.forgetting:
            self.rows["alpha"] = self.heads * channels
        self.starts = {"theta": (0.0, 0.0), "eta": (1.0, 1.0), "alpha": _first_and_last(config)}
        super().__init__(dim, sum(self.rows.values()))

    def reset_parameters(self) -> None:
        """Draw weights as a linear map does, and let each gate's bias start evenly between its first and last head."""
        super().reset_parameters()
        with torch.no_grad():
            for name, bias in self.split(self.bias).items():
                first, last = self.starts[name]
                start = torch.linspace(first, last, self.heads, device=bias.device)
                bias.view(self.heads, -1).copy_(start[:, None])

    def split(self, logits: Tensor, dim: int = -1) -> dict[str, Tensor]:
        """Each gate's part of the logits, of the bias, or of the weight along its first axis."""
        parts = logits.split(list(self.rows.values()), dim)
        return dict(zip(self.rows, parts, strict=True))

    @torch.no_grad()
    def stop_forgetting(self) -> None:
        """Hold alpha at 0 whatever the tokens; no effect without forgetting."""
        if "alpha" in self.rows:
            self.split(self.weight, 0)["alpha"].zero_()
            self.split(self.bias)["alpha"].fill_(-100.0)  # 1 - sigmoid(-100) is 1 in every precision


def _first_and_last(config: MemoryConfig) -> tuple[float, float]:
    """Where forgetting starts in the first and in the last head."""
    start = config.forgetting_start
    return (start, start) if isinstance(start, int | float) else tuple(start)
