"""What the attention beside a memory sees: its window, persistent tokens, MAC's context, and a convolution's tokens."""

import pytest
import torch
from torch.nn import functional as F

from memory import MemoryConfig
from memory.attention import Attention
from memory.layers import ShortConv
from memory.mixers import ContextMixer
from tests.memory.test_backbone import DIM, TIME, backbone, config, tokens


@pytest.mark.parametrize("window", [1, 4, 30, None])
def test_attention_sees_its_window_and_the_persistent_tokens(window: int | None) -> None:
    torch.manual_seed(0)
    attention, x = Attention(DIM, 2, persistent=3, window=window).double(), tokens()
    angles = attention.angles(x, torch.arange(TIME))
    q, (k, v) = attention.queries(x, angles), attention.keys_values(x, angles)
    pk, pv = attention.persistent_keys_values(attention.persistent, 2)
    behind = torch.arange(TIME)[:, None] - torch.arange(TIME)
    allowed = F.pad((behind >= 0) & (behind < (window or TIME)), (3, 0), value=True)
    plain = F.scaled_dot_product_attention(q, torch.cat([pk, k], 2), torch.cat([pv, v], 2), allowed)
    torch.testing.assert_close(attention(x)[0], attention.output(plain), rtol=0, atol=1e-12)


def test_persistent_tokens_are_attended_to_alike_at_every_position() -> None:
    attention, x = Attention(DIM, 2, persistent=3, window=4).double(), tokens()
    pk, _ = attention.persistent_keys_values(attention.persistent, 2)
    near, far = (attention.queries(x, attention.angles(x, start + torch.arange(TIME))) @ pk.mT for start in (0, 10**6))
    torch.testing.assert_close(near, far, rtol=0, atol=1e-12)


def test_mac_follows_its_equations_over_two_segments() -> None:
    torch.manual_seed(0)
    mac, x = (
        ContextMixer(config(variant="mac", memory=MemoryConfig(heads=2, chunk=4, conv=0))).double(),
        tokens()[:, :12],
    )
    memory, attention, weights, state, ys = mac.memory, mac.attention, None, None, []
    weights, angles = memory.initial_state(2).fast.weights, attention.angles(x, torch.arange(6))
    for segment in x.split(6, 1):
        h, _ = memory.retrieve(segment, weights, None)  # eq. 21: the memory before the segment
        pk, pv = attention.persistent_keys_values(mac.persistent, 2)
        (hk, hv), (sk, sv) = attention.keys_values(h, angles), attention.keys_values(segment, angles)
        causal = torch.ones(6, 6, dtype=torch.bool).tril()
        allowed = torch.cat([torch.ones(6, 3, dtype=torch.bool), causal, causal], 1)  # eq. 22: [P | h | S]
        keys, values = torch.cat([pk, hk, sk], 2), torch.cat([pv, hv, sv], 2)
        y = attention.output(
            F.scaled_dot_product_attention(attention.queries(segment, angles), keys, values, allowed)
        )  # eq. 23
        m, state = memory(y, state)  # eq. 24 and the reads of eq. 25
        ys.append(mac.gate(y, m))
        weights = state.fast.weights
    torch.testing.assert_close(mac(x)[0], torch.cat(ys, 1), rtol=0, atol=1e-12)


def test_a_convolution_on_attention_starts_as_nothing_but_for_the_keys_of_half_the_heads() -> None:
    """A model with one that copies is the model without; training moves it, and then each token sees those before."""
    plain, convolved = backbone(variant="swa"), backbone(variant="swa", conv=4)
    convolved.load_state_dict(plain.state_dict(), strict=False)
    for block in convolved.blocks:
        torch.nn.init.zeros_(block.mixers[0].conv.weight)
        torch.nn.init.ones_(block.mixers[0].conv.weight[..., -1])
    torch.testing.assert_close(convolved(tokens())[0], plain(tokens())[0], rtol=0, atol=1e-12)
    attention = Attention(DIM, heads=4, persistent=2, window=4, conv=3)
    own, before = attention.conv.weight[:, 0, -1], attention.conv.weight[:, 0, -2]
    keys_of_two_heads = torch.zeros(3 * DIM)
    keys_of_two_heads[DIM : DIM + DIM // 2] = 1
    torch.testing.assert_close(before.detach(), keys_of_two_heads)
    torch.testing.assert_close(own.detach(), 1 - keys_of_two_heads)
    x, width = tokens(), 4
    conv = ShortConv(DIM, width).double()
    torch.testing.assert_close(conv(x, None)[0], x, rtol=0, atol=0)
    torch.nn.init.normal_(conv.weight)
    before = F.pad(x, (0, 0, width - 1, 0))
    expected = sum(before[:, i : i + TIME] * conv.weight[:, 0, i] for i in range(width))
    torch.testing.assert_close(conv(x, None)[0], expected, rtol=0, atol=1e-12)
