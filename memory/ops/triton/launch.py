"""What every Triton path shares: the calls it serves, a call's sizes and segments, and the gates' coefficients."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import triton
from torch import Tensor, library

from memory.ops import chunked
from memory.ops.inputs import ScanInputs, multiplied_in
from memory.ops.mlp import EPS
from memory.ops.triton.kernels.coefficients import coefficients_bwd_kernel, coefficients_fwd_kernel
from memory.state import FastState

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"


def refusal(q: Tensor, state: FastState, log_keep: Tensor, chunk: int) -> str | None:
    """What about a call no kernels here can serve, in words; None where they can.

    On a GPU they serve what was checked there against float64; the interpreter also runs smaller sizes, in float32.
    """
    rows = q.shape[0] * q.shape[2]
    if not (q.is_cuda or INTERPRET):
        return "a CPU"
    if len(state.weights) > 2:
        return f"a memory of depth {len(state.weights)}"
    if log_keep.shape[-1] != 1:
        return "forgetting per channel"
    if chunk not in (16, 32, 64, 128):
        return f"a chunk of {chunk}"
    if rows > 65535:
        return f"{rows} sequences times heads"
    if INTERPRET:
        return None
    width, dtype = q.shape[-1], multiplied_in(q)
    if q.dtype == torch.float64:
        return f"{q.dtype}"
    if width not in (32, 64, 128):
        return f"a head width of {width}"
    if chunk == 128 and (width != 64 or dtype == torch.float32):  # too large for shared memory, or never checked
        return f"a chunk of {chunk} with a head width of {width} in {dtype}"
    if (chunk == 128 or dtype == torch.float32) and not is_hopper(q.device):
        return f"a chunk of {chunk} in {dtype} on a GPU other than Hopper, whose shared memory it was fitted to"
    return None


@torch.compiler.assume_constant_result  # else torch.compile would trace the question
def is_hopper(device: torch.device) -> bool:
    """Whether it is a GPU of the architecture that the kernels were tuned on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


def finish_chunk(scan: Callable, x: ScanInputs, state: FastState) -> tuple[Tensor, FastState]:
    """`scan` for a state in the middle of a chunk, which is first brought to the chunk's end by `chunked`."""
    time = x.q.shape[1]
    first = min(x.chunk - state.position, time)
    head = x.tokens(0, first)
    y, state = chunked.scan(replace(head, q=head.q.float(), k=head.k.float(), v=head.v.float()), state)
    if first == time:
        return y.to(x.q.dtype), state
    rest, state = scan(x.tokens(first, time), state)
    return torch.cat([y.to(x.q.dtype), rest], 1), state


@dataclass(frozen=True)
class Segments:
    """How a sequence is cut: `size` whole chunks each, in the first what is left, in a `ramp` fewer in the last three.

    An incomplete last chunk is a segment of its own: its start is the anchor that a later call may need.
    """

    size: int
    ramp: bool = False

    @property
    def last(self) -> list[int]:
        return [self.size // 4 * k for k in (1, 2, 3)] if self.ramp else []

    def count(self, time: int, chunk: int) -> int:
        """How many there are, as arithmetic that `torch.compile` does for any length."""
        whole, count = time // chunk, -(-(time % chunk) // chunk)
        for chunks in self.last:
            if whole > 0:
                whole, count = whole - chunks, count + 1
        return count + (-(-whole // self.size) if whole > 0 else 0)

    def cut(self, time: int, chunk: int) -> list[tuple[int, int]]:
        """The first chunk of each and how many it has."""
        end, last = time // chunk, self.last
        segments = [(end, 1)] if time % chunk else []
        while end > 0:
            chunks = min(end, last.pop(0) if last else self.size)
            end -= chunks
            segments.insert(0, (end, chunks))
        return segments


_compiled: dict[tuple, tuple[triton.compiler.CompiledKernel, list[object]]] = {}


def aligned(x: Tensor | None) -> Tensor | None:
    """x, contiguous and where vectors can be loaded from: kernels are compiled once for all calls."""
    x = None if x is None else x.contiguous()
    return x if x is None or x.data_ptr() % 16 == 0 else x.clone()


def direct(op: library.CustomOpDef, launch: Callable) -> Callable:
    """`launch` where nothing is to be differentiated or traced: the dispatcher would take as long as a kernel does."""
    return op if torch.is_grad_enabled() or torch.compiler.is_compiling() else launch


def own(state: Tensor) -> Tensor:
    """A fresh contiguous float32 copy, for kernels to write into."""
    return torch.empty_like(state, dtype=torch.float32, memory_format=torch.contiguous_format).copy_(state)


def run(
    kernel: triton.JITFunction, grid: tuple[int, ...], args: tuple, constants: dict[str, object], call: tuple, **options
) -> None:  # fmt: skip
    """Launch a kernel on arguments and then constants, in their order; `call` says all that tells dtypes."""
    start(kernel, grid, args, (call, *constants.values(), *options.values()), lambda: constants | options)


def start(
    kernel: triton.JITFunction, grid: tuple[int, ...], args: tuple, call: tuple, settings: Callable[[], dict]
) -> None:
    """Launch a kernel on arguments and settings: constants by their names and options.

    Triton takes far longer to find what it compiled for a call than to launch it. So a call like one before does not
    ask: alike are those with equal `call`, which says all that tells dtypes and settings, and the same arguments
    missing. Tensors are `aligned`, and kernels must not be specialised for values of integers.
    """
    if INTERPRET:
        kernel[grid](*args, **settings())
        return
    device = args[0].device.index
    if device != torch.cuda.current_device():  # Triton launches on the current one
        with torch.cuda.device(device):
            return start(kernel, grid, args, call, settings)
    key = (id(kernel), device, call, tuple(map(type, args)))
    found = _compiled.get(key)
    if found is None:
        values = settings()
        _compiled[key] = kernel[grid](*args, **values), [values[name] for name in kernel.arg_names[len(args) :]]
        return
    compiled, constants = found
    stream = triton.runtime.driver.active.get_current_stream(device)
    # what compiled[grid](..) does, less what it makes for hooks of profilers
    place = (*(*grid, 1, 1)[:3], stream, compiled.function, compiled.packed_metadata, None, None, None)
    compiled.run(*place, *args, *constants)


class Coefficients(NamedTuple):
    """What `coefficients_fwd_kernel` makes of a segment's gates, and with `past` its backward needs."""

    weight: Tensor  # PN [B*H, chunks, C, C]
    past: Tensor | None  # RN, the same
    vec: Tensor  # [B*H, chunks, 4, C]
    m_last: Tensor  # m_C [B*H, chunks]


class Launch:
    """Sizes, flags and segments that all kernels of one call share.

    A buffer for some chunks also serves fewer: kernels take the start of it.
    """

    def __init__(
        self, q: Tensor, gates: list[Tensor], chunk: int, mask: Tensor | None, segments: Segments, **flags: object
    ):
        self.batch, self.time, self.heads, self.width = q.shape
        self.rows, self.chunk, self.dtype = self.batch * self.heads, chunk, q.dtype
        self.chunks, self.segments = triton.cdiv(self.time, chunk), segments.cut(self.time, chunk)
        self.longest = max(chunks for _, chunks in self.segments)
        self.gates, self.mask, self.device = gates, mask, q.device
        precision = "tf32x3" if q.dtype == torch.float32 else "tf32"  # three products on tensor cores for float32
        self.flags = {"D": self.width, "C": chunk, "EPS": EPS, "IP": precision, "MASK": mask is not None}
        self.flags |= flags
        # kernels of depth 2 leave some gradients in other dtypes than those for Hopper do
        self.call = (type(self), self.dtype, None if mask is None else mask.dtype, *self.flags.values())

    def launch(
        self, kernel: triton.JITFunction, grid: tuple[int, ...], *args: object, warps: int = 4, stages: int = 1,
        registers: int | None = None, **flags: object,
    ) -> None:  # fmt: skip
        """Run a kernel with those of the call's flags that it knows; of a call's flags all others here follow."""

        def settings() -> dict[str, object]:
            known = {name: (self.flags | flags)[name] for name in kernel.arg_names[len(args) :]}
            return known | {"num_warps": warps, "num_stages": stages, "maxnreg": registers}

        start(kernel, grid, args, self.call, settings)

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device=self.device)

    def new_coefficients(self, backward: bool) -> Coefficients:
        """Room for those of the longest segment."""
        chunks = (self.rows, self.longest)
        weight = self.new(*chunks, self.chunk, self.chunk, dtype=self.dtype)
        past = torch.empty_like(weight) if backward else None
        return Coefficients(weight, past, self.new(*chunks, 4, self.chunk), self.new(*chunks))

    def find_coefficients(self, first: int, chunks: int, out: Coefficients) -> None:
        shape = (self.time, self.heads, first, chunks)
        self.launch(coefficients_fwd_kernel, (chunks, self.rows), *self.gates, self.mask, *out, *shape, warps=1)

    def gate_gradients(
        self, first: int, chunks: int, coefficients: Coefficients, grads: tuple[Tensor, ...], dgates: list[Tensor]
    ) -> None:
        """From the gradients of PN, vec and m_C of a segment to those of its tokens' gates, written into `dgates`."""
        shape = (self.time, self.heads, first, chunks)
        inputs = (*self.gates[1:], self.mask, *coefficients[:3], *grads)
        self.launch(coefficients_bwd_kernel, (chunks, self.rows), *inputs, *dgates, *shape, warps=1)
