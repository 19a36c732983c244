"""How kernels are launched: tensors they can take, and a cache of what Triton compiled for calls that are alike."""

from collections.abc import Callable
from typing import Any, overload

import torch
import triton
from torch import Tensor, library

from memory.ops.serves import INTERPRET, traced

_compiled: dict[tuple, tuple[triton.compiler.CompiledKernel, list[object]]] = {}


@overload
def aligned(x: Tensor) -> Tensor: ...


@overload
def aligned(x: Tensor | None) -> Tensor | None: ...


def aligned(x: Tensor | None) -> Tensor | None:
    """x, contiguous and where vectors can be loaded from: kernels are compiled once for all calls."""
    if x is None:
        return None
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


def cdiv(n: int, size: int) -> int:
    """How many blocks of a size n elements fill; `triton.cdiv` is declared for kernels only."""
    return -(-n // size)


def direct(op: library.CustomOpDef, launch: Callable) -> Callable:
    """`launch` where nothing is to be differentiated or traced: the dispatcher would take as long as a kernel does."""
    return op if torch.is_grad_enabled() or traced() else launch


def run(
    kernel: triton.JITFunction, grid: tuple[int, ...], args: tuple, constants: dict[str, Any], call: tuple, **options
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
    entry = _compiled.get(key)
    if entry is None:
        values = settings()
        constants = [values[name] for name in kernel.arg_names[len(args) :]]
        _compiled[key] = kernel[grid](*args, **values), constants
        return
    compiled, constants = entry
    stream = triton.runtime.driver.active.get_current_stream(device)  # pyrefly: ignore[missing-attribute]
    # what compiled[grid](..) does, less what it makes for hooks of profilers
    place = (*(*grid, 1, 1)[:3], stream, compiled.function, compiled.packed_metadata, None, None, None)
    compiled.run(*place, *args, *constants)  # pyrefly: ignore[not-callable]
