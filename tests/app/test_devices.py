"""Memory that a processor's tensors have freed, and random numbers of a device."""

import platform
import subprocess
import sys

import pytest
import torch

from app.devices import seed_device

PROGRAM = """
import resource, torch
from app.devices import keep_freed_memory

torch.set_num_threads(1)
x = torch.ones(2**20)

def new_pages():
    for turn in range(41):
        if turn == 1:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        parts = [x + i for i in range(4)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = new_pages()
keep_freed_memory()
print(given_back, new_pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_taken_again_in_place_of_new_pages() -> None:
    # an interpreter of its own: what has been freed in this one decides what is kept
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    given_back, kept = map(int, said.split())
    assert 3 * kept < given_back  # where they are kept, one turn or none takes new ones


@pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_device_is_seeded_as_torch_seeds_all(kind: str) -> None:
    device = torch.device(kind)
    seed = 2**64 - 3

    def drawn() -> list[float]:
        return torch.cat([torch.rand(3), torch.rand(3, device=device).cpu()]).tolist()

    torch.manual_seed(seed)
    expected = drawn()
    assert drawn() != expected
    seed_device(device, seed)
    assert drawn() == expected
