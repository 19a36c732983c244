"""theta, log eta and log(1 - alpha) from the logits of a linear map, on Triton kernels."""

import torch
import triton
from torch import Tensor, library

from memory.ops.kernels.logits import logits_bwd_kernel, logits_fwd_kernel
from memory.ops.launch import aligned, direct, run

BLOCK = 1024  # heads of tokens of a program


def _launch(
    kernel: triton.JITFunction,
    tensors: list[Tensor],
    heads: int,
    theta_max: float,
    eta_max: float,
    momentum: bool,
    forgetting: bool,
) -> None:
    """Run a kernel on the logits, the first of `tensors`, and what goes with them."""
    places = tensors[0].numel() // (1 + momentum + forgetting)
    constants = {
        "HEADS": heads,
        "BN": BLOCK,
        "THETA_MAX": theta_max,
        "ETA_MAX": eta_max,
        "MOMENTUM": momentum,
        "FORGET": forgetting,
    }
    run(kernel, (triton.cdiv(places, BLOCK),), (*tensors, places), constants, (tensors[0].dtype,), num_warps=4)


def _gates(
    logits: Tensor, heads: int, theta_max: float, eta_max: float, momentum: bool, forgetting: bool
) -> tuple[Tensor, Tensor, Tensor]:
    logits, out = aligned(logits), _fake(logits, heads, theta_max, eta_max, momentum, forgetting)
    _launch(logits_fwd_kernel, [logits, *out], heads, theta_max, eta_max, momentum, forgetting)
    return out


def _fake(logits, heads, theta_max, eta_max, momentum, forgetting):
    return tuple(logits.new_empty(*logits.shape[:2], heads, dtype=torch.float32) for _ in range(3))


_op = library.custom_op("titans::gates", _gates, mutates_args=())
_op.register_fake(_fake)


@library.custom_op("titans::gates_backward", mutates_args=())
def _gates_backward(
    logits: Tensor, dtheta: Tensor, dlog_eta: Tensor, dlog_keep: Tensor, heads: int, theta_max: float, eta_max: float,
    momentum: bool, forgetting: bool,
) -> Tensor:  # fmt: skip
    """Gradient of the logits."""
    tensors = [*map(aligned, (logits, dtheta, dlog_eta, dlog_keep)), logits.new_empty(logits.shape)]
    _launch(logits_bwd_kernel, tensors, heads, theta_max, eta_max, momentum, forgetting)
    return tensors[-1]


@_gates_backward.register_fake
def _(logits, dtheta, dlog_eta, dlog_keep, heads, theta_max, eta_max, momentum, forgetting):
    return logits.new_empty(logits.shape)


def _save(ctx, inputs, output) -> None:
    logits, *ctx.options = inputs
    ctx.save_for_backward(logits)


def _backward(ctx, *grads):
    return _gates_backward(*ctx.saved_tensors, *grads, *ctx.options), *(None,) * 5


_op.register_autograd(_backward, setup_context=_save)


def gates(
    logits: Tensor, heads: int, theta_max: float, eta_max: float, momentum: bool, forgetting: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """theta, log eta and log(1 - alpha), [B, T, heads] in float32.

    Args:
        logits: [B, T, parts * heads], those of theta, then of eta with `momentum`, then of alpha with `forgetting`.
        heads: of the memory.
        theta_max: largest step.
        eta_max: largest decay of momentum.
        momentum: whether eta has logits; else log eta is -inf.
        forgetting: whether alpha has logits; else log(1 - alpha) is 0.
    """
    return direct(_op, _gates)(logits, heads, theta_max, eta_max, momentum, forgetting)
