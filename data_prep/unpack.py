"""Packed files as blocks of bytes, whole: a file that was cut or damaged is an error and never a shorter file."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from app.reading import reading

BLOCK = 1 << 16  # bytes per read
STREAMS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
}
PACKED = (*STREAMS, ".zst")  # endings of packed files, in lower case


def packing(path: Path) -> str:
    """The ending that says how a file is packed, in lower case; empty for a plain one."""
    ending = path.suffix.lower()
    return ending if ending in PACKED else ""


def blocks(path: Path) -> Iterator[bytes]:
    """What a file holds, unpacked, some kilobytes at a time.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it was cut or damaged.
    """
    ending = packing(path)
    with reading(path, f"a {ending} file" if ending else "a file", "copy or fetch it again"):
        if ending == ".zst":
            import pyarrow  # it takes 0.2 s, which a worker that unpacks no .zst need not spend

            if not path.stat().st_size:
                raise EOFError("it ends early")
            with pyarrow.input_stream(str(path), compression="zstd") as file:
                yield from iter(lambda: file.read(BLOCK), b"")
            return
        with path.open("rb") as file:
            raw = iter(lambda: file.read(BLOCK), b"")
            yield from _unpacked(raw, STREAMS[ending]) if ending else raw


def _unpacked(raw: Iterator[bytes], stream: Callable[[], Any]) -> Iterator[bytes]:
    """The streams of a file, one after another; Python's readers take one with a damaged head for the file's end."""
    decoder = stream()
    for block in raw:
        while block:
            if decoder.eof:
                decoder = stream()
            yield decoder.decompress(block)
            block = decoder.unused_data
    if not decoder.eof:
        raise EOFError("it ends early")


def read_bytes(path: Path) -> bytes:
    """All of a file, unpacked; see `blocks`."""
    return b"".join(blocks(path))
