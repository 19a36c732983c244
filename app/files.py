"""Files that are whole or not there: written beside their place, flushed to the disk, then moved over the old one."""

import errno
import hashlib
import json
import math
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from app.errors import UserError

NO_COMMENT = b"\0\0"  # how a zip file ends that has no comment
SEAL = b"sha256:"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file so that every moment shows either the old one or the new one, whatever happens.

    The new content is written to `NAME.part` in the same folder, which is made if need be, never to another file
    system. Only when all of it is on the disk does it take the old file's place.

    Args:
        path: the file.

    Yields:
        where to write; it may be opened any number of times.

    Raises:
        UserError: the file cannot be written; names the folder and the cause. The old file is as it was.
    """
    part = path.parent / f"{path.name}.part"  # also of `.`, which has no name, and which the system refuses below
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_replaceable(path)
        yield part
        settle(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if (cause := _cause(error)) is not None:
            raise unwritable(path, cause) from error
        raise


def check_replaceable(path: Path) -> None:
    """Refuse what is no file, such as /dev/null, which a file would take the place of for every program.

    Raises:
        OSError: what it is.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "it is a device or a pipe")


def settle(part: Path, path: Path) -> None:
    """Put a file that is written whole in its place, in the same folder."""
    _flush(part)
    os.replace(part, path)
    # A rename is on the disk only once its folder is.
    _flush(path.parent)


def unwritable(path: Path, cause: OSError) -> UserError:
    """The error of a file that the system would not write."""
    return UserError(
        f"{path.parent}: {path.name} cannot be written there ({cause.strerror or cause}); mend that or write elsewhere"
    )


def make_folder(path: Path) -> None:
    """A folder, where it is not there yet.

    Raises:
        UserError: the system would not make it, as where a file of that name is there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: no folder can be made there ({error.strerror}); name another") from error


def save_tensors(path: Path, content: Any) -> None:
    """Replace a file by what `torch.save` makes of `content`, sealed by a checksum of all its bytes.

    Raises:
        UserError: see `replacing`.
    """
    with replacing(path) as part:
        # Opened here, as torch would not say why a name cannot be written.
        with part.open("wb") as file:
            torch.save(content, file)
        seal = _seal(_digest(part, len(NO_COMMENT)))
        with part.open("r+b") as file:
            file.seek(-len(NO_COMMENT), os.SEEK_END)
            file.write(seal)


def write_text(path: Path, text: str) -> None:
    """Replace a file by UTF-8 text, see `replacing`."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Replace a file by JSON that every reader takes: a number that is not finite becomes null, see `replacing`."""
    write_text(path, json.dumps(_finite(content), indent=2, default=str, allow_nan=False) + "\n")


def damage(path: str | Path) -> str | None:
    """Where a file that torch wrote is not what was written; None where it is whole.

    The seal of `save_tensors` covers every bit. A file without one still has the checksums of a zip file's members.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        file.seek(max(os.path.getsize(path) - len(_seal("")), 0))
        tail = file.read()
    if tail == _seal(_digest(path, len(tail))):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            sealed = archive.comment or SEAL in tail
            return "its checksum" if sealed else archive.testzip()
    except OSError:
        raise
    except Exception as error:
        # Damaged names and sizes make the decoder raise almost anything.
        return f"its directory ({error})"


def _seal(digest: str) -> bytes:
    """What ends a sealed file, in the place of an empty comment of the zip file: its length, and the comment."""
    comment = SEAL + digest.rjust(64).encode()
    return struct.pack("<H", len(comment)) + comment


def _digest(path: str | Path, tail: int) -> str:
    """SHA-256 of a file without its last `tail` bytes."""
    digest = hashlib.sha256()
    left = os.path.getsize(path) - tail
    with open(path, "rb") as file:
        while piece := file.read(min(left, 1 << 20)):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Make the system write a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cause(error: BaseException | None) -> OSError | None:
    """The system's error, also behind the RuntimeError by which torch.save hides it."""
    while isinstance(error, RuntimeError):
        error = error.__context__
    return error if isinstance(error, OSError) else None


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
