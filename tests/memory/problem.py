"""One random memory problem, its solution by any backend, and how two solutions are compared."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.overrides import TorchFunctionMode

from memory.layers import ConvProjection
from memory.ops import Rule, Tokens, initial_state, memory_scan
from memory.state import FastState

B, H, D, E = 2, 2, 6, 8
SEQUENCES = ("q", "k", "v", "theta", "log_eta", "log_keep")


def mixing(model: nn.Module) -> nn.Module:
    """The model with convolutions whose taps for older tokens are not zero, as training leaves them."""
    for module in model.modules():
        if isinstance(module, ConvProjection) and module.conv is not None:
            nn.init.uniform_(module.conv.weight, -0.5, 0.5)
    return model


def inputs(
    depth: int,
    time: int,
    dtype: torch.dtype = torch.float64,
    channels: bool = False,
    width: int = D,
    hidden: int = E,
    device: str = "cpu",
    batch: int = B,
) -> dict[str, Tensor]:
    """Leaves of one random problem; gates are away from their extremes."""
    gen = torch.Generator().manual_seed(depth * 100 + time)
    widths = [width] + [hidden] * (depth - 1) + [width]

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=gen, dtype=torch.float64)

    gates = (hidden if depth > 1 else width,) if channels else ()
    leaves = {name: rand(batch, time, H, width) / width**0.5 for name in ("q", "k", "v")}
    leaves |= {"theta": 0.1 * rand(batch, time, H).sigmoid(), "log_eta": logsigmoid(rand(batch, time, H))}
    leaves["log_keep"] = logsigmoid(rand(batch, time, H, *gates))
    for i, (d_in, d_out) in enumerate(zip(widths, widths[1:], strict=False)):
        leaves |= {f"M{i}": rand(H, d_in, d_out) / d_in**0.5, f"S{i}": 0.1 * rand(batch, H, d_in, d_out)}
    leaves |= {"scale": 1 + 0.1 * rand(H, width), "shift": 0.1 * rand(H, width)}
    return {name: leaf.to(device, dtype).requires_grad_() for name, leaf in leaves.items()}


def bold(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same problem with keys of length one and steps between 0 and 1, which bind a pair in one token."""
    with torch.no_grad():
        for name in "qk":
            leaves[name] /= leaves[name].norm(dim=-1, keepdim=True)
        leaves["theta"] *= 10
    return leaves


def one_sequence(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first sequence of a problem, for speed."""
    return {
        name: (leaf[:1] if name in SEQUENCES or name.startswith("S") else leaf).detach().requires_grad_()
        for name, leaf in leaves.items()
    }


def layers_of(leaves: dict[str, Tensor], kind: str) -> list[Tensor]:
    """M_0 (`M`) or S_0 (`S`) of every layer of a problem."""
    depth = sum(name.startswith("M") for name in leaves)
    return [leaves[f"{kind}{i}"] for i in range(depth)]


def tokens_of(leaves: dict[str, Tensor], mask: Tensor | None = None, part: object = slice(None)) -> Tokens:
    """The tokens of a problem, all or those that `part` takes out of the second dimension."""
    return Tokens(*(leaves[name][:, part] for name in SEQUENCES), None if mask is None else mask[:, part])


def rule_of(
    leaves: dict[str, Tensor],
    chunk: int,
    norm: bool = True,
    residual: bool = True,
    prior: bool = True,
    **options: object,
) -> Rule:
    """The rule of a problem, with what it has of LayerNorm and prior where asked."""
    return Rule(
        chunk,
        residual,
        norm=(leaves["scale"], leaves["shift"]) if norm else None,
        prior=layers_of(leaves, "M") if prior else None,
        **options,
    )


def scan(
    leaves: dict[str, Tensor], backend: str, chunk: int, mask: Tensor | None = None, **switches: object
) -> dict[str, Tensor]:
    """Outputs and final states of one problem; switches are those of `rule_of`."""
    state = initial_state(layers_of(leaves, "M"), leaves["q"].shape[0])
    momentum = [s.to(state.weights[0].dtype) for s in layers_of(leaves, "S")]
    state = FastState(state.weights, momentum, state.anchor)
    y, state = memory_scan(tokens_of(leaves, mask), state, rule_of(leaves, chunk, **switches), backend)
    results = {"y": y} | {f"M'{i}": w for i, w in enumerate(state.weights)}
    results |= {f"A'{i}": a for i, a in enumerate(state.anchor)}
    return results | {f"S'{i}": s for i, s in enumerate(state.momentum)}


def solve(leaves: dict[str, Tensor], backend: str, chunk: int, **switches: object) -> dict[str, Tensor]:
    """The results of `scan`, and the gradient of a random functional of them with respect to every leaf."""
    results = scan(leaves, backend, chunk, **switches)
    gen = torch.Generator().manual_seed(1)
    loss = 0.0
    for result in results.values():
        direction = torch.randn(result.shape, generator=gen, dtype=torch.float64)
        loss = loss + (result * direction.to(result.device)).sum()
    names = [n for n in leaves if switches.get("norm", True) or n not in ("scale", "shift")]
    grads = torch.autograd.grad(loss, [leaves[n] for n in names], materialize_grads=True)
    results |= {f"d{n}": g for n, g in zip(names, grads, strict=True)}
    return {name: r.detach() for name, r in results.items()}


class _Rounded(torch.autograd.Function):
    """A batched product of operands in bfloat16, summed exactly, forward and backward."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.bfloat16().float(), b.bfloat16().float()
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        grad = grad.bfloat16().float()
        return grad @ b.mT, a.mT @ grad


class _RoundedProducts(TorchFunctionMode):
    """Within it, batched products are so rounded, also those that are added to something, in place or not."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is torch.bmm:
            return _Rounded.apply(*args)
        if function is torch.baddbmm:
            return args[0] + _Rounded.apply(*args[1:])
        if function is Tensor.baddbmm_:
            return args[0].add_(_Rounded.apply(*args[1:]))
        return function(*args, **(kwargs or {}))


def errors(left: dict[str, Tensor], right: dict[str, Tensor]) -> dict[str, float]:
    """Relative Frobenius error of every result."""
    assert left.keys() == right.keys()
    return {
        name: ((left[name].double() - x.double()).norm() / x.double().norm().clamp(min=1e-12)).item()
        for name, x in right.items()
    }


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float) -> None:
    """Every result's error is below `tolerance`; NaN fails."""
    for name, error in errors(left, right).items():
        assert error < tolerance, f"{name}: relative error {error:.1e}"


def assert_exact_to_bf16(leaves: dict[str, Tensor], chunk: int, **switches: object) -> None:
    """The kernels' results on bf16 tokens are within 1e-2 of float64, or twice what rounded products alone are off by.

    Some random problems amplify rounding, those that forget to zero above all.
    """
    leaves = {name: leaf.detach().to(torch.bfloat16 if name in "qkv" else leaf.dtype) for name, leaf in leaves.items()}

    def solved(dtype: torch.dtype | None, backend: str) -> dict[str, Tensor]:
        return solve(
            {n: x.to(dtype or x.dtype).requires_grad_() for n, x in leaves.items()}, backend, chunk, **switches
        )

    exact = solved(torch.float64, "chunked")
    with _RoundedProducts():
        rounded = errors(solved(torch.float32, "chunked"), exact)
    for name, error in errors(solved(None, "triton"), exact).items():
        assert error < max(1e-2, 2 * rounded[name]), f"{name}: {error:.1e}, rounded products {rounded[name]:.1e}"
