"""Translate every portable kernel for a GPU, which needs none: `TRITON_INTERPRET=0 python -m tests.memory.portable`.

Triton's interpreter runs kernels as Python and so takes much that its compiler does not.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import ASTSource, ir, make_backend

from memory.ops import serves
from memory.ops.triton import launch, plan
from tests.memory import launches

HOPPER = GPUTarget("cuda", 90, 32)
KINDS = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.bool: "i1", torch.int32: "i32", torch.int64: "i64"}


def kind(value: Any) -> str:
    """What Triton calls the type of an argument."""
    if isinstance(value, Tensor):
        return f"*{KINDS[value.dtype]}"
    return "i32" if isinstance(value, int) else "fp32"


def source_of(kernel: triton.JITFunction, args: tuple, settings: dict) -> ASTSource:
    """What Triton would compile for a launch; pointers are those of `memory.ops.triton.launch.aligned`."""
    given = dict(zip(kernel.arg_names, args, strict=False))
    constants = {name: value for name, value in settings.items() if name in kernel.arg_names}
    constants |= {name: None for name, value in given.items() if value is None}
    types = {name: "constexpr" if name in constants else kind(given[name]) for name in kernel.arg_names}
    attrs = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(types.values()) if t.startswith("*")}
    constants = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    return ASTSource(kernel, types, constants, attrs)


def translate(
    kernel: triton.JITFunction, grid: tuple[int, ...], args: tuple, call: tuple, settings: Callable[[], dict]
) -> None:
    """Take a launch of `memory.ops.triton.launch.start` as far as Triton's own language, and print its name."""
    source = source_of(kernel, args, settings())
    backend = make_backend(HOPPER)
    options = backend.parse_options({})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    codegen = backend.get_codegen_implementation(options)
    source.make_ir(HOPPER, options, codegen, backend.get_module_map(), context)
    print(kernel.__name__)


def compile_whole(
    kernel: triton.JITFunction, grid: tuple[int, ...], args: tuple, call: tuple, settings: Callable[[], dict]
) -> None:
    """As `translate`, down to what a GPU runs; print the name and the bytes of shared memory that it takes."""
    given = settings()
    options = {"num_warps": given["num_warps"]}
    compiled = triton.compile(source_of(kernel, args, given), target=HOPPER, options=options)
    print(kernel.__name__, compiled.metadata.shared)


@contextmanager
def launched_by(start: Callable) -> Iterator[None]:
    """Give launches to `start`, whatever the tensors are on."""
    with (
        mock.patch.object(launch, "start", start),
        mock.patch.object(plan, "start", start),
        mock.patch.object(serves, "INTERPRET", True),  # who serves a call: CPU tensors are let through
    ):
        yield


def main() -> None:
    with launched_by(translate):
        bf16 = torch.bfloat16
        for depth, time, switches, _ in launches.RECURRENCES:
            launches.recurrence(depth, time, switches, bf16)
        launches.in_spans(50, bf16)
        for depth, switches in launches.BEGINNINGS:
            launches.beginning(depth, switches, bf16)
        for on in (True, False):
            for depth in (1, 2):
                launches.one_token(depth, on, bf16)
            launches.around(on, bf16)
            launches.retrieval(on, bf16)
            launches.attention(on, bf16)
            launches.one_query(on, bf16)
            launches.residual(on, bf16)
        launches.silu(bf16)
    with launched_by(compile_whole):  # kernels whose tiles are whole heads, at the widest that are served
        launches.retrieval(True, bf16, serves.RETRIEVED_WIDTHS[True, False])
        launches.retrieval(True, torch.float32, serves.RETRIEVED_WIDTHS[True, True])


if __name__ == "__main__":
    main()
