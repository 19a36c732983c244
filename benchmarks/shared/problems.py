"""What benchmarks of speed time of this project: the recurrence, the whole layer, one token; and attention."""

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.shared.timing import Problem
from memory import MemoryConfig, NeuralMemory
from memory.config import Backend, Errors, Prior
from memory.ops import Rule, Tokens, initial_state, memory_scan
from memory.state import FastState

DIM, CHUNK, PREFIX = 1024, 64, 5  # a decoded token follows PREFIX others, so that a chunk is under way


def tokens(
    batch: int, time: int, width: int, device: str = "cuda", dtype: torch.dtype = torch.bfloat16
) -> list[Tensor]:
    """q, k, v [B, T, H, D] in `dtype` and theta, log eta, log(1 - alpha) [B, T, H] of random tokens of DIM features."""
    heads = DIM // width

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, time, heads, *shape, device=device)

    q, k = (F.normalize(normal(width), dim=-1).to(dtype) for _ in range(2))
    theta = 0.05 * torch.rand(batch, time, heads, device=device)
    return [q, k, normal(width).to(dtype), theta, F.logsigmoid(normal() + 1), F.logsigmoid(normal() + 4)]


def weights(depth: int, width: int, expansion: int, device: str = "cuda") -> list[Tensor]:
    """M_0, [H, d_in, d_out] per layer."""
    sizes = [width] + [expansion * width] * (depth - 1) + [width]
    return [
        torch.randn(DIM // width, d_in, d_out, device=device) / d_in**0.5
        for d_in, d_out in zip(sizes, sizes[1:], strict=False)
    ]


def slow(width: int, device: str = "cuda") -> list[Tensor]:
    """Scale and shift of the memory's LayerNorm, [H, D]."""
    return [torch.full((DIM // width, width), value, device=device) for value in (1.0, 0.0)]


def scan(
    batch: int, time: int, depth: int, expansion: int, width: int = 64, forget_to: Prior = "zero",
    backend: Backend = "triton", device: str = "cuda", chunk: int = CHUNK, dtype: torch.dtype = torch.bfloat16,
    errors: Errors = "anchor", heads: int | None = None, momentum: bool = True,
) -> Problem:  # fmt: skip
    """The recurrence of one layer, differentiated by all it is given: residual, and LayerNorm but with exact errors.

    It has DIM features, or the first `heads` heads of them.
    """
    inputs = [x[:, :, :heads].contiguous() for x in tokens(batch, time, width, device, dtype)]
    init = [w[:heads] for w in weights(depth, width, expansion, device)]
    norm = None if errors == "exact" else tuple(w[:heads] for w in slow(width, device))
    leaves = [x.requires_grad_() for x in (*inputs, *init, *(norm or ()))]
    prior = init if forget_to == "init" else None

    def forward() -> Tensor:
        rule = Rule(chunk, norm=norm, prior=prior, errors=errors, momentum=momentum)
        return memory_scan(Tokens(*inputs), initial_state(init, 1), rule, backend)[0]

    return Problem(forward, leaves)


def memory_layer(forget_to: Prior, device: str = "cuda", backend: Backend = "triton") -> NeuralMemory:
    """A layer with 16 heads of 64 and the memory that all cases share."""
    heads = DIM // 64
    return NeuralMemory(DIM, MemoryConfig(heads=heads, chunk=CHUNK, forget_to=forget_to, backend=backend)).to(device)


def layer(batch: int, time: int, forget_to: Prior, compiled: bool = False) -> Problem:
    """The whole NeuralMemory in bf16 autocast, differentiated by its input and its parameters."""
    module = memory_layer(forget_to)
    run = torch.compile(module, fullgraph=True) if compiled else module
    x = torch.randn(batch, time, DIM, device="cuda", dtype=torch.bfloat16, requires_grad=True)

    def forward() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return run(x)[0]

    return Problem(forward, [x, *module.parameters()])


def keep(old: FastState, new: FastState) -> None:
    """Write a state over another of the same shapes: a captured graph finds its state where it was."""
    pairs = [
        (a, b)
        for part in ("weights", "momentum", "anchor")
        for a, b in zip(getattr(old, part), getattr(new, part), strict=True)
        if a.data_ptr() != b.data_ptr()
    ]
    if pairs:
        torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))


@torch.no_grad()
def decode_scan(device: str = "cuda", backend: Backend = "triton") -> Problem:
    """One token through the two-layer recurrence, h = 2d."""
    rule = Rule(CHUNK, norm=tuple(slow(64, device)))
    inputs = tokens(1, PREFIX + 1, 64, device)
    state = initial_state(weights(2, 64, 2, device), 1)
    _, state = memory_scan(Tokens(*(x[:, :-1] for x in inputs)), state, rule, backend)
    last = Tokens(*(x[:, -1:].contiguous() for x in inputs))
    _, state = memory_scan(last, state, rule, backend)  # the first token behind other kernels copies their state

    def forward() -> Tensor:
        y, after = memory_scan(last, state, rule, backend)
        keep(state, after)
        return y

    return Problem(forward, [])


@torch.no_grad()
def decode_layer(device: str = "cuda", backend: Backend = "triton") -> Problem:
    """One token through the whole layer, its parameters in bf16."""
    module = memory_layer("init", device, backend).bfloat16()
    x = torch.randn(1, PREFIX + 1, DIM, device=device, dtype=torch.bfloat16)
    _, state = module(x[:, :-1])
    _, state = module(x[:, -1:], state)  # as above

    def forward() -> Tensor:
        y, after = module(x[:, -1:], state)
        keep(state.fast, after.fast)
        state.query_cache.copy_(after.query_cache)
        state.key_value_cache.copy_(after.key_value_cache)
        return y

    return Problem(forward, [])


def attention(batch: int, time: int, width: int) -> Problem:
    """Causal attention in bf16, which PyTorch computes by FlashAttention."""
    q, k, v = leaves = [
        torch.randn(batch, DIM // width, time, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    ]
    return Problem(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True), leaves)
