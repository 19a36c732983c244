"""What a processor computes in its own way is what PyTorch's own functions compute, gradients included."""

import math

import pytest
import torch
from torch.nn import functional as F

from memory.layers import depthwise, rms_norm
from memory.ops.rule import gelu, gelu_and_slope


@pytest.mark.parametrize(("weighted", "length"), [(False, 1.0), (False, 3.0), (True, 1.0)])
def test_rms_norm_with_every_gradient(weighted: bool, length: float) -> None:
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    x[0, 0] = 0  # where a gradient of a length alone would not be a number
    x.requires_grad_()
    weight = torch.randn(8, dtype=torch.float64) if weighted else None
    ours, theirs = rms_norm(x, 1e-6, weight, length), F.rms_norm(x, (8,), weight, 1e-6) * length
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    way = torch.randn_like(ours)
    grads = [torch.autograd.grad(y, x, way)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


def test_gelu_and_its_slope() -> None:
    z = torch.linspace(-30, 30, 1201, dtype=torch.float64, requires_grad=True)
    wanted = F.gelu(z, approximate="tanh")
    slope = torch.autograd.grad(wanted.sum(), z)[0]
    with torch.no_grad():
        torch.testing.assert_close(gelu(z), wanted, rtol=1e-12, atol=1e-14)
        for ours, theirs in zip(gelu_and_slope(z), (wanted, slope), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("width", [1, 4])
def test_depthwise_convolution_over_rows(width: int) -> None:
    rows, weight = torch.randn(2, 9, 6), torch.randn(6, 1, width) / math.sqrt(width)
    torch.testing.assert_close(depthwise(rows, weight), F.conv1d(rows.mT, weight, groups=6).mT)
