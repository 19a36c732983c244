"""theta, log eta and log(1 - alpha) from the logits of a linear map, in one pass forward and one backward.

With a, b, c the logits of a token's head: eta = ETA_MAX sigmoid(b), theta = THETA_MAX sigmoid(a) (1 - eta) and
log(1 - alpha) = log sigmoid(-c). The factor 1 - eta keeps the sum of the 1 / (1 - eta) steps of momentum.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, library

from memory.ops.triton.kernels import SIZES
from memory.ops.triton.launch import aligned, cdiv, direct, run

BLOCK = 1024  # heads of tokens of a program


@triton.jit
def sigmoid_1(x):
    """Sigmoid and its logarithm, for logits of any size."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x < 0, small, 1.0) / (1.0 + small), tl.minimum(x, 0.0) - tl.log(1.0 + small)


@triton.jit
def load_logits(logits, N, HEADS: tl.constexpr, BN: tl.constexpr, MOMENTUM: tl.constexpr, FORGET: tl.constexpr):
    """Places of a program's heads among all and among the logits, which of them are real, and a, b, c (or 0)."""
    i = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    inside = i < N
    at = i // HEADS * HEADS * (1 + MOMENTUM + FORGET) + i % HEADS
    a = tl.load(logits + at, mask=inside, other=0.0).to(tl.float32)
    b, c = tl.zeros([BN], tl.float32), tl.zeros([BN], tl.float32)
    if MOMENTUM:
        b = tl.load(logits + at + HEADS, mask=inside, other=0.0).to(tl.float32)
    if FORGET:
        c = tl.load(logits + at + HEADS * (1 + MOMENTUM), mask=inside, other=0.0).to(tl.float32)
    return i, at, inside, a, b, c


@triton.jit(do_not_specialize=SIZES)
def gates_fwd_kernel(
    logits, theta, log_eta, log_keep, N, HEADS: tl.constexpr, BN: tl.constexpr, THETA_MAX: tl.constexpr,
    ETA_MAX: tl.constexpr, MOMENTUM: tl.constexpr, FORGET: tl.constexpr,
):  # fmt: skip
    """grid (blocks of BN of the N = B*T*H places,). logits: [B, T, parts, H], a, b and c as far as there are; the rest:
    [B, T, H]."""
    i, _, inside, a, b, c = load_logits(logits, N, HEADS, BN, MOMENTUM, FORGET)
    step, _ = sigmoid_1(a)
    if MOMENTUM:
        share, log_of_share = sigmoid_1(b)
        rest, _ = sigmoid_1(-b)
        step *= rest + (1.0 - ETA_MAX) * share
        tl.store(log_eta + i, log_of_share + tl.log(tl.full([BN], ETA_MAX, tl.float32)), mask=inside)
    else:
        tl.store(log_eta + i, tl.full([BN], float("-inf"), tl.float32), mask=inside)
    if FORGET:
        _, log_of_keep = sigmoid_1(-c)
        tl.store(log_keep + i, log_of_keep, mask=inside)
    else:
        tl.store(log_keep + i, tl.zeros([BN], tl.float32), mask=inside)
    tl.store(theta + i, THETA_MAX * step, mask=inside)


@triton.jit(do_not_specialize=SIZES)
def gates_bwd_kernel(
    logits, dtheta, dlog_eta, dlog_keep, dlogits, N, HEADS: tl.constexpr, BN: tl.constexpr, THETA_MAX: tl.constexpr,
    ETA_MAX: tl.constexpr, MOMENTUM: tl.constexpr, FORGET: tl.constexpr,
):  # fmt: skip
    """grid as `gates_fwd_kernel`: gradient of the logits."""
    i, at, inside, a, b, c = load_logits(logits, N, HEADS, BN, MOMENTUM, FORGET)
    of_theta = THETA_MAX * tl.load(dtheta + i, mask=inside, other=0.0)
    step, _ = sigmoid_1(a)
    missed, _ = sigmoid_1(-a)
    of_theta *= step
    if MOMENTUM:
        share, _ = sigmoid_1(b)
        rest, _ = sigmoid_1(-b)
        db = rest * (tl.load(dlog_eta + i, mask=inside, other=0.0) - ETA_MAX * share * of_theta)
        of_theta *= rest + (1.0 - ETA_MAX) * share
        tl.store(dlogits + at + HEADS, db.to(dlogits.dtype.element_ty), mask=inside)
    if FORGET:
        alpha, _ = sigmoid_1(c)
        dc = -alpha * tl.load(dlog_keep + i, mask=inside, other=0.0)
        tl.store(dlogits + at + HEADS * (1 + MOMENTUM), dc.to(dlogits.dtype.element_ty), mask=inside)
    tl.store(dlogits + at, (missed * of_theta).to(dlogits.dtype.element_ty), mask=inside)


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
    grid = (cdiv(places, BLOCK),)
    run(kernel, grid, (*tensors, places), constants, (tensors[0].dtype,), num_warps=4)


def _gates(
    logits: Tensor, heads: int, theta_max: float, eta_max: float, momentum: bool, forgetting: bool
) -> tuple[Tensor, Tensor, Tensor]:
    out = _fake(logits, heads, theta_max, eta_max, momentum, forgetting)
    _launch(gates_fwd_kernel, [aligned(logits), *out], heads, theta_max, eta_max, momentum, forgetting)
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
    tensors = [aligned(t) for t in (logits, dtheta, dlog_eta, dlog_keep)]
    tensors.append(logits.new_empty(logits.shape))
    _launch(gates_bwd_kernel, tensors, heads, theta_max, eta_max, momentum, forgetting)
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
