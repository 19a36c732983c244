"""Rows at places of their own: sequences of unequal length, read and continued together, equal each alone."""

import pytest
import torch
from torch import Tensor

from memory import MemoryConfig, TitansBackbone, read_unequal
from tests.memory.test_backbone import EXACT, VARIANTS, backbone, label
from tests.reads import as_a_graph

DEEP = {"variant": "mag", "memory": MemoryConfig(heads=2, depth=2, norm=False, errors="exact", chunk=4)}
every_variant = pytest.mark.parametrize("options", [*VARIANTS, pytest.param(DEEP, id="mag-deep-exact")], ids=label)
LENGTHS = [1, 7, 4, 13, 7]  # within a window, a chunk and a segment, at their ends, and behind them
MORE = 9
ROOM = max(LENGTHS) + MORE
alike = {"rtol": 0, "atol": 1e-10}


def sequences() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(length + MORE, 16, dtype=torch.float64) for length in LENGTHS]


def padded(parts: list[Tensor], left: bool = False) -> tuple[Tensor, Tensor]:
    """Sequences [T, dim] as a batch, and its mask; padding holds NaN."""
    longest = max(map(len, parts))
    x = torch.full((len(parts), longest, 16), float("nan"), dtype=torch.float64)
    mask = torch.zeros(len(parts), longest)
    for row, part in enumerate(parts):
        place = slice(longest - len(part), None) if left else slice(len(part))
        x[row, place] = part
        mask[row, place] = 1
    return x, mask


def starts(left: bool = False) -> tuple[Tensor, Tensor]:
    """The beginnings of all sequences, of unequal length."""
    return padded([x[:length] for x, length in zip(sequences(), LENGTHS, strict=True)], left)


def nexts(i: int) -> Tensor:
    """Token i behind the beginning of every sequence, [B, 1, dim]."""
    return torch.stack([x[length + i, None] for x, length in zip(sequences(), LENGTHS, strict=True)])


@torch.no_grad()
def alone(model: TitansBackbone) -> list[Tensor]:
    """What each sequence gets in one call of its own, [T, dim]."""
    return [model(x[None])[0][0] for x in sequences()]


def behind(model: TitansBackbone) -> Tensor:
    """What each sequence gets behind its beginning, [B, MORE, dim]."""
    return torch.stack([y[-MORE:] for y in alone(model)])


@pytest.mark.parametrize("left", [True, False])
@every_variant
def test_unequal_rows_are_read_and_go_on_as_each_alone(options: dict, left: bool) -> None:
    model = backbone(**options)
    x, mask = starts(left)
    hidden, state = read_unequal(model, x, mask, room=ROOM)
    assert not hidden[mask == 0].any()
    for y, real, expected, length in zip(hidden, mask, alone(model), LENGTHS, strict=True):
        torch.testing.assert_close(y[real == 1], expected[:length], **alike)
    ys = [model.step(nexts(i), state) for i in range(MORE)]
    torch.testing.assert_close(torch.cat(ys, 1), behind(model), **alike)


@every_variant
def test_a_step_reads_and_writes_the_same_memory_every_time(options: dict) -> None:
    model, x = backbone(**options), torch.empty(len(LENGTHS), 1, 16, dtype=torch.float64)
    _, state = read_unequal(model, *starts(), room=ROOM)
    places = [t.data_ptr() for t in state.tensors()]
    step = as_a_graph(lambda: model.step(x, state))
    for i in range(MORE):
        x.copy_(nexts(i))
        step()
    assert [t.data_ptr() for t in state.tensors()] == places


@every_variant
def test_a_call_goes_on_with_unequal_rows_and_padding_is_nothing_to_them(options: dict) -> None:
    model = backbone(**options)
    _, state = read_unequal(model, *starts())
    kept = state.clone()
    whole = sequences()
    taken = [3, 0, 1, MORE, 5]
    pieces = [x[length : length + n] for x, length, n in zip(whole, LENGTHS, taken, strict=True)]
    x, mask = padded(pieces, left=True)
    hidden, after = model(x, state, mask)
    for before, now in zip(kept.tensors(), state.tensors(), strict=True):
        assert torch.equal(before, now), "forward leaves a state as it is"
    last = torch.stack([x[length + n - 1] for x, length, n in zip(whole, LENGTHS, taken, strict=True)])
    expected = behind(model)
    for row, n in enumerate(taken):
        torch.testing.assert_close(hidden[row, MORE - n :], expected[row, :n], **alike)
        assert not hidden[row, : MORE - n].any()
    if options["variant"] != "attention":  # whose cache has grown
        same, _ = model(last[:, None], after, torch.zeros(5, 1))
        assert not same.any()


@every_variant
def test_rows_leave_and_join_a_running_batch(options: dict) -> None:
    model = backbone(**options)
    expected = behind(model)
    _, state = read_unequal(model, *starts(), room=ROOM)
    for i in range(3):
        model.step(nexts(i), state)
    stay = torch.tensor([3, 1])
    state = state.map(lambda t: t[stay])
    _, fresh = read_unequal(model, *(part[2:3] for part in starts()), room=ROOM)
    state = state.joined(fresh)
    for i in range(3, MORE):
        tokens = torch.cat([nexts(i)[stay], nexts(i - 3)[2:3]])
        y = model.step(tokens, state)
        torch.testing.assert_close(y[:, 0], torch.stack([*expected[stay, i], expected[2, i - 3]]), **alike)


@pytest.mark.parametrize("options", [{"variant": "mag"}, {"variant": "mac"}, {"variant": "lmm", "memory": EXACT}])
def test_unequal_rows_go_on_from_what_all_have_read(options: dict) -> None:
    model = backbone(**options)
    context = torch.randn(5, 10, 16, dtype=torch.float64)
    x, mask = starts()
    with torch.no_grad():
        _, before = model(context)
    hidden, state = read_unequal(model, x, mask, before)
    y = model.step(nexts(0), state)
    for row, (own, length) in enumerate(zip(sequences(), LENGTHS, strict=True)):
        with torch.no_grad():
            expected, _ = model(torch.cat([context[row], own[: length + 1]])[None])
        torch.testing.assert_close(hidden[row, :length], expected[0, 10:-1], **alike)
        torch.testing.assert_close(y[row, 0], expected[0, -1], **alike)


def test_what_cannot_stand_apart_is_refused() -> None:
    model = backbone(variant="attention")
    x, mask = starts()
    x = x.nan_to_num()
    with pytest.raises(ValueError, match="row 1 has no token, or padding between two"):
        read_unequal(model, x, mask.index_fill(1, torch.tensor([2]), 0))
    with pytest.raises(ValueError, match="row 0 has no token"):
        read_unequal(model, x, mask * torch.tensor([0, 1, 1, 1, 1])[:, None])
    together, state = model(x)
    _, unequal = read_unequal(model, x, mask)
    with pytest.raises(ValueError, match="apart already; go on with forward, which takes padding anywhere"):
        read_unequal(model, x, mask, unequal)
    with pytest.raises(ValueError, match="apart already; go on with forward or step"):
        model.apart(unequal)
    with pytest.raises(ValueError, match="a state of 13 tokens does not fit room for 12"):
        model.apart(state, 12)
    with pytest.raises(ValueError, match="step takes one token of each row and a state whose rows are apart"):
        model.step(x[:, :1], state)
    with pytest.raises(ValueError, match="step takes one token"):
        model.step(x[:, :2], model.apart(state, 13))
    for variant in ("attention", "swa", "mac"):
        _, state = backbone(variant=variant)(x[:, :4], None, mask[:, :4])
        with pytest.raises(ValueError, match="a state that was padded cannot stand apart"):
            backbone(variant=variant).apart(state, 13)
    own = backbone(variant="tests.memory.test_backbone.Sum")
    with pytest.raises(ValueError, match="Sum has no methods apart and step"):
        own.apart(own(x)[1])
    for variant in ("attention", "lmm"):
        model = backbone(variant=variant)
        _, state = model(x)
        with pytest.raises(ValueError, match="rows that stand together and apart"):
            state.joined(model.apart(state, 13))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(1, 5000, 64), (3, 528, 64), (70, 1100, 64), (2, 300, 128), (2, 77, 16)])
def test_attention_over_slots_on_a_gpu(sizes: tuple[int, int, int], dtype: torch.dtype) -> None:
    from memory.ops.triton.slots import attend_slots

    batch, n, width = sizes
    q, k, v = (torch.randn(batch, 8, size, width, device="cuda", dtype=dtype) for size in (1, n, n))
    seen = torch.arange(n, device="cuda") < torch.randint(1, n + 1, (batch, 1), device="cuda")
    exact = (t.double() for t in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(*exact, seen[:, None, None])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(attend_slots(q, k, v, seen).double(), expected, rtol=0, atol=tolerance)
