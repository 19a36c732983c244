"""The devices that train together: one process for each, all of them with the same model."""

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor


def device_count() -> int:
    """Devices that take part in this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def device_rank() -> int:
    """This process's device among them, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def sum_over_devices(x: Tensor) -> Tensor:
    """The sum of `x` over all devices, the same on each; every device must ask, and gradients flow to all of them."""
    return _Sum.apply(x) if device_count() > 1 else x


def share_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give each gradient its mean over all devices, all of one dtype in one sum; every device must ask."""
    learning = [p for p in parameters if p.grad is not None]
    for dtype in dict.fromkeys(p.dtype for p in learning):
        alike = [p for p in learning if p.dtype == dtype]
        flat = torch.cat([cast(Tensor, p.grad).flatten() for p in alike])
        dist.all_reduce(flat)
        flat /= device_count()
        for p, mean in zip(alike, flat.split([p.numel() for p in alike]), strict=True):
            p.grad = mean.view_as(p)


def whole(x: Tensor) -> Tensor:
    """A tensor of which each device has a part (see `app.fsdp`), in one piece on each; another tensor as it is."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def lost_device(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that the process of another device has gone."""
    if error is None:
        return False
    gone = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))
    return gone or lost_device(error.__cause__)


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the random numbers of the CPU and of a device, as `torch.manual_seed` does.

    That also puts off to seed each kind of device that is not there, and notes the stack that it was called from: an
    eighth of what the host does for an epoch of captured steps.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def keep_freed_memory() -> None:
    """Let a processor's tensors take memory that others have freed, and not new pages of the system's each time.

    glibc gives freed memory back where more than twice the largest block that it took from the system is free, of at
    most 32 MiB (mallopt(3), M_MMAP_THRESHOLD). A page costs about as much as what is computed in it.
    """
    torch.empty(2**25 - 2**15, dtype=torch.uint8, device="cpu")


class _Sum(Function):
    """`torch.distributed.nn.functional.all_reduce`, which PyTorch 2.13 has deprecated for a private one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]  # the decorator hides names
        # what a device has put in, the losses of all devices depend on
        total = upstream.contiguous().clone()
        dist.all_reduce(total)
        return total
