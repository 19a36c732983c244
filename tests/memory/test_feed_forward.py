"""The feed-forward on a processor."""

import pytest
import torch

from memory import SwiGLU


def test_without_gradients_a_processor_feeds_forward_so_many_tokens_at_once_as_stay_in_its_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("memory.layers.TOKENS_AT_ONCE", 8)
    feed_forward = SwiGLU(16)
    tokens = torch.randn(3, 7, 16)
    wanted = feed_forward(tokens).detach()
    seen = []
    feed_forward.up.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    with torch.no_grad():
        torch.testing.assert_close(feed_forward(tokens), wanted)
    assert seen == [8, 8, 5]
