"""EinFFT against its definition."""

import pytest
import torch

from domains.timeseries.einfft import EinFFT


def test_matches_the_direct_formula() -> None:
    torch.manual_seed(0)
    layer = EinFFT(8, blocks=4)
    torch.nn.init.normal_(layer.biases, std=0.1)
    x = torch.randn(2, 6, 8)
    weights, biases = torch.view_as_complex(layer.weights), torch.view_as_complex(layer.biases)
    t = torch.arange(6)
    dft = torch.exp(-2j * torch.pi * torch.outer(t, t) / 6) / 6**0.5  # orthonormal: its inverse is its conjugate

    def split(function, z: torch.Tensor) -> torch.Tensor:
        return torch.complex(function(z.real), function(z.imag))

    def shrunk(z: torch.Tensor) -> torch.Tensor:
        return z.sign() * (z.abs() - 0.01).clamp(min=0)

    expected = torch.empty(2, 6, 8)
    for block in range(4):
        part = slice(2 * block, 2 * block + 2)
        z = dft @ x[:, :, part].to(torch.complex64)
        z = split(torch.relu, z @ weights[0, block] + biases[0, block])
        z = split(shrunk, z @ weights[1, block] + biases[1, block])
        expected[:, :, part] = (dft.conj() @ z).real
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dim", [8, 64, 384])
def test_no_width_starts_out_dead(dim: int) -> None:
    torch.manual_seed(0)
    layer = EinFFT(dim)
    layer(torch.randn(4, 24, dim)).square().sum().backward()
    assert all((parameter.grad != 0).float().mean() > 0.5 for parameter in layer.parameters())


def test_one_sequence_never_changes_another() -> None:
    layer = EinFFT(8)
    x = torch.randn(3, 12, 8)
    torch.testing.assert_close(layer(x)[1:2], layer(x[1:2]))


def test_an_indivisible_width_is_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 4; dim is 10"):
        EinFFT(10)
