"""Memory that a processor's tensors have freed."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from app.devices import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_freed_memory()
x = torch.ones(2**20)
for turn in range(41):
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    parts = [x + i for i in range(4)]
    del parts
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_taken_again_in_place_of_new_pages() -> None:
    def new_pages(how: str) -> int:
        command = [sys.executable, "-c", PROGRAM, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert 3 * new_pages("kept") < new_pages("given back")  # where they are kept, one turn or none takes new ones
