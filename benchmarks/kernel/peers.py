"""What `benchmarks.kernel` times of other projects, where they are installed."""

from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.shared.problems import DIM, slow, tokens
from benchmarks.shared.timing import Problem

TITANS, FLA = "titans-pytorch==0.5.5", "fla-core==0.6.0"


class Missing(ImportError):
    """A peer is not installed; the message says how to install it."""


def load(module: str, package: str) -> ModuleType:
    """Import a peer's module.

    Raises:
        Missing: it or something it needs cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise Missing(f"{error}; pip install {package}") from error


def titans_layer(batch: int, time: int, anchor: int | None, gates: int = 64, device: str = "cuda") -> Problem:
    """titans-pytorch's NeuralMemory of width 1024, 16 heads, MLP x2, in bf16 autocast.

    Args:
        anchor: tokens after which inner gradients move on to the present weights, its `batch_size`; None: never, all
            are taken at the call's start.
        gates: tokens that share momentum, decay and the weights that are read, its `chunk_size`, and of which it keeps
            one copy of the weights. Theta is per token in any case; 1 would be the paper's equations.
    """
    module = load("titans_pytorch", TITANS).NeuralMemory(
        DIM,
        chunk_size=gates,
        batch_size=anchor,
        dim_head=64,
        heads=DIM // 64,
        default_step_transform_max_lr=1e-2,  # its default of 1 ends in nan on random tokens
        default_model_kwargs={"depth": 2, "expansion_factor": 2.0},
    )
    module.to(device)
    x = torch.randn(batch, time, DIM, device=device, dtype=torch.bfloat16, requires_grad=True)

    def forward() -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return module(x)[0]

    return Problem(forward, [x, *module.parameters()])


def ttt_linear(batch: int, time: int) -> Problem:
    """flash-linear-attention's test-time-trained matrix: chunks of 64, no momentum, no decay."""
    scan = load("fla.ops.ttt", FLA).chunk_ttt_linear
    q, k, v, theta, *_ = tokens(batch, time, 64)
    norm, theta = [x.bfloat16() for x in slow(64)], theta[..., None].bfloat16()
    leaves = [x.requires_grad_() for x in (q, k, v, *norm, theta)]
    return Problem(lambda: scan(*leaves, chunk_size=64)[0], leaves)


def gated_delta_rule(batch: int, time: int) -> Problem:
    """flash-linear-attention's gated delta rule: decay, no momentum, no LayerNorm."""
    scan = load("fla.ops.gated_delta_rule", FLA).chunk_gated_delta_rule
    q, k, v, _, log_eta, log_keep = tokens(batch, time, 64)
    leaves = [x.requires_grad_() for x in (q, k, v, log_keep, log_eta.exp().bfloat16())]
    return Problem(lambda: scan(*leaves)[0], leaves)
