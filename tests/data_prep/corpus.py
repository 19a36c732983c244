"""Corpora that tests write, and what stands in the bins that are made of them."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet
from tokenizers import Tokenizer

STORIES = ["Ada went to the mill.\n", "Ünïcödé ☃ and \t tabs.\n\n\n  Spaces  end. ", 'He said "no".']


def gz(content: bytes) -> bytes:
    # The time in it would give a test another name in each process of pytest-xdist.
    return gzip.compress(content, mtime=0)


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    return sink.getvalue().to_pybytes()


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
