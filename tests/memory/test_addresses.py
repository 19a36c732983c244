"""The sanitizer of interpreted kernels finds what it is for, and nothing in sizes that no other test launches.

It watches every test of this folder: see `conftest.py`.
"""

import pytest
import torch
from torch import Tensor

from memory.ops import serves

triton = pytest.importorskip("triton")
launches = pytest.importorskip("tests.memory.launches")
tl = pytest.importorskip("triton.language")
interpreted = pytest.mark.skipif(not serves.INTERPRET, reason="sizes for Triton's interpreter")


@triton.jit
def copy_kernel(x, y, n, shift, BLOCK: tl.constexpr):
    """Copies n elements of x, from `shift` on, to y."""
    i = tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i + shift, mask=i < n, other=0.0), mask=i < n)


@triton.jit
def count_kernel(x, at):
    """Adds one to an element of x."""
    tl.atomic_add(x + at, 1)


def copy(x: Tensor, y: Tensor, n: int, shift: int = 0) -> None:
    copy_kernel[(1,)](x, y, n, shift, BLOCK=16)


@interpreted
@pytest.mark.parametrize(
    ("n", "shift", "complaint"),
    [
        (7, 0, "copy_kernel is outside of y: 1 elements behind the last (1 of 7 elements)"),
        (6, -2, "copy_kernel is outside of x: 2 elements before the first (2 of 6 elements)"),
        (6, 1 << 20, "copy_kernel is outside of x: 1048573 elements behind the last (6 of 6 elements)"),
    ],
)
def test_a_wrong_mask_is_named(n: int, shift: int, complaint: str) -> None:
    everything = torch.arange(15.0)
    with pytest.raises(AssertionError) as told:
        copy(everything[:9], everything[9:], n, shift)
    assert str(told.value) == complaint
    copy(everything[:9], everything[9:], 6, 3)
    assert torch.equal(everything[9:], torch.arange(3.0, 9.0))


@interpreted
def test_what_lies_between_a_views_elements_is_outside() -> None:
    every_second = torch.zeros(12)[::2]
    with pytest.raises(AssertionError, match="copy_kernel is outside of x: between two elements"):
        copy(every_second, torch.zeros(2), 2)


@interpreted
def test_sums_in_place_are_looked_at() -> None:
    count = torch.zeros(3, dtype=torch.int32)
    count_kernel[(4,)](count, 2)
    assert count.tolist() == [0, 0, 4]
    with pytest.raises(AssertionError, match="count_kernel is outside of x: 1 elements behind the last"):
        count_kernel[(1,)](count, 3)


@interpreted
@pytest.mark.parametrize(("time", "dtype"), [(1, torch.bfloat16), (2, torch.float32), (129, torch.float32)])
def test_kernels_around_the_recurrence_stay_inside_at_any_length(time: int, dtype: torch.dtype) -> None:
    def leaf(*shape: int) -> Tensor:
        return launches.leaf(*shape, dtype=dtype)

    for past, first, features, width in ((0, 0, 64, 64), (3, 64, 64, 64)):
        x, weight = leaf(2, past + time, features), leaf(features, 1, 4)
        launches.backward(*launches.short_conv.short_conv(x, weight, first, past, width, [2.0, 0.0]))
    x, weight, before = leaf(2, time, 32), leaf(32, 1, 4), leaf(5, 32)
    launches.backward(*launches.short_conv.short_conv(x, weight, 0, 0, 32, [2.0, 0.0], before=before))
    for momentum, forgetting in ((True, False), (False, True)):
        logits = leaf(3, time, 3 * 2)
        launches.backward(*launches.gates.gates(logits, 3, 0.5, 0.9, momentum, forgetting))
    for before in (0, 3):
        read, gate = leaf(2, before + time, 2, 32), leaf(2, time, 64)
        launches.backward(launches.gated_norm.gated_norm_linear(read, gate, leaf(32), leaf(8, 64), 1e-6))
    stream, part, scale = leaf(2, time, 40), leaf(2, time, 40), leaf(40)
    launches.backward(*launches.residual_norm.residual_norm(stream, part, scale, 1e-6, dtype))
    launches.backward(launches.gating.swiglu_linear(leaf(2, time, 2 * 40), leaf(8, 40)))
    launches.backward(launches.gating.gate(leaf(2, time, 40), leaf(2, time, 40), leaf(2, 40), 1e-6))
    queries = leaf(2, time, 3 * 64).chunk(3, -1)[1].unflatten(-1, (2, 32))  # from where a projection left them
    for some in (queries, queries[:1], queries[:, :1]):
        angles = [torch.randn(9 + some.shape[1], 8)[9:] for _ in range(2)]  # behind what was read before
        launches.backward(launches.rotary.rotary(some, *angles))
    pair, angles = leaf(2, time, 2 * 64).unflatten(-1, (2, 2, 32)), [torch.randn(time, 8) for _ in range(2)]
    launches.backward(*launches.rotary.rotary_pair(pair, *angles))
    weights = [torch.randn(2, 2, *shape).div(4).requires_grad_() for shape in ((32, 48), (48, 32))]
    launches.backward(launches.retrieve.retrieve(weights, leaf(2, time, 2, 32), leaf(2, 32), leaf(2, 32), True))


@interpreted
@pytest.mark.parametrize("time", [1, 65])
def test_attention_over_two_sets_of_keys_stays_inside(time: int) -> None:
    q, y, dq, dy = (torch.randn(2, time, 2, 32) for _ in range(4))
    lse = torch.randn(2, 2, time)
    other, other_lse = torch.randn(2, 3, time, 2, 32)[:, 1], torch.randn(2, 3, 2, time)[:, 1]  # a segment of several
    launches.flash._merge(y, lse, other, other_lse)
    k, v = (torch.randn(1, 3, 2, 32) for _ in range(2))
    launches.flash._add_shared(q, k, v, y, lse)
    launches.flash._shared_backward(dy, q, k, v, y, lse, dq)
    assert y.isfinite().all() and dq.isfinite().all()


@interpreted
@pytest.mark.parametrize("slots", [1, 63, 65])
def test_attention_over_few_slots_stays_inside(slots: int) -> None:
    q, k, v = (torch.randn(3, 2, n, 128) for n in (1, slots, slots))
    assert launches.slots.attend_slots(q, k, v, torch.ones(3, slots, dtype=torch.bool)).isfinite().all()
