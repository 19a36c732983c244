"""Who serves which call: the table that `memory/ops/README.md` prints, and the words of every refusal."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import memory.ops
from memory.ops import Rule, initial_state, serves
from tests.memory.problem import B, inputs, layers_of, rule_of, tokens_of

HEADER = """\
| depth | products in | head width | chunks on Hopper | chunks on other GPUs | Gluon on Hopper |
| --- | --- | --- | --- | --- | --- |"""


def chunks(depth: int, width: int, dtype: torch.dtype, hopper: bool) -> str:
    """Chunks that are served, for a number of hidden units that is."""
    hidden = math.lcm(*serves.GLUON_HIDDEN)
    served = [c for c in serves.CHUNKS if serves.size_refusal(depth, width, hidden, c, dtype, hopper) is None]
    return ", ".join(map(str, served)) or "none"


def gluon(depth: int, width: int, dtype: torch.dtype) -> str:
    """Chunks and hidden units at which the Gluon kernels run."""
    if depth == 1:
        return ""
    units = range(serves.HIDDEN_TILE, 1025, serves.HIDDEN_TILE)
    sizes = [(chunk, e) for chunk in serves.CHUNKS for e in units if serves.uses_gluon(width, e, chunk, dtype, True)]
    return "; ".join(f"chunk {chunk}, {e} hidden units" for chunk, e in sizes)


def table() -> str:
    """What the kernels of the recurrence serve, by depth, dtype and width."""
    rows = [HEADER]
    for depth in range(1, serves.MOST_DEPTH + 1):
        for dtype in (torch.bfloat16, torch.float32):
            for width in serves.WIDTHS:
                cells = [depth, str(dtype).removeprefix("torch."), width]
                cells += [chunks(depth, width, dtype, hopper) for hopper in (True, False)]
                rows.append(f"| {' | '.join(map(str, cells))} | {gluon(depth, width, dtype)} |".replace("|  |", "| |"))
    rows.append("")
    rows.append(f"At depth 2 the hidden units must be a multiple of {serves.HIDDEN_TILE}.")
    rows.append(f"Exact errors are served up to depth {serves.MOST_EXACT_DEPTH}.")
    return "\n".join(rows)


def test_the_readme_says_what_is_served() -> None:
    readme = Path(memory.ops.__file__).with_name("README.md").read_text()
    assert table() in readme, f"put this into memory/ops/README.md:\n{table()}"


def absolute(miss: torch.Tensor) -> torch.Tensor:
    return miss.sign()


@pytest.mark.skipif(not serves.INTERPRET, reason="sizes for Triton's interpreter")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depth": 3}, "a memory of depth 3"),
        ({"channels": True}, "forgetting per channel"),
        ({"chunk": 24}, "a chunk of 24"),
        ({"errors": "exact"}, "a memory of depth 2 with exact errors"),
        ({"loss": absolute}, "an inner loss other than"),
        ({}, None),
    ],
)
def test_a_call_is_refused_by_name(change: dict, words: str | None) -> None:
    leaves = inputs(change.get("depth", 2), 5, torch.float32, change.get("channels", False), width=16, hidden=32)
    rule = rule_of(leaves, change.get("chunk", 16), errors=change.get("errors", "anchor"))
    rule = replace(rule, loss=change.get("loss"))
    refusal = serves.refusal(tokens_of(leaves), initial_state(layers_of(leaves, "M"), B), rule)
    assert refusal == words if words is None else refusal.startswith(words)


def test_exact_errors_have_a_closed_form_only_where_they_are_linear() -> None:
    rule = Rule(4, errors="exact")
    assert serves.no_closed_form(rule) is None
    assert "inner loss" in serves.no_closed_form(replace(rule, loss=absolute))
    assert "LayerNorm" in serves.no_closed_form(replace(rule, norm=(torch.ones(1, 4), torch.zeros(1, 4))))
