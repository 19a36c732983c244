"""The memory of one or two layers on a Triton kernel that takes one token in one launch: generation, no gradients."""

import torch
from torch import Tensor, library

from memory.ops.inputs import ScanInputs
from memory.ops.kernels.step import step_kernel
from memory.ops.launch import INTERPRET, aligned, direct, run
from memory.ops.mlp import EPS
from memory.state import FastState

WARPS = 4  # on an H100: 11.6 us a token against 13.6 with 8 and 4096
TILE = 2048  # weights: 16 registers of a thread, which holds six tiles


def serves(q: Tensor, state: FastState, log_keep: Tensor) -> bool:
    """Whether the kernel can take a call: one token, nothing to differentiate, float32 state of one or two layers."""
    weights = state.weights
    return (
        q.shape[1] == 1
        and not torch.is_grad_enabled()
        and (q.is_cuda or INTERPRET)
        and len(weights) <= 2
        and (log_keep.dim() == 3 or log_keep.shape[-1] == 1)
        and q.shape[-1] in (16, 32, 64, 128)
        and weights[0].shape[-1] % 16 == 0
        and weights[0].dtype == torch.float32
        and q.dtype != torch.float64
    )


def _launch(
    q: Tensor, k: Tensor, v: Tensor, theta: Tensor, log_eta: Tensor, log_keep: Tensor, mask: Tensor | None,
    weights: list[Tensor], momentum: list[Tensor], anchor: list[Tensor], prior: list[Tensor], scale: Tensor | None,
    shift: Tensor | None, residual: bool,
) -> list[Tensor]:  # fmt: skip
    """y, then the new weights and the new momentum per layer; an empty prior is zero."""
    q, k, v, theta, log_eta, log_keep, mask, scale, shift = map(
        aligned, (q, k, v, theta, log_eta, log_keep, mask, scale, shift)
    )
    batch, _, heads, width = q.shape
    units = weights[-1].shape[-2]
    y, *state = [torch.empty_like(t) for t in (v, *weights, *momentum)]
    depth, missing = len(weights), [None] * (2 - len(weights))
    layers = [map(aligned, part) for part in (weights, momentum, anchor, prior or [None] * depth)]
    old = [t for part in layers for t in (*missing, *part)]
    new = [*missing, *state[:depth], *missing, *state[depth:]]
    args = (q, k, v, theta, log_eta, log_keep, mask, *old, scale, shift, y, *new, heads)
    constants = {"D": width, "E": units, "BE": min(units & -units, TILE // width), "RES": residual, "EPS": EPS}
    call = tuple(getattr(arg, "dtype", None) for arg in args)
    run(step_kernel, (batch * heads,), args, constants, call, num_warps=WARPS, num_stages=1)
    return [y, *state]


_op = library.custom_op("titans::step", _launch, mutates_args=())


@_op.register_fake
def _(q, k, v, theta, log_eta, log_keep, mask, weights, momentum, anchor, prior, scale, shift, residual):
    return [t.new_empty(t.shape) for t in (v, *weights, *momentum)]


def step(x: ScanInputs, state: FastState) -> tuple[Tensor, FastState]:
    """See `memory.ops.memory_scan`, for calls that `serves` accepts; inputs may be of any dtype but float64."""
    # contiguous already but for the state that another kernel left
    weights, momentum, anchor, prior = (
        [w.contiguous() for w in part] for part in (state.weights, state.momentum, state.anchor, x.prior or [])
    )
    tokens = (x.q, x.k, x.v, x.theta, x.log_eta, x.log_keep, x.mask)
    y, *new = direct(_op, _launch)(*tokens, weights, momentum, anchor, prior, x.scale, x.shift, x.residual)
    weights, momentum = new[: len(weights)], new[len(weights) :]
    position = 0 if x.exact else (state.position + 1) % x.chunk
    return y, FastState(weights, momentum, anchor if position else weights, position)
