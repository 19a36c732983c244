"""From the logits of a linear map to what the recurrence takes for gates, in one pass forward and one backward.

With a, b, c the logits of a token's head: eta = ETA_MAX sigmoid(b), theta = THETA_MAX sigmoid(a) (1 - eta) and
log(1 - alpha) = log sigmoid(-c). The factor 1 - eta keeps the sum of the 1 / (1 - eta) steps of momentum.
"""

import triton
import triton.language as tl

from memory.ops.kernels import SIZES


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
def logits_fwd_kernel(
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
def logits_bwd_kernel(
    logits, dtheta, dlog_eta, dlog_keep, dlogits, N, HEADS: tl.constexpr, BN: tl.constexpr, THETA_MAX: tl.constexpr,
    ETA_MAX: tl.constexpr, MOMENTUM: tl.constexpr, FORGET: tl.constexpr,
):  # fmt: skip
    """grid as `logits_fwd_kernel`: gradient of the logits."""
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
