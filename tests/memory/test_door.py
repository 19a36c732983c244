"""What does not fit a layer or a backbone is refused in one sentence, before anything is computed or changed."""

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from memory import BackboneConfig, MemoryConfig, MemoryState, NeuralMemory, TitansBackbone
from memory.state import BackboneState, FastState

DIM = 16
VARIANTS = ["lmm", "mac", "mag", "mal", "attention", "swa"]


def layer(**options: object) -> NeuralMemory:
    torch.manual_seed(0)
    return NeuralMemory(DIM, MemoryConfig(**{"heads": 2, "chunk": 4, **options}))


def backbone(variant: str, memory: MemoryConfig | None = None, **options: object) -> TitansBackbone:
    torch.manual_seed(0)
    sizes = {"dim": DIM, "layers": 2, "heads": 2, "window": 5, "segment": 6, "persistent": 3}
    memory = memory or MemoryConfig(heads=2, chunk=4)
    return TitansBackbone(BackboneConfig(variant=variant, memory=memory, **{**sizes, **options}))


def tokens(time: int = 6, batch: int = 2, dim: int = DIM) -> Tensor:
    return torch.randn(batch, time, dim, generator=torch.Generator().manual_seed(1))


def refused(model: nn.Module, message: str, *arguments: object) -> None:
    """The call is refused in one line and nothing has been computed."""
    with (
        mock.patch.object(nn.Linear, "forward", side_effect=AssertionError("computed")),
        mock.patch.object(torch, "bmm", side_effect=AssertionError("computed")),
        pytest.raises(ValueError, match=re.escape(message)) as error,
    ):
        model(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("model", [layer, lambda: backbone("mag")], ids=["layer", "backbone"])
@pytest.mark.parametrize(
    ("x", "mask", "message"),
    [
        (torch.zeros(2, DIM), None, "x has the shape [2, 16]; give tokens [B, T, 16]"),
        (torch.zeros(2, 5, 8), None, "x has the shape [2, 5, 8]; give tokens [B, T, 16]"),
        (torch.zeros(2, 0, DIM), None, "there is no token: x has the shape [2, 0, 16]"),
        (torch.zeros(2, 5, DIM, dtype=torch.long), None, "x is torch.int64; give floating-point tokens"),
        (torch.zeros(2, 5, DIM, device="meta"), None, "x is on meta and the layer on cpu"),
        (torch.zeros(2, 1, DIM), torch.ones(2, 6), "mask has the shape [2, 6] and x [2, 1, 16]"),
        (torch.zeros(2, 6, DIM), torch.ones(2, 1), "mask has the shape [2, 1] and x [2, 6, 16]"),
        (torch.zeros(2, 6, DIM), torch.ones(1, 6), "mask has the shape [1, 6]"),
        (torch.zeros(2, 6, DIM), torch.ones(2, 6, 1), "mask has the shape [2, 6, 1]"),
        (torch.zeros(2, 6, DIM), torch.ones(2, 6, device="meta"), "mask is on meta and x on cpu"),
    ],
)
def test_tokens_and_masks_that_do_not_fit(model: Callable, x: Tensor, mask: Tensor | None, message: str) -> None:
    refused(model(), message, x, None, mask)


def test_tokens_of_another_dtype_need_autocast() -> None:
    refused(layer(), "x is torch.bfloat16 and the layer torch.float32", tokens().bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        layer()(tokens().bfloat16())


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32, torch.uint8])
@pytest.mark.parametrize("model", [layer, lambda: backbone("mac")], ids=["layer", "backbone"])
def test_a_mask_may_be_of_any_dtype(model: Callable, dtype: torch.dtype) -> None:
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    expected, _ = model()(tokens(), mask=mask.bool())
    y, _ = model()(tokens(), mask=mask.to(dtype))
    assert torch.equal(y, expected)


STATES = {
    "deeper": (lambda: layer(depth=3), "state is of a memory of depth 3, and this one has depth 2"),
    "another chunk": (lambda: layer(chunk=8), "gradients are taken every 8 tokens, and this one takes them every 4"),
    "exact errors": (lambda: layer(depth=1, norm=False, errors="exact"), "taken every 1 tokens"),
    "more heads": (lambda: layer(heads=4), "state holds [2, 4, 4, 8] where this layer needs [2, 2, 8, 16]"),
    "wider": (lambda: layer(expansion=4), "state holds [2, 2, 8, 32] where this layer needs [2, 2, 8, 16]"),
    "wider convolution": (
        lambda: layer(conv=6),
        "convolution cache holds [2, 5, 16] where this layer needs [2, 3, 16]",
    ),
    "float64": (lambda: layer().double(), "state is torch.float64 and this memory continues torch.float32"),
}


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("read", [3, 8])
def test_a_state_of_another_memory(kind: str, read: int) -> None:
    other, message = STATES[kind]
    other = other()
    _, state = other(tokens(read).to(other.init[0].dtype))
    refused(layer(), message, tokens(), state)


def test_a_state_of_other_sequences_or_another_place() -> None:
    memory = layer()
    _, state = memory(tokens(3))
    refused(memory, "state is of 2 sequences and x of 3", tokens(batch=3), state)
    refused(memory, "state is of 2 sequences and x of 1", tokens(batch=1), state)
    refused(memory, "state is a FastState and this layer continues a MemoryState", tokens(), state.fast)
    refused(memory, "state is at position 4 of a chunk", tokens(), replace(state, fast=replace(state.fast, position=4)))
    refused(memory, "state is on meta and x on cpu; move it with .to", tokens(), state.to("meta"))
    plain = layer(conv=0)
    refused(plain, "state is of a layer with a convolution, and this one has none", tokens(), state)
    fast = replace(state.fast, momentum=state.fast.momentum[:1])
    refused(memory, "depth 1", tokens(), replace(state, fast=fast))
    for name in ("weights", "momentum", "anchor"):  # each of them, not the first alone
        part = getattr(state.fast, name)
        for wrong, message in ((part[1].double(), "state is torch.float64"), (part[1].to("meta"), "state is on meta")):
            refused(memory, message, tokens(), replace(state, fast=replace(state.fast, **{name: [part[0], wrong]})))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("other", VARIANTS)
def test_a_state_of_another_variant(variant: str, other: str) -> None:
    if variant != other:
        _, state = backbone(other)(tokens())
        with pytest.raises(ValueError, match="^state is "):
            backbone(variant)(tokens(), state)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_backbones_state_of_other_sizes(variant: str) -> None:
    model = backbone(variant)
    _, state = model(tokens(7))
    refused(model, "state is a list and this layer continues a BackboneState", tokens(), state.blocks)
    others = [("state is of blocks with", {"layers": 3})]
    if variant in ("mag", "mal", "swa"):
        others.append(("a window of 7, and this one sees a window of 5", {"window": 7}))
    if variant == "mac":
        others.append(("state is of segments of 8 tokens, and this mixer's have 6", {"segment": 8}))
    if variant in ("mag", "mal", "swa", "attention"):
        others.append(("convolution", {"conv": 3}))
        others.append(("where this layer needs", {"heads": 4}))
    for message, options in others:
        _, strange = backbone(variant, **options)(tokens(7))
        with pytest.raises(ValueError, match=message):
            model(tokens(), strange)
    with pytest.raises(ValueError, match="is of 2 sequences and x of 3"):
        model(tokens(batch=3), state)


def test_reading_with_weights_or_a_cache_of_another_memory() -> None:
    memory, other = layer(), layer(depth=1)
    with pytest.raises(ValueError, match="weights are of layers"):
        memory.retrieve(tokens(), list(other.init), None)
    _, cache = memory.retrieve(tokens(), list(memory.init), None)
    with pytest.raises(ValueError, match="convolution cache is of 2 sequences and x of 3"):
        memory.retrieve(tokens(batch=3), list(memory.init), cache)


def test_refusing_leaves_no_trace() -> None:
    memory = layer()
    _, state = memory(tokens())
    before = copy.deepcopy(state.detach())
    with pytest.raises(ValueError, match="mask"):
        memory(tokens(1), state, torch.ones(2, 6))
    assert all(torch.equal(a, b) for a, b in zip(state.tensors(), before.tensors(), strict=True))


def test_a_width_that_heads_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"dim 16 is not divisible by memory.heads 3"):
        NeuralMemory(16, MemoryConfig(heads=3))


@pytest.mark.parametrize(
    ("field", "wrong", "kind"),
    [
        *(("heads", wrong, "a whole number") for wrong in ("2", 2.0, None, True, [2])),
        *(("forgetting", wrong, "true or false") for wrong in ("no", 0, None)),
        *(("head_dim", wrong, "a whole number or null") for wrong in ("a", 2.5, True)),
        *(("theta_max", wrong, "a number or null") for wrong in ("1", [1.0], False)),
        *(("forgetting_start", wrong, "a number, or two") for wrong in ("-4", None, (1, 2, 3), (1, "2"))),
    ],
)
def test_a_field_of_another_kind(field: str, wrong: object, kind: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"memory.{field} is {wrong!r}; it must be {kind}")):
        MemoryConfig(**{field: wrong})


def test_a_memory_that_is_no_config() -> None:
    with pytest.raises(ValueError, match=r"backbone.memory is \{'heads': 2\}; it must be a MemoryConfig"):
        BackboneConfig(memory={"heads": 2})


def test_a_layer_needs_nothing_but_a_width() -> None:
    y, _ = NeuralMemory(16)(tokens())
    assert y.shape == (2, 6, 16)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_reentrant_checkpoint_is_refused(variant: str) -> None:
    model, x = backbone(variant), tokens().requires_grad_()
    with pytest.raises(ValueError, match="pass use_reentrant=False"):
        checkpoint(model, x, None, None, use_reentrant=True)
    memory = layer()
    _, state = memory(tokens())
    for call, argument in ((memory, x), (lambda x: memory(x, state), x), (lambda x: memory(x.detach(), state), x)):
        with pytest.raises(ValueError, match="pass use_reentrant=False"):
            checkpoint(call, argument, use_reentrant=True)
    with torch.no_grad():
        memory(x, state)  # inference on tokens that have a graph


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_backbone_runs_on_meta(variant: str) -> None:
    model = backbone(variant, conv=2).to("meta")
    model.record(True)
    y, state = model(tokens(7).to("meta"))
    y, state = model(torch.ones(2, 1, DIM, device="meta"), state, torch.ones(2, 1, device="meta"))
    assert y.is_meta and all(t.is_meta for t in state.tensors())


@pytest.mark.parametrize("options", [{}, {"conv": 0, "norm": False}, {"depth": 3, "forgetting_start": (-4.0, -8.0)}])
def test_parameters_drawn_anew_are_those_of_a_new_layer(options: dict) -> None:
    empty = layer(**options).to("meta").to_empty(device="cpu")
    for p in empty.parameters():
        nn.init.constant_(p, float("nan"))
    new = layer(**options)
    torch.manual_seed(0)
    empty.reset_parameters()
    for (name, a), (_, b) in zip(empty.named_parameters(), new.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    y, _ = empty(tokens())
    assert torch.equal(y, new(tokens())[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_state_is_a_pytree_of_its_tensors(variant: str) -> None:
    model = backbone(variant)
    _, state = model(tokens(7), None, torch.ones(2, 7))
    leaves, spec = torch.utils._pytree.tree_flatten(state)
    assert leaves == state.tensors() and all(isinstance(leaf, Tensor) for leaf in leaves)
    same = torch.utils._pytree.tree_map(torch.clone, state)
    assert torch.utils._pytree.tree_structure(same) == spec
    y, _ = model(tokens(), same)
    assert torch.equal(y, model(tokens(), state)[0])
    paths, _ = torch.utils._pytree.tree_flatten_with_path(state)
    assert torch.utils._pytree.keystr(paths[0][0]).startswith(".blocks[0][0].")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_state_is_moved_copied_and_converted(variant: str) -> None:
    model = backbone(variant)
    _, state = model(tokens(7))
    copied = state.clone()
    assert not {t.data_ptr() for t in copied.tensors()} & {t.data_ptr() for t in state.tensors() if t.numel()}
    assert copied.tensors()[0].requires_grad and not copied.detach().tensors()[0].requires_grad
    assert all(t.is_meta for t in state.to("meta").tensors())
    exact = state.to(torch.float64)
    for before, after in zip(state.tensors(), exact.tensors(), strict=True):
        assert after.dtype == (torch.float64 if before.is_floating_point() else before.dtype)
    y, _ = model.double()(tokens().double(), exact)
    torch.testing.assert_close(y.float(), model.float()(tokens(), state)[0], rtol=0, atol=1e-4)


def test_states_of_different_models_do_not_mix() -> None:
    _, state = backbone("lmm")(tokens())
    for other in (backbone("mag"), backbone("lmm", layers=3)):
        with pytest.raises(ValueError, match="states of different models"):
            other.begin().where(torch.tensor([True, False]), state)


class Plain(nn.Module):
    """A mixer of the user's own whose state holds a list and a plain value."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, state: object, mask: Tensor | None) -> tuple[Tensor, MemoryState]:
        """A state in which nothing happens."""
        fast = FastState([self.linear.weight], [], [], 3)
        return self.linear(x), MemoryState(fast)


def test_a_users_mixer_needs_no_more_than_a_state() -> None:
    model = backbone(f"{__name__}.Plain")
    _, state = model(tokens())
    _, state = model(tokens(), BackboneState([list(block) for block in state.blocks]))
    assert state.blocks[0][0].fast.position == 3


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}], ids=["plain", "dropout"])
def test_recomputed_activations_give_the_same_gradients(variant: str, options: dict) -> None:
    x = tokens(13).requires_grad_()

    def gradients(**more: object) -> list[Tensor]:
        model = backbone(variant, **options, **more)
        torch.manual_seed(2)
        y, state = model(x[:, :7])
        z, end = model(x[:, 7:], state)
        loss = y.square().sum() + z.square().sum() + sum(t.float().square().sum() for t in end.tensors())
        wanted = [x, *(t for t in state.tensors() if t.requires_grad), *(p for p in model.parameters() if p.numel())]
        return [y, z, *end.tensors(), *torch.autograd.grad(loss, wanted)]

    plain, again = gradients(), gradients(checkpoint=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_recomputing_saves_less_and_measures_once() -> None:
    saved = {}
    for again in (False, True):
        model = backbone("lmm", checkpoint=again)
        sizes: list[int] = []

        def count(t: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(t.numel())
            return t

        model.record(True)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            y, _ = model(tokens(12))
        saved[again] = sum(sizes)
        y.sum().backward()
        assert [len(memory.health) for memory in model.memories().values()] == [1, 1]
        assert all(memory.recording for memory in model.memories().values())
    assert saved[True] < saved[False] / 3


def test_the_door_is_part_of_one_compiled_graph() -> None:
    torch.compiler.reset()
    memory = layer(depth=1, conv=0)
    compiled = torch.compile(memory, fullgraph=True, backend="eager")
    _, state = memory(tokens(2))
    state = state.detach()
    mask = torch.ones(2, 2)
    torch.testing.assert_close(compiled(tokens(2), state, mask)[0], memory(tokens(2), state, mask)[0])


def test_recomputed_blocks_compile_into_one_graph() -> None:
    torch.compiler.reset()
    memory = MemoryConfig(heads=2, chunk=4, depth=1, conv=0)
    model = backbone("lmm", memory, checkpoint=True, layers=1, persistent=0)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    x = tokens(2).requires_grad_()
    (expected,) = torch.autograd.grad(model(x)[0].square().sum(), x)
    (grad,) = torch.autograd.grad(compiled(x)[0].square().sum(), x)
    torch.testing.assert_close(grad, expected)
