"""What every test starts from: one thread, a seed, an interpreter for kernels, NaN in memory nobody has written."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported; the suite shares two cores
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
import torch
from hypothesis import settings

from app.lean import import_torchmetrics

settings.register_profile("suite", derandomize=True, database=None, deadline=None)  # the same inputs every time
settings.load_profile("suite")

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined, so before its module is imported


def pytest_collectstart() -> None:
    """As a command does; not above, as what hands the tests out to workers needs none of it."""
    import_torchmetrics()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests that fork processes be the first, so that one worker takes them all.

    The server that forks imports everything for six seconds, in each worker that asks for one.
    """
    items.sort(key=lambda item: not _forks(item))


def _forks(item: pytest.Item) -> bool:
    return any(getattr(value, "__module__", None) == "tests.processes" for value in vars(item.module).values())


def pytest_collection_finish() -> None:
    """Let Python search for cycles seldom, and not among what is imported and collected, which all stays."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("gpu")
    if marker and not torch.cuda.is_available():
        pytest.skip(
            "this machine has no CUDA device; other tests interpret the Triton kernels here and compile the Gluon ones"
        )
    count = torch.cuda.device_count()
    if marker and marker.args and count < marker.args[0]:
        pytest.skip(f"this machine has {count} CUDA devices; {marker.args[0]} are to train together")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case of bytes by its place, as a packed file holds the second it was packed in.

    Workers collect the tests one by one and must agree on every name.
    """
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def seed() -> None:
    if torch.cuda.is_available():
        torch.manual_seed(0)
    else:  # what the line above does on a CPU, without noting down for each device that is not there who has called it
        torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def unwritten_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill fresh tensors with NaN, so that an element that nobody writes cannot pass for a zero."""
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, _poisoned(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", _poisoned(torch.Tensor.new_empty))


def _poisoned(make):
    def empty(*args, **kwargs):
        fresh = make(*args, **kwargs)
        if fresh.is_floating_point():
            fresh.detach().fill_(torch.nan)
        return fresh

    return empty
