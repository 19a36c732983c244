"""Batch normalisation over the rows of all devices, on GPUs and CPUs alike."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from app.devices import device_count, sum_over_devices


class VectorNorm(nn.Module):
    """Batch normalisation of vectors [rows, features], the same on any number of devices.

    On one device it is `nn.BatchNorm1d`, whose checkpoints it reads. Where several train together, mean and variance
    are those of the rows of all of them: they normalise as one device would, and their running statistics are equal
    without being sent. (`nn.SyncBatchNorm` needs GPUs.) A single row has no variance, and is normalised in training as
    in evaluation.

    Args:
        features: of a vector.
        momentum: weight of a batch's statistics in the running ones.
        eps: added to the variance.
    """

    def __init__(self, features: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """[rows, features] to [rows, features]; devices may have different numbers of rows."""
        if self.training and device_count() > 1:
            return self._over_devices(x)
        learns = self.training and len(x) > 1
        if learns:
            self.num_batches_tracked += 1
        running = self.running_mean, self.running_var
        return F.batch_norm(x, *running, self.weight, self.bias, learns, self.momentum, self.eps)

    def _over_devices(self, x: Tensor) -> Tensor:
        sums = sum_over_devices(torch.cat([x.sum(0), x.new_full((1,), len(x))]))
        rows = sums[-1].detach()
        mean = sums[:-1] / rows
        # not from sums of squares, which would lose the variance of features far from zero
        variance = sum_over_devices((x - mean).square().sum(0)) / rows
        several = rows > 1  # decided on the device: the host does not wait for it
        with torch.no_grad():
            self.num_batches_tracked += several
            momentum = self.momentum * several
            unbiased = variance * rows / (rows - 1).clamp(min=1)
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(unbiased, momentum)
        mean = torch.where(several, mean, self.running_mean)
        variance = torch.where(several, variance, self.running_var)
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias
