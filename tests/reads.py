"""What work reads that was there before it: a CUDA graph of it reads the same memory at every replay."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class Reads(TorchDispatchMode):
    """Within it, `found` gathers the storages that operations are given and none of them has made, by their address.

    All are held, so that no address is given out twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, UntypedStorage] = {}
        self.made: dict[int, UntypedStorage] = {}

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        for storage in _storages((args, kwargs)):
            if storage._cdata not in self.made:
                self.found[storage._cdata] = storage
        results = func(*args, **(kwargs or {}))
        for storage in _storages(results):
            if storage._cdata not in self.found:
                self.made[storage._cdata] = storage
        return results


def _storages(values: Any) -> list[UntypedStorage]:
    return [value.untyped_storage() for value in pytree.tree_leaves(values) if isinstance(value, Tensor)]


def as_a_graph(work: Callable[[], Any]) -> Callable[[], Any]:
    """The work, which at every call may read nothing that was not there at the first: a graph would miss it.

    Raises:
        AssertionError: of a call; it has the sizes of what is new.
    """
    first: dict[int, UntypedStorage] = {}

    def replay() -> Any:
        with Reads() as reads:
            result = work()
        if not first:
            first.update(reads.found)
        new = [storage.nbytes() for place, storage in reads.found.items() if place not in first]
        assert not new, f"work reads other memory than at first, of {new} bytes"
        return result

    return replay
