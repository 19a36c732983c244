"""What a result depends on besides its configuration: versions, commit, device."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

PROJECT = "titans-lightning"
ROOT = Path(__file__).parent.parent


def versions() -> dict[str, str | None]:
    """Versions that a result depends on; None for what is not installed."""
    return {
        "python": platform.python_version(),
        **{name: _installed(name) for name in ("torch", "lightning", "triton", PROJECT)},
        "commit": git_commit(),
    }


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the code that runs, `-dirty` where files differ from it; None outside a git repository.

    The rows and pages of `results` are no code: a benchmark that writes one row after another is of one commit.
    """
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _git(*command: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def device_name(device: torch.device) -> str:
    """The device in words, for a table of results."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"
