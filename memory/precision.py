"""Which dtype a call computes in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for tensors of a device; the meta device has none."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def compute_dtype(x: Tensor) -> torch.dtype:
    """What products of x are computed in: autocast's dtype where that is on, which leaves float64 as it is."""
    if x.dtype == torch.float64 or not autocasts(x.device):
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)


def cast_once(x: Tensor) -> Tensor:
    """x in the dtype that linear maps of it take on a GPU: cast once, not once in each of several."""
    return x.to(compute_dtype(x)) if x.is_cuda else x


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which products are computed in their operands' dtype."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else nullcontext()
