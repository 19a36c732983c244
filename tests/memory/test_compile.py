"""Each path of a layer is one graph to a compiler, which follows a memory's recurrence for seconds."""

import pytest
import torch

from tests.memory.test_backbone import EXACT, backbone, label, tokens

# a recurrence as few times as there are ways around it: what attention does alone is compiled without one
PATHS = [
    {"variant": "lmm"},
    {"variant": "mac", "memory": EXACT},
    {"variant": "mac", "summary_tokens": 3},
    {"variant": "mag"},
    {"variant": "mal"},
    {"variant": "attention"},
    {"variant": "swa"},
    {"variant": "swa", "persistent": 0},
    {"variant": "swa", "conv": 4},
    {"variant": "attention", "conv": 3},
]


@pytest.mark.parametrize("options", PATHS, ids=label)
def test_torch_compile_sees_one_graph(options: dict) -> None:
    torch.compiler.reset()  # it compiles a function for a few kinds of module only, and counts over all tests
    model, x = backbone(layers=1, **options), tokens(time=8)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x)[0], model(x)[0], rtol=0, atol=1e-12)
