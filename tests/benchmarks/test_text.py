"""Equal parameters, equal tokens, and gates that follow from the controls."""

import pytest

from benchmarks.shared.equal import layers_for
from benchmarks.shared.runs import resolved
from benchmarks.text import VARIANTS, config, gates, rows_of


@pytest.mark.parametrize("task", VARIANTS)
def test_controls_have_the_parameters_of_the_memories(task: str) -> None:
    own = resolved(["--config", config(task)])["model"]["backbone"]
    assert layers_for(own, own) == own["layers"]
    assert layers_for(own, {**own, "variant": "attention"}) == 1.5 * own["layers"]


def result(nats: float) -> dict:
    metrics = {"nats at 4096": nats, "nats at 16384": nats, "bpb at 4096": 1.0}
    return {"metrics": metrics, "device": "cpu", "command": "x", "parameters": 7, "tokens": 9, "steps": 3, "step": 0.1}


def test_books_are_judged_by_their_controls() -> None:
    results = {"mac": result(3.0)}
    assert gates("books", results) == ("", "")
    results |= {"attention": result(3.1), "swa": result(3.15)}
    assert gates("books", results) == ("<= 3.1100", "<= 3.0800")
    results["swa"] = result(3.05)
    assert gates("books", results)[0] == "<= 3.0500" and gates("shakespeare", {}) == ("<= 1.47", "<= 1.45")
    assert [row.must for row in rows_of("books", "mac", results, 0)] == ["<= 3.0500", "", ""]
    assert not any(row.must or row.aim for row in rows_of("books", "attention", results, 0))
