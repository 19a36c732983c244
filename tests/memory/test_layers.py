"""The layer's elementwise work on Triton kernels: equal to plain PyTorch with every gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, library, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.utils import prune

from memory import BackboneConfig, MemoryConfig, NeuralMemory, TitansBackbone, attention, layers, mixers, neural_memory
from memory.layers import ConvProjection, RMSNorm, ShortConv, SwiGLU, rotary_angles, rotate, rotate_pair
from memory.mixers import Gate
from tests.memory.problem import assert_same, mixing

pytest.importorskip("triton")
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="runs on CPU tensors, under the interpreter")
FUSED = [layers, mixers, neural_memory]  # which ask whether kernels do the elementwise work

# taps, whether a tail is given, and tokens: a few are a case of their own only where taps reach before them
TAPS = [(conv, continued, time) for conv, continued in ((1, False), (2, False), (2, True)) for time in (1, 300)]
TAPS += [(4, continued, time) for continued in (False, True) for time in (1, 2, 9, 300)]


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch):
    """Turn the kernels on for float32, wherever it is, so that float64 remains what they are compared with."""
    for module in FUSED:
        monkeypatch.setattr(module, "fuses", lambda x, width, backend: x.dtype != torch.float64)


def solve(module: nn.Module, call: str, *given: Tensor) -> dict[str, Tensor]:
    """Results of a call, and the gradient of a random functional of them for every argument and parameter."""
    given = [x.detach().requires_grad_() for x in given]
    results = getattr(module, call)(*given)
    results = [r for r in (results if isinstance(results, tuple) else (results,)) if r.numel()]
    gen = torch.Generator().manual_seed(1)
    directions = [torch.randn(r.shape, generator=gen, dtype=torch.float64).to(r) for r in results]
    loss = sum((r * d).sum() for r, d in zip(results, directions, strict=True))
    names = {f"argument {i}": x for i, x in enumerate(given)}
    names |= {name: p for name, p in module.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(names.values()))
    named = {f"result {i}": r for i, r in enumerate(results)} | dict(zip(names, grads, strict=True))
    return {name: r.detach() for name, r in named.items() if r.numel()}


def compare(module: nn.Module, call: str, *given: Tensor) -> None:
    ours = solve(module, call, *given)
    assert_same(ours, solve(module.double(), call, *(x.double() for x in given)), 1e-5)


@interpreted
@pytest.mark.parametrize(("sizes", "lengths"), [((32, 0), (4.0, 0.0)), ((32, 32), (1.0, 0.0)), ((32, 32), (1.0, 4.0))])
@pytest.mark.parametrize(("conv", "continued", "time"), TAPS)
def test_convolution_with_every_gradient(
    fuse, sizes: tuple[int, int], lengths: tuple[float, float], conv: int, continued: bool, time: int
) -> None:
    projection = mixing(ConvProjection(32, sizes, lengths, 16, conv))
    tail = torch.randn(2, conv - 1, sum(sizes))

    def call(x: Tensor, *tail: Tensor) -> tuple[Tensor, ...]:
        return projection(x, *(tail or (None,)))

    projection.call = call
    compare(projection, "call", torch.randn(2, time, 32), *([tail] if continued else []))


@interpreted
@pytest.mark.parametrize("conv", [0, 1, 4])
@pytest.mark.parametrize(("before", "time"), [(0, 9), (1, 2), (1, 300), (70, 9)])
def test_convolution_behind_shared_tokens_with_every_gradient(fuse, conv: int, before: int, time: int) -> None:
    projection = mixing(ConvProjection(32, (32, 32), (1.0, 4.0), 16, conv))
    projection.call = lambda x, before: projection(x, None, before)[:2]
    compare(projection, "call", torch.randn(2, time, 32), torch.randn(before, 32))


@interpreted
@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("time", [2, 300])
def test_convolution_of_attention_with_every_gradient(fuse, continued: bool, time: int) -> None:
    conv = ShortConv(48, 4)
    nn.init.uniform_(conv.weight, -0.5, 0.5)
    conv.call = lambda x, *tail: conv(x, *(tail or (None,)))
    compare(conv, "call", torch.randn(2, time, 48), *([torch.randn(2, 3, 48)] if continued else []))


@interpreted
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("time", [1, 150])
def test_gated_norm_with_every_gradient(fuse, time: int, before: int) -> None:
    norm = RMSNorm(32)
    nn.init.normal_(norm.weight)
    read, gate = torch.randn(2, before + time, 3, 32), torch.randn(2, time, 96)
    compare(norm, "gated", read, gate)
    norm.out = nn.Linear(96, 40, bias=False)
    norm.call = lambda x, gate: norm.gated_linear(x, gate, norm.out)
    compare(norm.float(), "call", read, gate)


@interpreted
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(("rows", "dim"), [(1, 40), (700, 24)])
def test_norm_behind_a_residual_sum_with_every_gradient(
    fuse, rows: int, dim: int, added: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytest.importorskip("memory.ops.triton.residual_norm"), "PROGRAMS", 2)
    norm = RMSNorm(dim)
    nn.init.normal_(norm.weight)
    compare(norm, "added", torch.randn(2, rows, dim), *([torch.randn(2, rows, dim)] if added else []))


@interpreted
@pytest.mark.parametrize(("momentum", "forgetting"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("errors", ["anchor", "exact"])
def test_gates_with_every_gradient(fuse, momentum: bool, forgetting: bool, errors: str) -> None:
    options = {"heads": 2, "momentum": momentum, "forgetting": forgetting}
    if errors == "exact":
        options |= {"depth": 1, "norm": False, "errors": errors}
    memory = NeuralMemory(32, MemoryConfig(**options))
    with torch.no_grad():
        memory.gates.weight.mul_(20)  # up to the ends of the sigmoids

    def call(x: Tensor) -> tuple[Tensor, ...]:
        theta, log_eta, log_keep = memory._gates(x)
        return theta, log_eta.exp(), log_keep

    memory.call = call
    for name, parameter in memory.named_parameters():
        parameter.requires_grad_(name.startswith("gates"))
    compare(memory, "call", torch.randn(2, 700, 32))


@interpreted
@pytest.mark.parametrize("head_dim", [None, 32])
def test_a_layer_on_kernels_is_the_layer(fuse, head_dim: int | None) -> None:
    memory, x = mixing(NeuralMemory(32, MemoryConfig(heads=2, head_dim=head_dim, chunk=4))), torch.randn(2, 11, 32)
    memory.call = lambda x: memory(x)[0]
    compare(memory, "call", x)
    single, (first, state) = memory.float()(x)[0], memory(x[:, :5])
    torch.testing.assert_close(torch.cat([first, memory(x[:, 5:], state)[0]], 1), single, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of PyTorch 2.14 to itself
@interpreted
def test_operators_are_what_their_fakes_say() -> None:
    from memory.ops.triton import gated_norm, gates, short_conv

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, requires_grad=True)

    conv = leaf(2, 5, 64), leaf(64, 1, 4)
    norm = leaf(2, 9, 2, 32), leaf(2, 9, 64), leaf(32)
    options = 32, 0, 32, [4.0, 0.0], True
    library.opcheck(short_conv._op, (conv[0], None, conv[1], *options))
    library.opcheck(short_conv._op, (conv[0], leaf(2, 64), conv[1], *options))
    library.opcheck(gated_norm._op, (*norm, 1e-6))
    library.opcheck(gates._op, (leaf(2, 9, 6), 2, 0.5, 0.5, True, True))
    conv, norm = ([x.detach() for x in part] for part in (conv, norm))
    for before in (None, torch.randn(2, 64)):
        halves = [torch.randn(2, 5 if before is None else 7, 32) for _ in range(2)]
        given = (conv[0], before, conv[1], *halves, 32, [4.0, 0.0], True)
        library.opcheck(short_conv._short_conv_backward, given)
    for again in (True, False):
        library.opcheck(gated_norm._op_backward, (*norm, 1e-6, torch.randn(2, 9, 64), again))
    grads = (torch.randn(2, 9, 2) for _ in range(3))
    library.opcheck(gates._gates_backward, (torch.randn(2, 9, 6), *grads, 2, 0.5, 0.5, True, True))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_under_autocast_on_a_gpu(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = mixing(NeuralMemory(128, MemoryConfig(heads=2, chunk=32))).cuda()
    x = torch.randn(2, 100, 128, device="cuda")

    def gradients() -> dict[str, Tensor]:
        with torch.autocast("cuda", dtype):
            y, _ = memory(x)
        assert y.dtype == dtype
        grads = torch.autograd.grad(y.float().square().mean(), list(memory.parameters()))
        return {"y": y.detach()} | dict(zip(dict(memory.named_parameters()), grads, strict=True))

    ours = gradients()
    for module in FUSED:
        monkeypatch.setattr(module, "fuses", lambda x, width, backend: False)
    assert_same(ours, gradients(), 0.03)  # bf16 twice, rounded in different places


@pytest.mark.gpu
@pytest.mark.parametrize("kernels", ["feed-forward", "residual", "way out", "convolution", "keys and values"])
def test_kernels_around_the_recurrence_in_bfloat16_on_a_gpu(kernels: str) -> None:
    turns = rotary_angles(torch.arange(300, device="cuda"), 32, torch.float64)
    norm = RMSNorm(64 if kernels == "way out" else 256)
    nn.init.normal_(norm.weight)
    norm.out = nn.Linear(256, 128, bias=False) if kernels == "way out" else None
    module, shapes = {
        "feed-forward": (SwiGLU(256), [(3, 300, 256)]),
        "residual": (norm, [(3, 300, 256)] * 2),
        "way out": (norm, [(3, 316, 4, 64), (3, 300, 256)]),
        "convolution": (mixing(ConvProjection(256, (256, 256), (1.0, 8.0), 64, 4)), [(3, 300, 256), (16, 256)]),
        "keys and values": (nn.Linear(256, 512), [(3, 300, 256)]),
    }[kernels]
    calls = {
        "feed-forward": lambda x: module(x),
        "residual": lambda x, y: module.added(x, y),
        "way out": lambda x, gate: module.gated_linear(x, gate, module.out),
        "convolution": lambda x, before: module(x, None, before)[:2],
        "keys and values": lambda x: rotate_pair(module(x), 4, tuple(part.to(x.dtype) for part in turns)),
    }
    module.cuda().bfloat16().call = calls[kernels]
    given = [torch.randn(*shape, device="cuda", dtype=torch.bfloat16) for shape in shapes]
    ours = {name: value.double() for name, value in solve(module, "call", *given).items()}
    assert_same(ours, solve(module.double(), "call", *(x.double() for x in given)), 2e-2)


@pytest.mark.gpu
def test_a_float32_layer_on_a_gpu_is_that_of_a_cpu() -> None:
    memory, x = mixing(NeuralMemory(128, MemoryConfig(heads=2, chunk=32, backend="chunked"))), torch.randn(2, 100, 128)
    memory.call = lambda x: memory(x)[0]
    exact = solve(memory.double(), "call", x.double())
    assert_same({n: r.cpu() for n, r in solve(memory.float().cuda(), "call", x.cuda()).items()}, exact, 1e-4)


@pytest.mark.parametrize("conv", [1, 4])
def test_a_new_convolution_sees_the_last_two_tokens(conv: int) -> None:
    taps = ConvProjection(32, (32, 32), (1.0, 0.0), 16, conv).conv.weight
    assert (taps[..., :-2] == 0).all() and (taps[..., -2:] != 0).all()


@interpreted
@pytest.mark.parametrize("sizes", [{"depth": 1}, {"depth": 2}, {"depth": 1, "norm": False, "errors": "exact"}])
def test_no_sequence_has_gradients_of_zero(fuse: None, sizes: dict) -> None:
    memory = NeuralMemory(32, MemoryConfig(heads=2, chunk=16, backend="triton", **sizes))
    for before in (None, torch.randn(2, 32)):
        y, _ = memory(torch.randn(0, 20, 32), before=before)
        assert y.shape == (0, 20, 32)
        grads = torch.autograd.grad(y.sum(), list(memory.parameters()))
        assert not any(grad.any() for grad in grads)


@interpreted
@pytest.mark.parametrize("variant", ["mac", "mag"])
@pytest.mark.parametrize("backend", ["chunked", "triton"])
def test_fake_tensors_leave_nothing_and_meet_nothing_that_is_kept(
    variant: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "_frequencies", {})
    monkeypatch.setattr(attention, "_tables", {})
    for module in FUSED if backend == "triton" else []:
        monkeypatch.setattr(module, "fuses", lambda x, width, backend: True)
    sizes = {"dim": 32, "layers": 1, "heads": 2, "window": 4, "segment": 8, "persistent": 1}
    memory = MemoryConfig(heads=2, depth=1, chunk=16, backend=backend)
    model = TitansBackbone(BackboneConfig(variant, memory=memory, **sizes))

    def step(parameters: dict[str, Tensor]) -> None:
        with torch.no_grad():
            functional_call(model, parameters, (torch.randn(1, 8, 32),))
        y, _ = functional_call(model, parameters, (torch.randn(1, 8, 32),))
        torch.autograd.grad(y.sum(), list(parameters.values()))

    for _ in range(2):
        with FakeTensorMode() as mode:
            step({name: mode.from_tensor(p) for name, p in model.named_parameters()})
        step(dict(model.named_parameters()))


@interpreted
def test_fused_layer_compiles_into_one_graph(fuse: None) -> None:
    memory = NeuralMemory(32, MemoryConfig(heads=2, chunk=16, backend="triton"))
    x = torch.randn(1, 20, 32)
    compiled = torch.compile(memory, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x)[0], memory(x)[0])


def hooked(linear: nn.Linear) -> None:
    linear.register_forward_hook(lambda module, given, y: 2 * y)


def biased(linear: nn.Linear) -> None:
    linear.bias = nn.Parameter(torch.randn(linear.out_features))


def pruned(linear: nn.Linear) -> None:
    prune.random_unstructured(linear, "weight", 0.5)
    nn.init.normal_(linear.weight_orig)  # as a step of an optimiser: the next call makes the weight of it


@interpreted
@pytest.mark.parametrize("change", [hooked, biased, pruned])
def test_a_linear_map_behind_a_kernel_may_be_more_than_a_product(fuse, change: Callable[[nn.Linear], None]) -> None:
    feed_forward = SwiGLU(40)
    change(feed_forward.down)
    compare(feed_forward, "forward", torch.randn(2, 9, 40))
    norm = RMSNorm(32)
    norm.out = nn.Linear(96, 40, bias=False)
    change(norm.out)
    norm.call = lambda x, gate: norm.gated_linear(x, gate, norm.out)
    compare(norm, "call", torch.randn(2, 11, 3, 32), torch.randn(2, 9, 96))


@interpreted
@pytest.mark.parametrize(("batch", "dim"), [(1, 16), (3, 40), (700, 24)])
def test_feed_forward_and_gate_with_every_gradient(fuse, batch: int, dim: int, monkeypatch) -> None:
    gating = pytest.importorskip("memory.ops.triton.gating")
    monkeypatch.setattr(gating, "PROGRAMS", 2)
    monkeypatch.setattr(gating, "FEATURES", 32)
    compare(SwiGLU(dim), "forward", torch.randn(batch, 2, dim))
    gate = Gate(dim)
    nn.init.uniform_(gate.attention_norm.weight)
    nn.init.uniform_(gate.memory_norm.weight)
    compare(gate, "forward", torch.randn(batch, 2, dim), torch.randn(batch, 2, dim))


@interpreted
@pytest.mark.parametrize(("time", "width", "turned"), [(1, 16, 8), (9, 16, 16), (300, 32, 8)])
def test_rotary_positions_with_every_gradient(fuse, time: int, width: int, turned: int) -> None:
    module = nn.Linear(32, 6 * width)
    turns = rotary_angles(torch.arange(3, 3 + time), turned, torch.float64)

    def call(x: Tensor) -> tuple[Tensor, ...]:  # heads that lie inside a wider projection, and some that lie alone
        inside, alone = module(x).unflatten(-1, (6, width)).split([2, 4], 2)
        cosines_and_sines = tuple(part.to(x.dtype) for part in turns)
        rotated = tuple(rotate(part.transpose(1, 2), cosines_and_sines) for part in (inside, alone.contiguous()))
        return *rotated, *rotate_pair(module(x)[..., 2 * width :], 2, cosines_and_sines)

    module.call = call
    compare(module, "call", torch.randn(2, time, 32))


def test_angles_are_the_same_from_frequencies_that_are_made_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict = {}
    monkeypatch.setattr(layers, "_frequencies", kept)
    positions = torch.tensor([0, 7, 2_000_003])
    frequency = torch.tensor([10000.0 ** (-i / 4) for i in range(4)], dtype=torch.float64)
    for _ in range(2):
        cos, sin = rotary_angles(positions, 8, torch.float32)
        angle = positions.double()[:, None] * frequency
        torch.testing.assert_close((cos, sin), (angle.cos().float(), angle.sin().float()), rtol=0, atol=1e-7)
    compiled = torch.compile(rotary_angles, fullgraph=True, backend="eager")
    assert all(map(torch.equal, compiled(positions, 16, torch.float32), rotary_angles(positions, 16, torch.float32)))
    assert len(kept) == 2, "one of eight features and one of sixteen, and none of a trace"
    assert all(type(made) is Tensor for made in kept.values())


@interpreted
@pytest.mark.parametrize(("rows", "width", "turned"), [(1, 16, 8), (5, 32, 16), (300, 16, 16)])
def test_a_rotary_position_of_each_row(fuse, rows: int, width: int, turned: int) -> None:
    module = nn.Linear(32, 6 * width)
    turns = rotary_angles(torch.randint(9000, (rows,)), turned, torch.float64)

    def call(x: Tensor) -> tuple[Tensor, ...]:  # heads that lie inside a wider projection, and some that lie alone
        inside, alone = module(x).unflatten(-1, (6, width)).split([2, 4], 2)
        cosines_and_sines = tuple(part.to(x.dtype)[:, None, None] for part in turns)
        return tuple(rotate(part.transpose(1, 2), cosines_and_sines) for part in (inside, alone.contiguous()))

    module.call = call
    compare(module, "call", torch.randn(rows, 1, 32))


@interpreted
@pytest.mark.parametrize(
    ("heads", "hidden", "norm", "options"),
    [(2, 2, True, {}), (1, 5, True, {"residual": False}), (2, 1, False, {}), (2, 1, False, {"errors": "exact"})],
)
@pytest.mark.parametrize("time", [1, 70])
def test_retrieval_with_every_gradient(fuse, heads: int, hidden: int, norm: bool, options: dict, time: int) -> None:
    config = MemoryConfig(heads=heads, expansion=hidden, norm=norm, **options)
    module = NeuralMemory(16 * heads, config)

    def call(q: Tensor, gate: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
        slow = sum(p.sum() for p in module.parameters() if p.numel()) * 0  # not all of them take part in an answer
        return module.answer([w1, w2], q, gate) + slow

    module.call = call
    q, gate = torch.randn(2, time, heads, 16), torch.randn(2, time, 16 * heads)
    weights = [torch.randn(2, heads, 16, 16 * hidden) / 2, torch.randn(2, heads, 16 * hidden, 16) / 2]
    compare(module, "call", q, gate, *weights)


@pytest.mark.gpu
@pytest.mark.parametrize(("width", "hidden", "time"), [(64, 128, 512), (64, 256, 100), (32, 64, 512), (128, 256, 65)])
def test_retrieval_on_a_gpu(width: int, hidden: int, time: int) -> None:
    module = NeuralMemory(4 * width, MemoryConfig(heads=4, expansion=hidden // width)).cuda()
    weights = [torch.randn(2, 4, width, hidden, device="cuda"), torch.randn(2, 4, hidden, width, device="cuda")]
    weights = [w / w.shape[2] ** 0.5 for w in weights]
    q, gate = (torch.randn(2, time, 4 * width, device="cuda") for _ in range(2))
    q = q.unflatten(2, (4, width))

    def solved(dtype: torch.dtype) -> dict[str, Tensor]:
        given = [x.to(dtype).requires_grad_() for x in (q, gate)]
        exact = torch.promote_types(dtype, torch.float32)
        states = [w.to(exact).requires_grad_() for w in weights]
        y = module.to(dtype).answer(states, *given)
        slow = {"scale": module.scale, "shift": module.shift}
        inputs = dict(zip(("q", "gate", "M1", "M2"), (*given, *states), strict=True)) | slow
        grads = torch.autograd.grad(y.square().sum(), list(inputs.values()))
        return {"y": y.detach().double()} | {n: g.double() for n, g in zip(inputs, grads, strict=True)}

    assert_same(solved(torch.bfloat16), solved(torch.float64), 2e-2)
