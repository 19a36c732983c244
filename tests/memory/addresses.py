"""A sanitizer of interpreted Triton kernels: every address whose mask is true must be that of an element it was given.

A launch is told addresses that no memory has, far apart for each of its tensors, so that an access says which argument
it was computed from. One that belongs to no element of that argument fails, though memory of another may lie there.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError

APART = 48  # bits of an address that lie within an argument, which begins at half of them


class Argument:
    """A tensor of a launch.

    Args:
        number: which of the launch's tensors it is.
        tensor: as the kernel gets it.
    """

    def __init__(self, number: int, tensor: Tensor) -> None:
        self.told = (number << APART) + (1 << APART - 1)
        self.real = tensor.data_ptr()
        self.size = tensor.element_size()
        last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
        self.span = last + 1 if tensor.numel() else 0  # elements from the first to the last
        self.gaps: np.ndarray | None = None  # which of these are not the tensor's
        if not tensor.is_contiguous():
            gaps = torch.ones(self.span, dtype=torch.bool)
            gaps.as_strided(tensor.shape, tensor.stride()).fill_(False)
            self.gaps = gaps.numpy()

    def outside(self, at: np.ndarray) -> np.ndarray:
        """Those of some distances from the first element, in bytes, at which there is no element."""
        wrong = (at < 0) | (at >= self.span * self.size)
        if self.gaps is not None:
            wrong[~wrong] = self.gaps[at[~wrong] // self.size]
        return at[wrong]

    def complaint(self, at: int) -> str:
        """Where the address lies at such a distance."""
        place = at // self.size
        if place < 0:
            return f"{-place} elements before the first"
        return f"{place - self.span + 1} elements behind the last" if place >= self.span else "between two elements"


class Launch:
    """A launch under way: its arguments in their order, and what was found wrong."""

    def __init__(self) -> None:
        self.arguments: list[Argument] = []
        self.fault: tuple[int, str] | None = None

    def real(self, pointers: interpreter.TensorHandle, mask: np.ndarray | None) -> interpreter.TensorHandle:
        """The addresses that memory has for the told ones.

        Raises:
            AssertionError: a mask lets one through that is not an element's.
        """
        told = pointers.data.view(np.int64)
        # the interpreter makes int32 of a scalar mask
        wanted = told if mask is None or mask.all() else told[mask.astype(bool)]
        if not wanted.size:
            return pointers
        number = int(wanted.flat[0]) >> APART
        argument = self.arguments[number]
        wrong = argument.outside(wanted - argument.told)
        if wrong.size:
            farthest = int(wrong[np.abs(wrong).argmax()])
            self.fault = number, f"{argument.complaint(farthest)} ({wrong.size} of {wanted.size} elements)"
            raise AssertionError
        shift = (argument.real - argument.told) % (1 << 64)
        return interpreter.TensorHandle(pointers.data + np.uint64(shift), pointers.dtype)


@contextmanager
def checked() -> Iterator[None]:
    """Within it, an interpreted kernel that would touch anything but elements of its arguments fails.

    Raises:
        AssertionError: of the launch; it names kernel and argument, and how far outside.
    """
    launches: list[Launch] = []
    builder = interpreter.InterpreterBuilder
    run, convert = interpreter.InterpretedFunction.run, interpreter._implicit_cvt
    load, store = builder.create_masked_load, builder.create_masked_store
    add, swap = builder.create_atomic_rmw, builder.create_atomic_cas

    def run_checked(self: interpreter.InterpretedFunction, *args: Any, **kwargs: Any) -> None:
        launch = Launch()
        launches.append(launch)
        try:
            run(self, *args, **kwargs)
        except InterpreterError as error:
            if launch.fault is None:
                raise
            number, complaint = launch.fault
            given = inspect.getcallargs(self.fn, *args, **{n: x for n, x in kwargs.items() if n in self.arg_names})
            names = [name for name, value in given.items() if isinstance(value, Tensor)]
            raise AssertionError(f"{self.fn.__name__} is outside of {names[number]}: {complaint}") from error
        finally:
            launches.pop()

    def told(value: Any) -> Any:
        handle = convert(value)
        if isinstance(value, Tensor):
            arguments = launches[-1].arguments
            arguments.append(Argument(len(arguments), value))
            handle.handle.data[:] = arguments[-1].told
        return handle

    def load_checked(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        return load(self, launches[-1].real(pointers, mask.data), mask, *rest)

    def store_checked(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        return store(self, launches[-1].real(pointers, mask.data), value, mask, *rest)

    def add_checked(self: Any, kind: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        return add(self, kind, launches[-1].real(pointers, mask.data), value, mask, *rest)

    def swap_checked(self: Any, pointers: Any, *rest: Any) -> Any:
        return swap(self, launches[-1].real(pointers, None), *rest)

    with (
        mock.patch.object(interpreter.InterpretedFunction, "run", run_checked),
        mock.patch.object(interpreter, "_implicit_cvt", told),
        mock.patch.multiple(
            builder,
            create_masked_load=load_checked,
            create_masked_store=store_checked,
            create_atomic_rmw=add_checked,
            create_atomic_cas=swap_checked,
        ),
    ):
        yield
