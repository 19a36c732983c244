"""Where each text corpus lies, and how its documents are read: txt, jsonl and parquet, compressed or not, streaming."""

import bz2
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from data_prep import source_code
from data_prep.files import data_root, download

OPEN = {".xz": lzma.open, ".bz2": bz2.open, ".gz": gzip.open}
KINDS = (".txt", ".tokens", ".jsonl", ".parquet")
PARTS = {"train": ("train",), "val": ("val", "valid", "validation", "dev"), "test": ("test",)}
FIELDS = ("text", "content", "story", "document")  # of a jsonl or parquet row, the first that is there
PIECE = 8 << 20  # characters of a long txt that are held at a time
SHAKESPEARE = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)
NAMED = {  # folders under text/ of the data folder
    "shakespeare": ("tinyshakespeare",),
    "wikitext-2": ("wikitext-2",),
    "wikitext-103": ("wikitext-103",),
    "books": ("books",),
    "novels": ("novels", "books"),
    "code": ("code",),
}
HALVED = ("novels",)  # corpora without a test part, whose validation documents are dealt in turn to both


def find(corpus: str, root: Path | None = None) -> dict[str, list[Path]]:
    """Files of each part of a corpus, {train, val, test: [...]}; a corpus without named parts is all `train`.

    Args:
        corpus: a name of `NAMED`, a folder that is searched through, or a file. A file belongs to the part that its
            name starts with, before or after a dot (`valid.jsonl`, `wiki.test.tokens`, `train_00.jsonl.bz2`).
        root: data folder; by default `data_root()`.

    Raises:
        FileNotFoundError: there is no such corpus, or no txt, jsonl or parquet file in it.
    """
    paths = _folders(corpus, root) if corpus in NAMED else [Path(corpus)]
    files = []
    for path in paths:
        inside = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        found = [file for file in inside if kind(file)]
        if not found:
            hint = f"give a folder, a file or one of {', '.join(NAMED)}"
            raise FileNotFoundError(f"{path}: no txt, jsonl or parquet file is there; {hint}")
        files += found
    parts = {part: [file for file in files if _part(file) == part] for part in PARTS}
    rest = [file for file in files if _part(file) is None]
    if rest and any(parts.values()):
        raise ValueError(f"{rest[0]}: part unknown beside named ones; start its name with train, valid or test")
    return parts if not rest else {"train": rest, "val": [], "test": []}


def fetch(corpus: str, root: Path | None = None) -> None:
    """Make a corpus that is not there, where that is easy: download a small file, or gather installed source code.

    Raises:
        DownloadError: it could not be fetched.
        FileNotFoundError: a package that belongs into it is not installed.
    """
    if corpus not in ("shakespeare", "code"):
        return
    (folder,) = _folders(corpus, root)
    if any(kind(file) for file in folder.glob("*")):
        return
    if corpus == "code":
        source_code.write(folder)
    else:
        download(SHAKESPEARE[0], folder / "input.txt", SHAKESPEARE[1], retries=1)


def _folders(corpus: str, root: Path | None) -> list[Path]:
    return [(root or data_root()) / "text" / name for name in NAMED[corpus]]


def kind(path: Path) -> str | None:
    """The ending of KINDS that a file has, compression aside; None of any other."""
    name = path.name.removesuffix(path.suffix) if path.suffix in OPEN else path.name
    return next((ending for ending in KINDS if name.endswith(ending)), None)


def _part(path: Path) -> str | None:
    words = re.split(r"[._-]", path.name.lower())
    return next((part for part, names in PARTS.items() if words[0] in names or words[1:2] and words[1] in names), None)


def read_bytes(path: Path) -> bytes:
    """All of a file, decompressed."""
    with OPEN.get(path.suffix, open)(path, "rb") as file:
        return file.read()


def documents(path: Path) -> Iterator[tuple[str, bool]]:
    """Text of a file piece by piece, each with whether it starts a document.

    A txt is one document, in pieces of at most 8M characters; a row of a jsonl or parquet file is one each.

    Raises:
        ValueError: names the file and line that cannot be read, and why.
    """
    if kind(path) == ".parquet":
        yield from ((text, True) for text in _parquet(path))
        return
    with OPEN.get(path.suffix, open)(path, "rt", encoding="utf-8", newline="\n") as file:
        try:
            yield from ((text, True) for text in _jsonl(path, file)) if kind(path) == ".jsonl" else _pieces(file)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); convert it") from error
        except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            raise ValueError(f"{path}: its compression is damaged ({error}); fetch it again") from error


def _jsonl(path: Path, file: IO[str]) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error.msg}); mend it") from error
        fields = row if isinstance(row, dict) else {}
        text = (
            row if isinstance(row, str) else next((fields[f] for f in FIELDS if isinstance(fields.get(f), str)), None)
        )
        if text is None:
            raise ValueError(f"{path}, line {number}: no text in a field {', '.join(FIELDS)}; rename yours")
        yield text


def _parquet(path: Path) -> Iterator[str]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(f"{path}: reading parquet needs `pip install pyarrow`") from error
    file = ParquetFile(path)
    field = next((name for name in FIELDS if name in file.schema_arrow.names), None)
    if field is None:
        raise ValueError(f"{path}: no column {', '.join(FIELDS)}; it has {', '.join(file.schema_arrow.names)}")
    for batch in file.iter_batches(batch_size=256, columns=[field]):
        yield from (text for text in batch.column(0).to_pylist() if text is not None)


def _pieces(file: IO[str]) -> Iterator[tuple[str, bool]]:
    """A long text cut before a single space, where no byte-level tokenizer joins anything, or anywhere without one."""
    rest, first = "", True
    while block := file.read(PIECE):
        text = rest + block
        if len(text) < PIECE:
            rest = text
            break
        end = max(len(text) - 100_000, 0)  # where the last such space is looked for
        cut = (
            max((match.start() for match in re.finditer(r"(?<=\S) (?=\S)", text[end:])), default=len(text) - end) + end
        )
        yield text[:cut], first
        rest, first = text[cut:], False
    if rest:
        yield rest, first
