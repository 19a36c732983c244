"""Text corpora in every shape, and the tokens that are made of them."""

import bz2
import codecs
import copy
import functools
import gzip
import io
import json
import lzma
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from hypothesis import strategies as st
from pyarrow import parquet

from data_prep.corpora import FIELDS, documents
from data_prep.index import INDEX, read_index, write_index
from data_prep.text import prepare
from data_prep.tokenizer import load
from domains.text.tokens import read_tokens
from tests.fuzz.damage import BYTES, HOSTILE, LINES, VALUES, Draw, as_json, damaged, damaged_tree
from tests.fuzz.run import Format

ROWS = ["a story", {"text": "Two.\nThree \u00e9"}, {"id": 3, "content": "\U0001f9ec"}]
JSONL = "".join(json.dumps(row, ensure_ascii=bool(i % 2)) + "\n" for i, row in enumerate(ROWS))
TXT = "One.\nTwo \u00e9\u4e2d.\r\n\nThree \U0001f9ec.\n"
# of the zstd command, which adds a checksum, and which no Python of 3.11 can make
ZSTD = b'(\xb5/\xfd$)I\x01\x00"a story"\n{"text": "Two.\\nThree \\u00e9"}\n\xd6s`\xf0'
HALVES = (JSONL.encode()[:30], JSONL.encode()[30:])  # each a stream of its own in a packed file
BOTH = (INDEX, "train.bin")
UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}


def texts(path: Path) -> list[str]:
    return [text for text, _ in documents(path)]


def txt(data: bytes) -> list[Any]:
    text = data.removeprefix(codecs.BOM_UTF8).decode()
    return [[text] if text else []]


def jsonl(data: bytes) -> list[Any]:
    found = []
    for line in data.removeprefix(codecs.BOM_UTF8).decode().split("\n"):
        if not line.strip():
            continue
        row = json.loads(line)
        if isinstance(row, dict):
            row = row[next(name for name in FIELDS if name in row)]
        if not isinstance(row, str | None):
            raise ValueError("no text")
        if row:
            found.append(row.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return [found]


def packed(ending: str, base: bytes, whole: bytes) -> Format:
    """Packed lines: they come back whole or not at all, as every one of these formats has checksums."""

    def right(data: bytes) -> list[Any]:
        copies = len(data) // len(base)
        if data == base * copies:  # each of these formats may hold several streams, which are read one behind the other
            return jsonl(whole * copies)
        if ending in UNPACK and UNPACK[ending](data) != whole:
            raise ValueError("other bytes than were packed")
        return jsonl(whole)

    return Format(f"text.jsonl{ending}", f"fuzzed.jsonl{ending}", damaged(base, BYTES), texts, right)


@st.composite
def tables(draw: Draw) -> bytes:
    """A parquet file whose text may be of another kind."""
    hostile = [draw(st.sampled_from(HOSTILE)).replace("\ud800", "?") for _ in range(3)]
    columns = (
        *(["a", "b\n", "c"], hostile, [None, "a", ""], [None] * 3, [1, 2, 3], [b"a", b"\xff", b""]),
        *([["a"], ["b"], []], [{"a": "b"}] * 3, [1.5, None, 2.0], [True, False, None]),
    )
    values = pyarrow.array(draw(st.sampled_from(columns)))
    if draw(st.booleans()) and pyarrow.types.is_string(values.type):
        values = draw(st.sampled_from((values.dictionary_encode(), values.cast(pyarrow.large_string()))))
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"id": [1, 2, 3], draw(st.sampled_from(("text", "content", "x"))): values}), file)
    return draw(damaged(file.getvalue(), BYTES)) if draw(st.booleans()) else file.getvalue()


def from_parquet(data: bytes) -> list[Any]:
    names = parquet.read_schema(pyarrow.BufferReader(data)).names
    field = next(name for name in FIELDS if name in names)
    column = parquet.read_table(pyarrow.BufferReader(data), columns=[field])[field].to_pylist()
    if not all(isinstance(text, str | None) for text in column):
        raise ValueError("no text")
    return [[text for text in column if text]]


@functools.cache
def prepared() -> tuple[bytes, dict, bytes]:
    """Bin, index and tokenizer of a small corpus."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "train.jsonl").write_text(JSONL)
        Path(folder, "valid.jsonl").write_text(JSONL)
        made = prepare(folder, "byte", Path(folder, "made"), workers=1)
        (made / "val.bin").unlink()
        index = read_index(made)
        del index["parts"]["val"]
        return (made / "train.bin").read_bytes(), index, (made / "tokenizer.json").read_bytes()


def tokens(path: Path) -> list[Any]:
    """What a run reads of a folder in which `path` is one file; the others are whole."""
    content, index, _ = prepared()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_index(folder, index)
        (folder / "train.bin").write_bytes(content)
        shutil.copy(path, folder)
        parts = read_tokens(folder)[0]
        if "train" not in parts:  # an index may say so; `TextData.setup` then refuses the folder
            raise ValueError(f"{folder / INDEX}: no train part")
        part = parts["train"]
        return [part.read(np.arange(len(part.ids))).tolist(), part.starts.tolist(), part.bytes, part.words]


def of_bin(data: bytes) -> list[Any]:
    content, index, _ = prepared()
    if data != content:
        raise ValueError("other tokens than were prepared")
    counts = index["parts"]["train"]
    return [[np.frombuffer(content, "<u2").tolist(), *(counts[name] for name in ("starts", "bytes", "words"))]]


def of_index(data: bytes) -> list[Any]:
    if json.loads(data) != json.loads(signed(prepared()[1])):
        raise ValueError("another index than was written")
    return of_bin(prepared()[0])


def signed(index: Any) -> bytes:
    """A crafted index with the checksum that belongs to it."""
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder), index if isinstance(index, dict) else {"index": index})
        return Path(folder, INDEX).read_bytes()


def of_crafted(data: bytes) -> list[Any]:
    """What a signed index says, where it can be true of the bin."""
    counts = json.loads(data)["parts"]["train"]
    return [[np.frombuffer(prepared()[0], "<u2").tolist(), *(counts[name] for name in ("starts", "bytes", "words"))]]


@st.composite
def crafted(draw: Draw) -> bytes:
    plain = tuple(value for value in VALUES if not isinstance(value, float) and value != "\ud800")
    return signed(draw(damaged_tree({k: v for k, v in prepared()[1].items() if k != "sha256"}, plain)))


def there_and_back(path: Path) -> str:
    """A text that goes through a tokenizer of a third party."""
    tokenizer = load(str(path))
    return tokenizer.decode(tokenizer.encode(TXT, add_special_tokens=False).ids, skip_special_tokens=False)


@st.composite
def tokenizers(draw: Draw) -> bytes:
    whole = prepared()[2]
    return draw(damaged(whole, BYTES)) if draw(st.booleans()) else as_json(draw(damaged_tree(json.loads(whole))))


def later(make: Callable[[], bytes], kinds: tuple) -> st.SearchStrategy[bytes]:
    """Damages to what is made only when it is asked for."""
    return st.builds(make).flatmap(lambda data: damaged(copy.copy(data), kinds))


FORMATS = (
    Format("text.txt", "fuzzed.txt", damaged(TXT.encode(), (*LINES, *BYTES)), texts, txt),
    Format("text.jsonl", "fuzzed.jsonl", damaged(JSONL.encode(), (*LINES, *BYTES)), texts, jsonl),
    packed(".gz", b"".join(gzip.compress(part, mtime=0) for part in HALVES), JSONL.encode()),
    packed(".bz2", b"".join(map(bz2.compress, HALVES)), JSONL.encode()),
    packed(".xz", b"".join(map(lzma.compress, HALVES)), JSONL.encode()),
    packed(".zst", ZSTD, (JSONL.split("\n")[0] + '\n{"text": "Two.\\nThree \\u00e9"}\n').encode()),
    Format("text.parquet", "fuzzed.parquet", tables(), texts, from_parquet),
    Format("train.bin", "train.bin", later(lambda: prepared()[0], BYTES), tokens, of_bin),
    Format("index.json", INDEX, later(lambda: signed(prepared()[1]), (*LINES, *BYTES)), tokens, of_index, BOTH),
    Format("crafted_index.json", INDEX, crafted(), tokens, of_crafted, BOTH),
    Format("tokenizer.json", "fuzzed.json", tokenizers(), there_and_back, lambda data: [TXT]),
)
