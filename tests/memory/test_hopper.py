"""The Gluon kernels, which no interpreter runs: they compile for a Hopper GPU on any machine."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")


def test_kernels_compile_and_fit_into_shared_memory() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "tests.memory.hopper"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len({line.split()[0] for line in lines}) == 6
    assert all(int(line.split()[1]) <= 227 * 1024 for line in lines), lines  # what an SM has for its programs
