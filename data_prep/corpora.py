"""Where each text corpus lies, and how its documents are read: txt, jsonl and parquet, packed or not, streaming."""

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from app.reading import Reading, reading
from data_prep.files import data_root
from data_prep.unpack import blocks, packing

KINDS = (".txt", ".tokens", ".jsonl", ".parquet")
PARTS = {"train": ("train",), "val": ("val", "valid", "validation", "dev"), "test": ("test",)}
FIELDS = ("text", "content", "story", "document")  # the first of these that a jsonl or parquet row has is its text
PIECE = 8 << 20  # characters of a long txt that are in memory at a time
NAMED = {  # folders under text/ of the data folder
    "shakespeare": ("tinyshakespeare",),
    "wikitext-2": ("wikitext-2",),
    "wikitext-103": ("wikitext-103",),
    "books": ("books",),
    "novels": ("novels", "books"),
    "code": ("code",),
}
HALVED = ("novels",)  # without a test part: their validation documents go to validation and test in turn


def find(corpus: str, root: Path | None = None) -> dict[str, list[Path]]:
    """Files of each part of a corpus, {train, val, test: [...]}; a corpus without named parts is all `train`.

    Args:
        corpus: a name of `NAMED`, a folder that is searched through, or a file. A file belongs to the part that its
            name starts with, before or after a dot (`valid.jsonl`, `wiki.test.tokens`, `train0.txt`, `train_00.jsonl`).
        root: data folder; by default `data_root()`.

    Raises:
        FileNotFoundError: there is no such corpus, or no txt, jsonl or parquet file in it.
    """
    files = []
    for place in _places(corpus, root):
        texts = [file for file in _files(place) if kind(file)]
        if not texts:
            hint = f"give a folder, a file or one of {', '.join(NAMED)}"
            raise FileNotFoundError(f"{place}: no txt, jsonl or parquet file is there; {hint}")
        files += texts
    parts = {part: [file for file in files if _part(file) == part] for part in PARTS}
    rest = [file for file in files if _part(file) is None]
    if rest and any(parts.values()):
        raise ValueError(f"{rest[0]}: part unknown beside named ones; name it as train_2.txt, valid.txt or test.txt")
    return parts if not rest else {"train": rest, "val": [], "test": []}


def others(corpus: str, root: Path | None = None) -> list[Path]:
    """Files beside a corpus's own that are no text, by their names."""
    files = [file for place in _places(corpus, root) for file in _files(place)]
    return [file for file in files if not kind(file) and not file.name.startswith(".")]


def _places(corpus: str, root: Path | None) -> list[Path]:
    return [(root or data_root()) / "text" / name for name in NAMED.get(corpus, ())] or [Path(corpus)]


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())


def kind(path: Path) -> str | None:
    """The ending of KINDS that a file has before that of its packing, in either case; None for any other."""
    name = path.name.lower().removesuffix(packing(path))
    return next((ending for ending in KINDS if name.endswith(ending)), None)


def _part(path: Path) -> str | None:
    words = re.split(r"[._\d-]+", path.name.lower())
    return next((part for part, names in PARTS.items() if words[0] in names or words[1:2] and words[1] in names), None)


def documents(path: Path, left_out: Counter | None = None) -> Iterator[tuple[str, bool]]:
    """Text of a file piece by piece, each with whether it starts a document.

    A txt is one document, in pieces of at most 8M characters; a row of a jsonl or parquet file is one each. A byte
    order mark is no text. Half of a surrogate pair, which JSON can write and UTF-8 cannot, is read as U+FFFD.

    Args:
        path: the file.
        left_out: counts what is no document or was read as something else, in words.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names the file and line that cannot be read, and why.
    """
    left_out = Counter() if left_out is None else left_out
    if kind(path) == ".parquet":
        texts = _parquet(path, left_out)
    elif kind(path) == ".jsonl":
        texts = _jsonl(path, left_out)
    else:
        yield from _pieces(path, left_out)
        return
    for text in texts:
        if text:
            yield text, True
        else:
            left_out["rows whose text is null" if text is None else "rows whose text is empty"] += 1


def _decoded(path: Path) -> Iterator[str]:
    """The text of a file, some kilobytes at a time, without a byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    offset = 0  # bytes that the decoder has received
    line = 1
    for block, last in chain(((block, False) for block in blocks(path)), [(b"", True)]):
        offset += len(block)
        try:
            text = decoder.decode(block, last)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            at = Reading(path, "UTF-8", "convert it to UTF-8", f"line {line}")
            place = offset - len(error.object) + error.start  # `error.object` ends where the block does
            raise at.error(f"byte {place} is not UTF-8 ({error.reason})") from error
        line += text.count("\n")
        yield text


def _lines(texts: Iterator[str]) -> Iterator[str]:
    """Lines, without their ends; a line may be long."""
    pending: list[str] = []
    for text in texts:
        first, *others = text.split("\n")
        pending.append(first)
        if others:
            yield "".join(pending)
            yield from others[:-1]
            pending = [others[-1]]
    if last := "".join(pending):
        yield last


def _jsonl(path: Path, left_out: Counter) -> Iterator[str | None]:
    with reading(path, "JSON", "mend the line or drop it") as at:
        for number, line in enumerate(_lines(_decoded(path)), 1):
            if not line.strip():
                continue
            at.place = f"line {number}"
            try:
                text = _text(json.loads(line), at)
            except json.JSONDecodeError as error:
                raise at.error(f"not JSON ({error.msg} at character {error.pos + 1})") from error
            if text and "\\u" in line:  # only an escape can write half of a surrogate pair
                whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                left_out["halves of surrogates, read as U+FFFD"] += whole.count("\ufffd") - text.count("\ufffd")
                text = whole
            yield text


def _text(row: Any, at: Reading) -> str | None:
    """What a row says: a string, or the first of FIELDS that it has; None for null."""
    if isinstance(row, dict):
        field = next((name for name in FIELDS if name in row), None)
        if field is None:
            raise at.error(f"no field {', '.join(FIELDS)} among {', '.join(row)[:200] or 'none'}", "rename yours")
        row = row[field]
    if row is not None and not isinstance(row, str):
        kinds = {bool: "a truth value", list: "a list", dict: "an object"}
        raise at.error(f"the text is {kinds.get(type(row), 'a number')}", "write one string a row")
    return row


def _parquet(path: Path, left_out: Counter) -> Iterator[str | None]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    with reading(path, "a parquet file", "export it again") as at, ParquetFile(path) as file:
        names = file.schema_arrow.names
        field = next((name for name in FIELDS if name in names), None)
        if field is None:
            raise at.error(f"no column {', '.join(FIELDS)} among {', '.join(names)[:200]}", "rename yours")
        column = file.schema_arrow.field(field).type
        column = column.value_type if pyarrow.types.is_dictionary(column) else column
        if not (pyarrow.types.is_string(column) or pyarrow.types.is_large_string(column)):
            raise at.error(f"column {field} holds {column}, no text", "write one string a row")
        row = 0
        for batch in file.iter_batches(batch_size=256, columns=[field]):
            at.place = f"rows {row + 1} to {row + len(batch)}"
            row += len(batch)
            yield from batch.column(0).to_pylist()


def _pieces(path: Path, left_out: Counter) -> Iterator[tuple[str, bool]]:
    """A long text cut before a single space, where no byte-level tokenizer joins anything, or anywhere without one."""
    rest = ""
    first = True
    for block in _sized(_decoded(path), PIECE):
        text = rest + block
        if len(text) < PIECE:
            rest = text
            break
        end = max(len(text) - 100_000, 0)  # the search for the last such space begins here
        cut = (
            max((match.start() for match in re.finditer(r"(?<=\S) (?=\S)", text[end:])), default=len(text) - end) + end
        )
        yield text[:cut], first
        rest = text[cut:]
        first = False
    if rest:
        yield rest, first
    elif first:
        left_out["files without a character"] += 1


def _sized(texts: Iterator[str], size: int) -> Iterator[str]:
    """The same text in pieces of `size` characters, the last one shorter."""
    pending = []
    characters = 0
    for text in texts:
        pending.append(text)
        characters += len(text)
        while characters >= size:
            whole = "".join(pending)
            yield whole[:size]
            pending = [whole[size:]]
            characters -= size
    if characters:
        yield "".join(pending)
