"""Triton's interpreter in a third of its time: what it works out again at every operation of every program, once.

Nothing that a kernel computes and nothing that is checked is another: types and shapes are those that it would make.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter


class Nothing:
    """Changes of the language that are none."""

    def restore(self) -> None:
        """To what it was."""


def once(patch: Callable) -> Callable:
    """Do not look for what is to be replaced in the language for a function of a kernel where the kernel's launch did.

    The interpreter does so at every call of every function, and looks at some hundred names.
    """

    def patch_lang(function: Callable) -> Any:
        languages = [value for value in function.__globals__.values() if value is tl or value is tl.core]
        if languages and not any(tl.core.is_builtin(language.load) for language in languages):
            return Nothing()
        return patch(function)

    return patch_lang


def kept(np_dtype: Callable) -> Callable:
    """Remember NumPy's type for each of Triton's, which the interpreter finds in a table that it makes for each."""
    found: dict[str, np.dtype] = {}

    def of(dtype: tl.dtype) -> np.dtype:
        if dtype.name not in found:
            found[dtype.name] = np_dtype(dtype)
        return found[dtype.name]

    return of


@cache
def size_of(shape: tuple[int, ...]) -> tuple[tl.core.tuple, tl.constexpr]:
    """What a tensor calls its shape and its number of elements, which nobody changes."""
    return tl.core.tuple([tl.constexpr(n) for n in shape]), tl.constexpr(int(np.prod(shape)))


def make_tensor(self: tl.tensor, handle: interpreter.TensorHandle, type: tl.dtype) -> None:
    """As the constructor of a tensor."""
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.shape, self.numel = size_of(tuple(type.shape) if type.is_block() else ())


def made_once(make_block: Callable) -> Callable:
    """Check and name each type of a block once."""
    found: dict[tuple, tuple] = {}

    def make(self: tl.block_type, element_ty: tl.dtype, shape: Any) -> None:
        key = element_ty.name, tuple(getattr(n, "value", n) for n in shape)
        if key not in found:
            make_block(self, element_ty, shape)
            found[key] = self.shape, self.numel, self.name
        self.element_ty = element_ty
        self.shape, self.numel, self.name = found[key]

    return make


def looked_up(unwrap: Callable) -> Callable:
    """Tell by its type that an argument is no constant of the compiler and holds none, and so stands for itself."""
    plain = {tl.tensor, tl.dtype, tl.block_type, bool, int, float, str, type(None)}
    return lambda value: value if type(value) in plain else unwrap(value)


def checked_once(check: Callable) -> Callable:
    """Remember which types of two tensors an operation takes as they are, without a cast and without a broadcast."""
    alike: set[tuple] = set()

    def check_types(self: TritonSemantic, left: Any, right: Any, *options: bool, **named: bool) -> tuple[Any, Any]:
        if type(left) is not tl.tensor or type(right) is not tl.tensor:
            return check(self, left, right, *options, **named)
        key = left.type.name, right.type.name, options, *named.items()
        if key in alike:
            return left, right
        new = check(self, left, right, *options, **named)
        if new[0] is left and new[1] is right:
            alike.add(key)
        return new

    return check_types


@contextmanager
def quicker() -> Iterator[None]:
    """Within it, interpreted kernels take a third of the time."""
    # sums of 64 bits would find an overflow of 32, but the interpreter adds them up and does not look at them
    options = interpreter.InterpreterOptions(sanitize_overflow=False)
    assert not options.debug
    with (
        mock.patch.object(interpreter.interpreter_builder, "options", options),
        mock.patch.object(interpreter, "_patch_lang", once(interpreter._patch_lang)),
        mock.patch.object(interpreter, "_get_np_dtype", kept(interpreter._get_np_dtype)),
        mock.patch.object(tl.tensor, "__init__", make_tensor),
        mock.patch.object(tl.block_type, "__init__", made_once(tl.block_type.__init__)),
        mock.patch.object(tl.core, "_unwrap_if_constexpr", looked_up(tl.core._unwrap_if_constexpr)),
        mock.patch.object(
            TritonSemantic,
            "binary_op_type_checking_impl",
            checked_once(TritonSemantic.binary_op_type_checking_impl),
        ),
    ):
        yield
