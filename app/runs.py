"""Where runs keep their files: runs/NAME/version_N/checkpoints/{best,last}.ckpt."""

import re
from pathlib import Path

from app.errors import UserError


def newest_checkpoint(root: Path, kind: str) -> Path:
    """The checkpoint `kind` (`best` or `last`) of the newest run below `root` that has one.

    Raises:
        UserError: no run has one.
    """
    paths = [path for path in root.glob(f"version_*/checkpoints/{kind}.ckpt") if version(run_folder(path)) is not None]
    if not paths:
        raise UserError(f"no {kind} checkpoint under {root}; run `fit` first, or name a file with --ckpt FILE")
    return max(paths, key=lambda path: version(run_folder(path)) or 0)


def run_folder(checkpoint: Path) -> Path:
    """The folder of the run that wrote a checkpoint; for a file that was moved elsewhere, the folder it lies in."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def curves_folder(run: Path) -> Path:
    """The folder of TensorBoard's newest file of a run: the run's own, or one in it that says what the run changes."""
    files = run.rglob("events.out.tfevents.*")
    return max(files, key=lambda path: path.name, default=run / "none").parent


def version(folder: Path) -> int | None:
    """N of a folder `version_N`, None of any other."""
    match = re.fullmatch(r"version_(\d+)", folder.name)
    return int(match[1]) if match else None
