"""Calls that launch every portable Triton kernel, each function those of its part, with random numbers."""

from unittest import mock

import torch
from torch import Tensor

from memory.ops import initial_state, memory_scan, memory_step
from memory.ops.triton import (
    flash,
    gated_norm,
    gates,
    gating,
    linear,
    residual_norm,
    retrieve,
    rotary,
    short_conv,
    slots,
)
from memory.state import FastRows, FastState
from tests.memory.problem import B, inputs, layers_of, one_sequence, rule_of, solve, tokens_of

OFF = {"norm": False, "residual": False, "prior": False}
EXACT = {"norm": False, "errors": "exact"}
DELTA = ("delta_solve_", "delta_scan_", "delta_write_", "delta_prior_")
BEGINNINGS = [(1, {}), (1, EXACT), (2, {})]  # depth, switches
RECURRENCES = [  # depth, tokens, switches, first words of the kernels
    *((1, time, switches, ("coefficients_", "linear_")) for time, switches in ((40, {}), (16, OFF))),
    *(
        (1, time, switches, ("coefficients_", *DELTA, "linear_read_", "linear_prior_"))
        for time, switches in ((40, EXACT), (16, OFF | EXACT), (40, EXACT | {"momentum": False}))
    ),
    *(
        (2, time, switches, ("coefficients_", "state_", "read_", "write_", "prior_"))
        for time, switches in ((40, {}), (16, OFF))
    ),
]


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A random tensor whose gradient is wanted."""
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def backward(*results: Tensor) -> None:
    """Gradients of everything that was learned from."""
    learned = [r for r in results if r.requires_grad]
    torch.autograd.backward(learned, [torch.randn_like(r) for r in learned])


def recurrence(depth: int, time: int, switches: dict, dtype: torch.dtype = torch.float32) -> None:
    """One sequence, forward and backward."""
    mask = (torch.arange(time) % 5 != 2)[None] if switches.get("prior", True) else None
    leaves = one_sequence(inputs(depth, time, torch.float32, width=16, hidden=64))
    leaves |= {name: leaves[name].detach().to(dtype).requires_grad_() for name in "qkv"}
    solve(leaves, "triton", 16, mask=mask, **switches)


def in_spans(time: int, dtype: torch.dtype = torch.float32) -> None:
    """One sequence whose chunks are walked through in four spans at once."""
    with mock.patch.multiple(linear, SHORTEST=1, ENOUGH=8):  # for two heads
        recurrence(1, time, EXACT | {"momentum": False}, dtype)


def beginning(
    depth: int, switches: dict, dtype: torch.dtype = torch.float32, batch: int = B, time: int = 20
) -> None:  # fmt: skip
    """Sequences from one state that stands for all, and the gradients of what they have read alone."""
    leaves = inputs(depth, time, torch.float32, width=16, hidden=64, batch=batch)
    leaves |= {name: leaves[name].detach().to(dtype).requires_grad_() for name in "qkv"}
    state = initial_state(layers_of(leaves, "M"), 1)
    backward(memory_scan(tokens_of(leaves), state, rule_of(leaves, 16, **switches), "triton")[0])


@torch.no_grad()
def one_token(depth: int, on: bool, dtype: torch.dtype = torch.float32) -> None:
    """A decoding step, into a new state and in place."""
    leaves = inputs(depth, 1, torch.float32, width=16, hidden=32)
    leaves |= {name: leaves[name].to(dtype) for name in "qkv"}
    weights = initial_state(layers_of(leaves, "M"), B).weights
    anchor = [w + 0.1 * torch.randn_like(w) for w in weights]
    mask = torch.tensor([[True], [False]]) if on else None
    rule = rule_of(leaves, 4, norm=on, residual=on, prior=on)
    memory_scan(tokens_of(leaves, mask), FastState(weights, layers_of(leaves, "S"), anchor), rule, "triton")
    position = torch.tensor([1, 3]) if on else None  # the second row's chunk ends
    rows = FastRows(weights, [s.clone() for s in layers_of(leaves, "S")], anchor if on else [], position)
    memory_step(tokens_of(leaves), rows, rule, "triton")


def around(on: bool, dtype: torch.dtype = torch.float32) -> None:
    """Convolutions, gates and the norm of what is read."""
    past = 3 if on else 0
    results = short_conv.short_conv(
        leaf(2, past + 150, 64, dtype=dtype), leaf(64, 1, 4, dtype=dtype), 32, past, 32, [2.0, 0.0], on
    )
    results += gates.gates(leaf(2, 9, 2 * (3 if on else 1)), 2, 0.5, 0.9, on, on)
    rows = leaf(2, 30, 64, dtype=dtype), leaf(64, 1, 4, dtype=dtype)
    results += short_conv.short_conv(*rows, 32, 0, 32, [2.0, 0.0], on, before=leaf(5, 64, dtype=dtype))
    read, gate = leaf(2, past + 75, 2, 32, dtype=dtype), leaf(2, 75, 64, dtype=dtype)
    scale, weight = leaf(32, dtype=dtype), leaf(24, 64, dtype=dtype)
    results += (gated_norm.gated_norm(read, gate, scale, 1e-6),)
    results += (gated_norm.gated_norm_linear(read, gate, scale, weight, 1e-6),)
    backward(*results)


def retrieval(on: bool, dtype: torch.dtype = torch.float32, width: int = 16) -> None:
    """Reads of a memory that stays as it is."""
    norm = (leaf(2, width), leaf(2, width)) if on else (None, None)
    weights = [torch.randn(2, 2, *shape).div(4).requires_grad_() for shape in ((width, 2 * width), (2 * width, width))]
    backward(retrieve.retrieve(weights, leaf(2, 75, 2, width, dtype=dtype), *norm, on))


def attention(on: bool, dtype: torch.dtype = torch.float32) -> None:
    """Rotary positions, what two calls of attention answered made one, and keys that all queries see."""
    angles = torch.randn(18, 6), torch.randn(18, 6)
    backward(rotary.rotary(leaf(2, 18, 2, 16, dtype=dtype), *angles))
    backward(*rotary.rotary_pair(leaf(2, 18, 2, 2, 16, dtype=dtype), *angles))
    q, y, other, dq, dy = (torch.randn(2, 75, 2, 16, dtype=dtype) for _ in range(5))
    lse, other_lse = torch.randn(2, 2, 75), torch.randn(2, 2, 75)
    flash._merge(y, lse, other, other_lse)
    k, v = (torch.randn(1, 20 if on else 3, 2, 16, dtype=dtype) for _ in range(2))
    flash._add_shared(q, k, v, y, lse)
    flash._shared_backward(dy, q, k, v, y, lse, dq)


@torch.no_grad()
def one_query(parted: bool, dtype: torch.dtype = torch.float32) -> None:
    """Attention of a decoding step, over slots in several parts or as one."""
    n = 700 if parted else 200  # more than a program has loaded at a time
    q, k, v = (torch.randn(2, 2, size, 16, dtype=dtype) for size in (1, n, n))
    seen = torch.arange(n) < torch.tensor([[n - 3], [5]])
    slots.attend_slots(q, k, v, seen)


def residual(on: bool, dtype: torch.dtype = torch.float32) -> None:
    """The norm behind a residual sum, or of the stream as it is."""
    y = leaf(2, 75, 48, dtype=dtype) if on else None
    backward(*residual_norm.residual_norm(leaf(2, 75, 48), y, leaf(48), 1e-6, dtype))


def silu(dtype: torch.dtype = torch.float32) -> None:
    """SwiGLU, and MAG's gate."""
    backward(gating.swiglu_linear(leaf(2, 75, 96, dtype=dtype), leaf(24, 48, dtype=dtype)))
    y, m = leaf(2, 75, 48, dtype=dtype), leaf(2, 75, 48, dtype=dtype)
    backward(gating.gate(y, m, leaf(2, 48, dtype=dtype), 1e-6))
