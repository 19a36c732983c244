"""What tests of the memory start from beside `tests.conftest`: kernels may touch nothing but their arguments."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from memory.ops import serves


@pytest.fixture(autouse=True)
def kernels_stay_inside() -> Iterator[None]:
    """Interpreted kernels fail where they load or store what is no element of their arguments."""
    if not (serves.INTERPRET and find_spec("triton")):
        yield
        return
    from tests.memory.addresses import checked
    from tests.memory.quicker import quicker

    with quicker(), checked():
        yield
