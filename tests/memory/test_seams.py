"""The seams of the memory's rule: what can be given to it as a value, without a change of any file."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from memory.ops import Rule, Tokens, Unserved, initial_state, memory_scan
from memory.ops.reference import inner_gradient
from tests.memory.problem import SEQUENCES, B, assert_same, inputs, layers_of, rule_of, solve, tokens_of

BOUND = 0.5  # beyond which the loss grows linearly; misses of the random problems lie on both sides of it


def huber(miss: Tensor) -> Tensor:
    """The inner loss of Yaad (Miras, arXiv 2504.13173): a pair that is missed by far pulls no harder than others."""
    return miss.clamp(-BOUND, BOUND)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("norm", [False, True])
def test_an_inner_loss_given_as_a_value_has_the_gradient_of_autograd(depth: int, norm: bool) -> None:
    leaves = {name: leaf.detach() for name, leaf in inputs(depth, 1).items()}
    rule = rule_of(leaves, 1, norm, loss=huber).by_row()
    weights = [w[None].requires_grad_() for w in layers_of(leaves, "M")]
    k, v = (leaves[name][:1, 0, :, None] for name in "kv")
    answers = rule.read(weights, k)
    assert ((answers - v).abs() > BOUND).any() and ((answers - v).abs() < BOUND).any()
    expected = torch.autograd.grad(huber_loss(answers, v, reduction="sum", delta=BOUND), weights)
    for ours, autograd in zip(inner_gradient(weights, weights[-1], k, v, rule), expected, strict=True):
        torch.testing.assert_close(ours, autograd, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("norm", [False, True])
def test_chunked_equals_reference_with_every_gradient_for_another_inner_loss(depth: int, norm: bool) -> None:
    leaves = inputs(depth, 11)
    chunked, reference = (solve(leaves, b, 4, norm=norm, loss=huber) for b in ("chunked", "reference"))
    assert_same(chunked, reference, 1e-9)
    square = solve(leaves, "chunked", 4, norm=norm)
    assert (chunked["y"] - square["y"]).norm() > 1e-3 * square["y"].norm()


def test_kernels_refuse_an_inner_loss_that_they_were_not_written_for() -> None:
    leaves = {name: leaf.detach() for name, leaf in inputs(2, 5, torch.float32, width=16, hidden=32).items()}
    state = initial_state(layers_of(leaves, "M"), B)
    with torch.no_grad(), pytest.raises(Unserved, match="does not serve"):
        memory_scan(tokens_of(leaves), state, Rule(16, loss=huber), "triton")
    one = Tokens(*(leaves[name][:, :1] for name in SEQUENCES))
    with torch.no_grad(), pytest.raises(Unserved, match="does not serve"):
        memory_scan(one, state, Rule(16, loss=huber), "triton")
