"""The arguments of `memory_scan` as every implementation takes them."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass
class ScanInputs:
    """What happens at each token, and what the memory is; `memory_scan` describes each field.

    Here log_keep is [B, T, H, 1 or channels], and everything is in the dtype that the implementation computes in.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    theta: Tensor
    log_eta: Tensor
    log_keep: Tensor
    mask: Tensor | None
    chunk: int
    residual: bool
    scale: Tensor | None
    shift: Tensor | None
    prior: list[Tensor] | None
    exact: bool = False

    def tokens(self, start: int, end: int) -> Self:
        """The same for tokens start .. end - 1."""
        names = ("q", "k", "v", "theta", "log_eta", "log_keep", "mask")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(self, **{name: value[:, start:end] for name, value in given.items()})


def multiplied_in(q: Tensor) -> torch.dtype:
    """What kernels round products' operands to: the dtype of autocast or of q, and bfloat16 in place of float16.

    Products of the backward leave float16's range, a scaled loss above it and a memory that forgets below.
    """
    autocast = torch.is_autocast_enabled(q.device.type)
    dtype = torch.get_autocast_dtype(q.device.type) if autocast else q.dtype
    return torch.bfloat16 if dtype == torch.float16 else dtype
