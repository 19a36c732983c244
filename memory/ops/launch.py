"""What every Triton path shares: the calls it serves, a call's sizes and segments, and the gates' coefficients."""

import os
from collections.abc import Callable
from dataclasses import replace

import torch
import triton
from torch import Tensor

from memory.ops import chunked
from memory.ops.inputs import ScanInputs
from memory.ops.kernels.gates import gates_bwd_kernel, gates_fwd_kernel
from memory.ops.mlp import EPS
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
    if chunk not in (16, 32, 64):
        return f"a chunk of {chunk}"
    if rows > 65535:
        return f"{rows} sequences times heads"
    if INTERPRET:
        return None
    if q.dtype == torch.float64 or multiplied_in(q) != torch.bfloat16:
        return f"{q.dtype if q.dtype == torch.float64 else multiplied_in(q)}"
    if q.shape[-1] not in (32, 64, 128):
        return f"a head width of {q.shape[-1]}"
    return None


def multiplied_in(q: Tensor) -> torch.dtype:
    """The dtype of q, or of autocast."""
    return torch.get_autocast_dtype(q.device.type) if torch.is_autocast_enabled(q.device.type) else q.dtype


def finish_chunk(scan: Callable, x: ScanInputs, state: FastState) -> tuple[Tensor, FastState]:
    """`scan` for a state in the middle of a chunk, which is first brought to the chunk's end by `chunked`."""
    time = x.q.shape[1]
    first = min(x.chunk - state.position % x.chunk, time)
    head = x.tokens(0, first)
    y, state = chunked.scan(replace(head, q=head.q.float(), k=head.k.float(), v=head.v.float()), state)
    if first == time:
        return y.to(x.q.dtype), state
    rest, state = scan(x.tokens(first, time), state)
    return torch.cat([y.to(x.q.dtype), rest], 1), state


def count_segments(time: int, chunk: int, size: int) -> int:
    """How many segments of up to `size` whole chunks a sequence has, an incomplete last chunk being one of its own."""
    return -(-(time // chunk) // size) + -(-(time % chunk) // chunk)


_compiled: dict[tuple, triton.compiler.CompiledKernel] = {}


def aligned(x: Tensor | None) -> Tensor | None:
    """x, contiguous and where vectors can be loaded from: kernels are compiled once for all calls."""
    x = None if x is None else x.contiguous()
    return x if x is None or x.data_ptr() % 16 == 0 else x.clone()


def own(state: Tensor) -> Tensor:
    """A fresh contiguous float32 copy, for kernels to write into."""
    return torch.empty_like(state, dtype=torch.float32, memory_format=torch.contiguous_format).copy_(state)


def run(
    kernel: triton.JITFunction, grid: tuple[int, ...], args: tuple, constants: dict[str, object], call: tuple, **options
) -> None:  # fmt: skip
    """Launch a kernel on arguments and then constants, in their order.

    Triton takes far longer to find what it compiled for a call than to launch it. So a call like one before does not
    ask: alike are those with equal constants, options and `call`, which says all that tells dtypes, and the same
    arguments missing. Tensors are `aligned`, and kernels must not be specialised for values of integers.
    """
    if INTERPRET:
        kernel[grid](*args, **constants, **options)
        return
    device = args[0].device.index
    if device != torch.cuda.current_device():  # Triton launches on the current one
        with torch.cuda.device(device):
            return run(kernel, grid, args, constants, call, **options)
    missing = tuple(arg is None for arg in args)
    key = (kernel, device, call, missing, *constants.values(), *options.values())
    compiled = _compiled.get(key)
    if compiled is None:
        _compiled[key] = kernel[grid](*args, **constants, **options)
    else:
        compiled[(*grid, 1, 1)[:3]](*args, *constants.values())


class Launch:
    """Sizes, flags and buffers that all kernels of one call share; `segment` is in chunks."""

    def __init__(self, q: Tensor, gates: list[Tensor], chunk: int, mask: Tensor | None, segment: int, **flags: object):
        self.batch, self.time, self.heads, self.width = q.shape
        self.rows, self.chunk, self.dtype = self.batch * self.heads, chunk, q.dtype
        self.chunks = triton.cdiv(self.time, chunk)
        self.gates, self.mask, self.device = gates, mask, q.device
        whole = self.time // chunk
        self.segments = [(c, min(segment, whole - c)) for c in range(0, whole, segment)]
        if whole < self.chunks:  # its start is the anchor that a later call may need
            self.segments.append((whole, 1))
        precision = "ieee" if q.dtype == torch.float32 else "tf32"
        self.flags = {"D": self.width, "C": chunk, "EPS": EPS, "IP": precision, "MASK": mask is not None}
        self.flags |= flags

    def launch(
        self, kernel: triton.JITFunction, grid: tuple[int, ...], *args: object, warps: int = 4, stages: int = 1,
        registers: int | None = None, **flags: object,
    ) -> None:  # fmt: skip
        """Run a kernel with those of the call's flags that it knows."""
        flags = self.flags | flags
        known = {name: flags[name] for name in kernel.arg_names[len(args) :]}
        # kernels of depth 2 leave some gradients in other dtypes than those for Hopper do
        call = (type(self), self.dtype, None if self.mask is None else self.mask.dtype)
        run(kernel, grid, args, known, call, num_warps=warps, num_stages=stages, maxnreg=registers)

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device=self.device)

    def coefficients(self, first: int, chunks: int, backward: bool = False) -> tuple[Tensor | None, ...]:
        """PN, RN (for the backward only), vec and m_C of a segment's chunks; see `gates_fwd_kernel`."""
        square = (self.rows, chunks, self.chunk, self.chunk)
        weight, past = self.new(*square, dtype=self.dtype), self.new(*square, dtype=self.dtype) if backward else None
        parts = (weight, past, self.new(self.rows, chunks, 4, self.chunk), self.new(self.rows, chunks))
        shape = (self.time, self.heads, first, chunks)
        self.launch(gates_fwd_kernel, (chunks, self.rows), *self.gates, self.mask, *parts, *shape, warps=1)
        return parts

    def gate_gradients(
        self, first: int, chunks: int, coefficients: tuple[Tensor, ...], grads: tuple[Tensor, ...], dgates: list[Tensor]
    ) -> None:
        """From the gradients of PN, vec and m_C of a segment to those of its tokens' gates, written into `dgates`."""
        shape = (self.time, self.heads, first, chunks)
        inputs = (*self.gates[1:], self.mask, *coefficients[:3], *grads)
        self.launch(gates_bwd_kernel, (chunks, self.rows), *inputs, *dgates, *shape, warps=1)
