"""Corpora that tests write, and what stands in the bins that are made of them."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer

from data_prep import text as prep

STORIES = ["Ada went to the mill.\n", "Ünïcödé ☃ and \t tabs.\n\n\n  Spaces  end. ", 'He said "no".']


def gz(content: bytes) -> bytes:
    # The time in it would give a test another name in each process of pytest-xdist.
    return gzip.compress(content, mtime=0)


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    return sink.getvalue().to_pybytes()


def alone_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one worker prepares text, let it be a thread: a process takes longer to start than a corpus to prepare.

    Two or more stay processes.
    """

    def pool(workers: int, context: object, start: Callable, given: tuple) -> Executor:
        if workers == 1:
            return ThreadPoolExecutor(workers, initializer=start, initargs=given)
        return ProcessPoolExecutor(workers, context, start, given)

    monkeypatch.setattr(prep, "ProcessPoolExecutor", pool)
    monkeypatch.setattr(prep, "end_with_parent", lambda: None)  # a thread ends with its process
    monkeypatch.setattr(prep, "_codec", None)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # as a worker sets it, so that it is unset behind the test


def write(folder: Path, name: str, stories: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    lines = [json.dumps({"text": story}) + "\n" for story in stories]
    content = "".join(lines if "jsonl" in name.lower() else stories)
    opener = {".xz": lzma.open, ".bz2": bz2.open, ".gz": gzip.open}.get(path.suffix.lower(), open)
    if path.suffix == ".zst":
        path.write_bytes(zstd(content.encode()))
        return path
    if path.suffix.lower() == ".parquet":
        parquet.write_table(pyarrow.table({"text": stories}), path)
        return path
    with opener(path, "wt", encoding="utf-8", newline="\n") as file:
        file.write(content)
    return path


def read(folder: Path, part: str) -> tuple[list[str], dict]:
    """The documents of a bin, decoded, and the part's entry in the index."""
    index = json.loads((folder / "index.json").read_text())
    ids = np.fromfile(folder / f"{part}.bin", index["dtype"])
    counts, tokenizer = index["parts"][part], Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert len(ids) == counts["tokens"] and (ids[counts["starts"]] == index["tokenizer"]["end"]).all()
    pieces = np.split(ids, counts["starts"])[1:]
    return [tokenizer.decode(piece[1:].tolist()) for piece in pieces], counts
