"""Every variant: causal, exact when streamed, the same twice, rows independent, all parameters trained."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from memory import BackboneConfig, MemoryConfig, SwiGLU, TitansBackbone
from memory.state import KVCache
from tests.memory.problem import mixing

DIM, TIME = 16, 23
EXACT = MemoryConfig(heads=2, head_dim=12, depth=1, norm=False, errors="exact", chunk=4)
VARIANTS = [
    {"variant": "lmm"},
    {"variant": "mac"},
    {"variant": "mac", "summary_tokens": 3},
    {"variant": "mag"},
    {"variant": "mal"},
    {"variant": "attention"},
    {"variant": "swa"},
    {"variant": "mag", "persistent": 0},
    {"variant": "swa", "conv": 4},
    {"variant": "attention", "conv": 3},
    {"variant": "mag", "conv": 2},
    {"variant": "lmm", "memory": EXACT},
    {"variant": "mac", "memory": EXACT},
]


def label(options: dict) -> str:
    """What a test of a variant is called."""
    return "-".join("exact" if value is EXACT else str(value) for value in options.values())


every_variant = pytest.mark.parametrize("options", VARIANTS, ids=label)


def config(**options: object) -> BackboneConfig:
    sizes = {"dim": DIM, "layers": 2, "heads": 2, "window": 5, "segment": 6, "persistent": 3}
    return BackboneConfig(**{**sizes, "memory": MemoryConfig(heads=2, chunk=4), **options})


def backbone(scale: float | None = None, **options: object) -> TitansBackbone:
    torch.manual_seed(0)
    model = mixing(TitansBackbone(config(**options))).double()
    if scale is not None:
        for name, p in model.named_parameters():
            if p.dim() > 1 and "init" not in name:
                torch.nn.init.normal_(p, std=scale)
    return model


def tokens(batch: int = 2, time: int = TIME) -> Tensor:
    return torch.randn(batch, time, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@every_variant
def test_no_sequence_at_all_is_read(options: dict) -> None:
    model, x = backbone(**options), tokens(batch=0)
    y, state = model(x)
    again, _ = model(x, state)
    assert y.shape == again.shape == x.shape
    grads = torch.autograd.grad(again.sum() + y.sum(), list(model.parameters()))
    assert not any(grad.any() for grad in grads)


@every_variant
@pytest.mark.parametrize("scale", [0.02, 0.2])
def test_no_output_depends_on_a_later_token(options: dict, scale: float) -> None:
    model, x = backbone(scale, **options), tokens()
    before, _ = model(x)
    for j in (1, 7, 12, TIME - 1):
        changed = x.clone()
        changed[:, j:] = 3 * torch.randn_like(changed[:, j:])
        after, _ = model(changed)
        torch.testing.assert_close(after[:, :j], before[:, :j], rtol=0, atol=1e-12)
        assert (after[:, j] - before[:, j]).abs().max() > 1e-3


def stream(model: TitansBackbone, x: Tensor, cuts: list[int], mask: Tensor | None = None) -> Tensor:
    """What the model answers to x in pieces of `cuts` tokens."""
    state, ys = None, []
    masks = [None] * len(cuts) if mask is None else mask.split(cuts, 1)
    for piece, piece_mask in zip(x.split(cuts, 1), masks, strict=True):
        y, state = model(piece, state, piece_mask)
        ys.append(y)
    return torch.cat(ys, 1)


SIZES = [
    (options, sizes)
    for options in VARIANTS
    # one layer but in the first, where two must not take one another's state
    for sizes in ({}, {"window": 1, "segment": 1, "layers": 1}, {"window": 100, "segment": 100, "layers": 1})
    if not sizes or options["variant"] not in ("lmm", "attention")  # which have neither windows nor segments
]


@pytest.mark.parametrize(("options", "sizes"), SIZES, ids=str)
def test_streaming_is_one_call_for_every_cut(options: dict, sizes: dict) -> None:
    model, x = backbone(**options, **sizes), tokens(time=13)
    whole, _ = model(x)
    # where windows and segments end at every place or at none, only the place in a chunk matters
    places = (3, 4, 6, 9) if sizes else range(1, 13)
    for cuts in [[cut, 13 - cut] for cut in places] + [[1] * 13, [2, 3, 1, 7]]:
        torch.testing.assert_close(stream(model, x, cuts), whole, rtol=0, atol=1e-10)


@every_variant
def test_gradients_flow_through_a_carried_state(options: dict) -> None:
    model = backbone(**options, layers=1).requires_grad_(False)
    x = tokens(batch=1, time=9).requires_grad_()
    direction = torch.randn(1, 9, DIM, dtype=torch.float64)
    whole, pieces = ((y * direction).sum() for y in (model(x)[0], stream(model, x, [4, 5])))
    expected, streamed = (torch.autograd.grad(loss, x)[0] for loss in (whole, pieces))
    torch.testing.assert_close(streamed, expected, rtol=0, atol=1e-10)
    assert torch.autograd.gradcheck(lambda x: stream(model, x, [4, 5]), x, fast_mode=True)


WINDOWS = [
    (options, window)
    for options in VARIANTS
    for window in (1, 5, 30)
    if options["variant"] in ("mag", "mal", "swa") or (window == 5 and options["variant"] in ("lmm", "mac"))
]


@pytest.mark.parametrize(("options", "window"), WINDOWS, ids=str)
def test_rows_begin_beside_rows_that_go_on(options: dict, window: int) -> None:
    """Row r begins at piece r: outputs, and gradients of what sequences begin from, are those of each row alone."""
    model, x = backbone(**options, window=window), tokens(batch=3, time=36)
    direction, state, ys = torch.randn_like(x), None, []
    for i, piece in enumerate(x.split(12, 1)):
        begins, start = torch.tensor([r >= i for r in range(3)]), model.begin()
        y, state = model(piece, start.where(begins, state or start))
        ys.append(y)
    streamed = [y[None, 12 * r :] for r, y in enumerate(torch.cat(ys, 1))]
    alone = [model(row[None, 12 * r :])[0] for r, row in enumerate(x)]
    torch.testing.assert_close(streamed, alone, rtol=0, atol=1e-10)
    losses = [
        sum((y * direction[r : r + 1, 12 * r :]).sum() for r, y in enumerate(found)) for found in (streamed, alone)
    ]
    parameters = [p for name, p in model.named_parameters() if p.numel()]
    gradients = [torch.autograd.grad(loss, parameters) for loss in losses]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)


def test_rows_at_different_places_are_refused() -> None:
    for options in ({"variant": "lmm"}, {"variant": "mac", "segment": 8}, {"variant": "swa", "window": 40}):
        model = backbone(**options)
        with pytest.raises(ValueError, match="different places of a chunk or segment"):
            model.begin().where(torch.tensor([True, False]), model(tokens(time=13))[1])
    with pytest.raises(ValueError, match="attention over the whole past"):
        backbone(variant="attention").begin()


@every_variant
def test_a_state_is_small_its_own_and_safe_to_keep(options: dict, tmp_path: Path) -> None:
    sizes = []
    for time in (32, 256):
        model = backbone(**options)
        state = model(tokens(time=time))[1].detach()
        torch.save(state, tmp_path / "state.pt")
        sizes.append((tmp_path / "state.pt").stat().st_size)
        loaded = torch.load(tmp_path / "state.pt", weights_only=True)
        more = tokens(time=3)
        expected, _ = model(more, state)
        torch.testing.assert_close(model(more, loaded)[0], expected, rtol=0, atol=0)
    if options["variant"] != "attention":  # whose state is the sequence
        assert sizes[1] < 1.1 * sizes[0]
    model = backbone(**options)
    state = model(tokens(batch=1, time=2))[1].detach()
    kept = copy.deepcopy(state)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)  # an optimiser step between two calls
    torch.testing.assert_close(state.tensors(), kept.tensors(), rtol=0, atol=0)


@every_variant
def test_truncated_back_propagation_under_autocast(options: dict) -> None:
    model, state = backbone(**options).float(), None
    for piece in tokens().float().split(8, 1):
        with torch.autocast("cpu", torch.bfloat16):
            y, state = model(piece, state)
        y.float().square().mean().backward()
        state = state.detach()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.numel())


@every_variant
def test_every_parameter_gets_a_gradient(options: dict) -> None:
    model = backbone(**options)
    y, _ = model(tokens())
    (y * torch.randn_like(y)).sum().backward()
    silent = [
        n for n, p in model.named_parameters() if p.grad is None or (p.numel() and not p.grad.abs().max() > 1e-12)
    ]
    assert not silent


@every_variant
def test_the_same_input_twice_gives_the_same_output(options: dict) -> None:
    model, x = backbone(**options), tokens()
    torch.testing.assert_close(model(x)[0], model(x)[0], rtol=0, atol=0)


@every_variant
def test_a_batch_element_never_changes_another(options: dict) -> None:
    model, x = backbone(**options), tokens()
    other = x.clone()
    other[1] = 5 * torch.randn_like(x[1])
    torch.testing.assert_close(model(other)[0][0], model(x)[0][0], rtol=0, atol=1e-12)
    torch.testing.assert_close(model(x[:1])[0][0], model(x)[0][0], rtol=0, atol=1e-12)


PADDED = {
    "left": lambda t: t >= 7,
    "middle": lambda t: (t < 5) | (t > 8),
    "scattered": lambda t: t % 3 != 1,
    "all": lambda t: t < 0,
}


@every_variant
@pytest.mark.parametrize("where", PADDED)
def test_what_padding_holds_is_never_seen(options: dict, where: str) -> None:
    model, x = backbone(**options), tokens()
    mask = torch.ones(2, TIME, dtype=torch.bool)
    mask[0] = PADDED[where](torch.arange(TIME))
    expected, _ = model(x, mask=mask)
    filled = torch.cat([x.masked_fill(~mask[..., None], content) for content in (100.0, float("nan"))])
    singly = [[1] * TIME] if where in ("left", "scattered") else []  # one by one, the others are parts of these
    for cuts in ([TIME], [6, 17], *singly):
        y = stream(model, filled, cuts, mask.long().repeat(2, 1))  # as a tokenizer would give it
        assert torch.isfinite(y).all()
        for rows in y.split(2):
            torch.testing.assert_close(rows[mask], expected[mask], rtol=0, atol=1e-10)


@every_variant
@pytest.mark.parametrize("cuts", [[TIME], [6, 17], [1] * TIME])
def test_padding_changes_nothing(options: dict, cuts: list[int]) -> None:
    """Padding behind a sequence, whole or in a stream, and more tokens after it."""
    model, x = backbone(**options), tokens()
    mask = torch.ones(2, TIME, dtype=torch.bool)
    mask[0, 9:] = False
    expected, _ = model(x)
    y = stream(model, x, cuts, mask)
    torch.testing.assert_close(y[0, :9], expected[0, :9], rtol=0, atol=1e-10)
    torch.testing.assert_close(y[1], expected[1], rtol=0, atol=1e-10)


class Sum(torch.nn.Module):
    """A mixer of the user's own: the mean of what has been read."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, state: KVCache | None, mask: Tensor | None) -> tuple[Tensor, KVCache]:
        """The state's `k` holds the sum, its `v` is not used."""
        y = self.linear(x).cumsum(1)
        if state is not None:
            y = y + state.k
        return y, KVCache(y[:, -1:], y[:, -1:])


def test_a_mixer_may_be_the_users_own() -> None:
    model = backbone(variant=f"{__name__}.Sum")
    whole, _ = model(tokens())
    torch.testing.assert_close(stream(model, tokens(), [4, 19]), whole, rtol=0, atol=1e-10)
    for wrong in ("tests.memory.nowhere.Sum", f"{__name__}.Some"):
        with pytest.raises(ValueError, match=f"backbone.variant {wrong}: .* name a class"):
            backbone(variant=wrong)


def test_the_feed_forward_is_the_callers() -> None:
    built = []
    TitansBackbone(config(), feed_forward=lambda dim: built.append(dim) or SwiGLU(dim))
    assert built == [DIM, DIM]


def test_health_counts_every_segment_of_mac() -> None:
    model = backbone(variant="mac", layers=1)
    model.record(True)
    model(tokens(time=13))
    assert [count for count, _ in model.memories()["layer0"].health] == [6, 6, 1]
    assert all(value.dim() == 0 for value in model.health().values())


def test_no_token_is_an_error() -> None:
    with pytest.raises(ValueError, match="no token"):
        backbone(variant="mag")(tokens()[:, :0])


def test_health_names_every_layer_and_is_forgotten() -> None:
    model = backbone(variant="mag")
    model.record(True)
    model(tokens())
    health = model.health()
    assert {name.split("/")[0] for name in health} == {"layer0", "layer1"}
    assert not model.health()


def test_head_counts_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="backbone.dim 16 is not divisible by backbone.heads 3"):
        config(variant="mag", heads=3)
    with pytest.raises(ValueError, match="backbone.memory.heads 5"):
        config(memory=MemoryConfig(heads=5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "mamba"}, "backbone.variant is 'mamba'; choose lmm, mac"),
        ({"window": 0}, "backbone.window is 0"),
        ({"persistent": -1}, "backbone.persistent is -1"),
        ({"variant": "mag", "heads": 8}, "backbone.heads 8 leaves heads narrower than 4"),
        ({"variant": "mag", "conv": -1}, "backbone.conv is -1"),
    ],
)
def test_a_wrong_config_says_which_key(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)


@pytest.mark.parametrize("variant", [".inf", "torch.nothing", "no_package.Mixer", "os.system", "builtins.dict"])
def test_a_mixer_is_a_class_of_a_module_and_nothing_else(variant: str) -> None:
    with pytest.raises(ValueError, match=f"backbone.variant {variant}.*; name"):
        TitansBackbone(config(variant=variant))
