"""Text to tokens: `python -m data_prep text --corpus books --tokenizer gpt2` writes a bin per part, and an index.

The text is cut into jobs of some megabytes. Each job's tokens are one file, which a process writes and renames when it
is whole, so that a command which was cut goes on with the jobs that are left. At the end the files become the bins.
"""

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tokenizers import Tokenizer

from app.orphans import end_with_parent
from app.reading import Unreadable, reading
from data_prep import corpora, public
from data_prep.files import data_root
from data_prep.index import VERSION, file_sha256, read_index, write_index
from data_prep.tokenizer import check_back, end_id, from_json, load, sha256, size

JOB = 4 << 20  # characters of a job
HELD_OUT = 0.1  # share of a corpus without a validation part that becomes one


@dataclass(frozen=True)
class Job:
    """A run of text pieces, each with whether it starts a document."""

    part: str
    number: int
    pieces: list[tuple[str, bool]]


def default_folder(corpus: str, tokenizer: str, root: Path | None = None) -> Path:
    """Where the tokens of a corpus lie: `text/tokens/CORPUS-TOKENIZER` in the data folder."""
    names = (Path(part).name.split(".")[0] if "/" in part else part for part in (corpus.rstrip("/"), tokenizer))
    return (root or data_root()) / "text" / "tokens" / "-".join(names)


def prepare(
    corpus: str,
    tokenizer: str,
    folder: Path | None = None,
    root: Path | None = None,
    workers: int | None = None,
    characters: int | None = None,
    end_token: str | None = None,
) -> Path:
    """Tokenize a corpus, going on where an earlier call was cut; returns the folder with bins and index.

    `PART.bin` holds the ids one after another, uint16 where the vocabulary allows it, else uint32, little-endian, an
    end-of-text token before every document. `index.json` tells, per part, tokens, documents, UTF-8 bytes, words and
    where documents start, and the tokenizer's checksum; `tokenizer.json` is the tokenizer. What was left out is said.

    A corpus with no validation part has 10 % held out: whole documents, or the end of a single one. One of
    `corpora.HALVED` deals its validation documents in turn to validation and test.

    Args:
        corpus: see `corpora.find`.
        tokenizer: see `tokenizer.load`.
        folder: where to write; by default `default_folder`.
        root: data folder.
        workers: processes; by default one per core.
        characters: how long the training part may be, after which its other documents are left out; None for all.
        end_token: see `tokenizer.load`.

    Raises:
        ValueError: the corpus holds no text, or a file cannot be read.
        FileNotFoundError: there is no such corpus or tokenizer.
    """
    for name in (corpus, tokenizer):
        public.fetch(name, root)
    files = corpora.find(corpus, root)
    folder = folder or default_folder(corpus, tokenizer, root)
    made_from: dict[str, Any] = {"version": VERSION, "corpus": corpus, "tokenizer": tokenizer, "end_token": end_token}
    if characters is not None:
        made_from["characters"] = characters
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # torchrun starts all devices at once, and each asks for the corpus
        there = _made_from(folder)
        known = there.pop("files", {})
        if there == made_from and _unchanged(known, files):
            return folder
        made_from["files"] = {part: [_known(path) for path in paths] for part, paths in files.items()}
        _write(tokenizer, files, folder, root, workers, made_from)
    return folder


def outdated(made_from: dict, corpus: str, root: Path | None = None) -> bool:
    """Whether a corpus has changed since tokens were made from it; False where only the tokens are there."""
    try:
        return not _unchanged(made_from["files"], corpora.find(corpus, root))
    except OSError:
        return False


def _made_from(folder: Path) -> dict:
    """What the tokens in a folder were made from; empty where there are none, or they must be made anew."""
    try:
        return read_index(folder)["made_from"]
    except (FileNotFoundError, Unreadable):
        return {}


def _known(path: Path) -> list[str | int]:
    """What a file is known by: name, bytes, time of its last change in nanoseconds, SHA-256."""
    return [str(path), path.stat().st_size, path.stat().st_mtime_ns, file_sha256(path)]


def _unchanged(there: dict[str, list[list]], files: dict[str, list[Path]]) -> bool:
    """Whether files hold what they held when an index was made: their sizes and times say so, or else a checksum."""
    if {part: len(known) for part, known in there.items()} != {part: len(paths) for part, paths in files.items()}:
        return False
    both = [(known, path) for part in files for known, path in zip(there[part], files[part], strict=True)]
    if any(size != path.stat().st_size for (_, size, *_), path in both):
        return False
    touched = [(checksum, path) for (*_, changed, checksum), path in both if changed != path.stat().st_mtime_ns]
    return all(checksum == file_sha256(path) for checksum, path in touched)


def _write(
    tokenizer: str, files: dict[str, list[Path]], folder: Path, root: Path | None, workers: int | None, made_from: dict
) -> None:
    """Bins, tokenizer and index of one corpus."""
    corpus = made_from["corpus"]
    codec = _tokenizer(tokenizer, files["train"], folder, root, made_from)
    work = folder / "parts"
    state = json.dumps(made_from)
    if not (work / "made_from.json").is_file() or (work / "made_from.json").read_text() != state:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        (work / "made_from.json").write_text(state)
    dtype = np.dtype(np.uint16 if size(codec) <= 1 << 16 else np.uint32)
    wikitext = corpus in ("wikitext-2", "wikitext-103")  # whose published word counts have an <eos> for every line
    left_out: Counter[str] = Counter()
    pieces = _dealt(files, corpus in corpora.HALVED, made_from.get("characters"), left_out)
    workers = workers or os.cpu_count() or 1
    jobs = _tokenize(_jobs(pieces), folder / "tokenizer.json", work, dtype, workers, wikitext)
    if not any(jobs.values()):
        raise ValueError(f"{corpus}: the corpus is empty, not one character in {sum(map(len, files.values()))} file(s)")
    parts = {part: _join(work, part, jobs[part], folder, dtype) for part in jobs if jobs[part]}
    index = {
        "made_from": made_from,
        "tokenizer": {
            "name": tokenizer,
            "sha256": sha256(codec),
            "vocabulary": size(codec),
            "end": end_id(codec),
        },
        "dtype": dtype.name,
        "parts": parts,
        "left_out": dict(+left_out),
    }
    _say(corpus, left_out, [path for path in corpora.others(corpus, root) if folder not in path.parents])
    write_index(folder, index)
    shutil.rmtree(work)


def _say(corpus: str, left_out: Counter[str], others: list[Path]) -> None:
    """Tell what of a corpus is not in its tokens, if anything."""
    parts = [f"{count:,} {what}" for what, count in (+left_out).items()]
    if others:
        named = ", ".join(path.name for path in others[:3]) + (", ..." if len(others) > 3 else "")
        parts.append(f"{len(others):,} {'file' if len(others) == 1 else 'files'} of other kinds ({named})")
    if parts:
        print(f"{corpus}: left out: {'; '.join(parts)}", file=sys.stderr)


def _tokenizer(name: str, files: list[Path], folder: Path, root: Path | None, made_from: dict) -> Tokenizer:
    """The tokenizer, written beside the bins; a BPE that an earlier call trained on the same files is read back."""
    path = folder / "tokenizer.json"
    origin = folder / "tokenizer.made_from"
    stamp = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    if path.is_file() and origin.is_file() and origin.read_text() == stamp:
        with reading(path, "a tokenizer", f"delete {folder} and prepare the corpus again"):
            return from_json(path.read_text(encoding="utf-8"))
    codec = load(name, (text for file in files for text, _ in corpora.documents(file)), root, made_from["end_token"])
    path.write_text(codec.to_str(), encoding="utf-8")
    origin.write_text(stamp)
    return codec


def _jobs(pieces: Iterable[tuple[str, str, bool]]) -> Iterator[Job]:
    """The text of every part in jobs of at least JOB characters (the last of a part may be smaller)."""
    waiting: dict[str, list[tuple[str, bool]]] = {part: [] for part in corpora.PARTS}
    characters = dict.fromkeys(corpora.PARTS, 0)
    numbers = dict.fromkeys(corpora.PARTS, 0)

    def job(part: str) -> Job:
        numbers[part] += 1
        pieces = waiting[part]
        waiting[part] = []
        characters[part] = 0
        return Job(part, numbers[part] - 1, pieces)

    for part, text, first in pieces:
        if text:
            waiting[part].append((text, first))
        characters[part] += len(text)
        if characters[part] >= JOB:
            yield job(part)
    yield from (job(part) for part in corpora.PARTS if waiting[part])


def _dealt(
    files: dict[str, list[Path]], halved: bool, characters: int | None, left_out: Counter[str]
) -> Iterator[tuple[str, str, bool]]:
    """Part, text and whether it starts a document, of every piece."""
    for part, paths in files.items():
        stream = ((text, first) for path in paths for text, first in corpora.documents(path, left_out))
        if part == "train" and characters is not None:
            stream = _first_documents(stream, characters)
        if part == "train" and not files["val"]:
            yield from _held_out(stream)
        elif part == "val" and halved:
            yield from _halved(stream)
        else:
            yield from ((part, text, first) for text, first in stream)


def _first_documents(stream: Iterator[tuple[str, bool]], characters: int) -> Iterator[tuple[str, bool]]:
    """Whole documents, until those before amount to so many characters."""
    read = 0
    for text, first in stream:
        if first and read >= characters:
            return
        yield text, first
        read += len(text)


def _halved(stream: Iterator[tuple[str, bool]]) -> Iterator[tuple[str, str, bool]]:
    """Every other document for the test."""
    number = -1
    for text, first in stream:
        number += first
        yield "test" if number % 2 else "val", text, first


def _held_out(stream: Iterator[tuple[str, bool]]) -> Iterator[tuple[str, str, bool]]:
    """Every tenth document for validation; every tenth piece of a few long ones; the last tenth of a short corpus."""
    head = []
    every = round(1 / HELD_OUT)
    while sum(first for _, first in head) < every and len(head) < 2 * every and (piece := next(stream, None)):
        head.append(piece)
    by_document = sum(first for _, first in head) >= every
    if not by_document and len(head) < 2 * every:  # that was all
        left = int((1 - HELD_OUT) * sum(len(text) for text, _ in head))
        for text, first in head:
            yield "train", text[:left], first
            yield "val", text[left:], True
            left = max(left - len(text), 0)
        return
    number = -1
    before = ""
    for text, first in chain(head, stream):
        number += first or not by_document
        part = "val" if number % every == every - 1 else "train"
        yield part, text, first or part != before
        before = part


_codec: Tokenizer | None = None  # what a worker process tokenizes with


def _start_worker(path: str) -> None:
    global _codec
    end_with_parent()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process per core is parallel enough
    _codec = from_json(Path(path).read_text(encoding="utf-8"))


def _encode(job: Job, path: Path, dtype: str, words_per_line: bool) -> None:
    """Tokenize one job into `path` (npz: ids, lengths of pieces with end tokens, firsts, bytes, words)."""
    tokenizer = _codec
    assert tokenizer is not None, "a worker starts with `_start_worker`"
    end = end_id(tokenizer)
    texts = [text for text, _ in job.pieces]
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    check_back(tokenizer, texts, [e.ids for e in encoded])
    ids = [[end, *e.ids] if first else e.ids for e, (_, first) in zip(encoded, job.pieces, strict=True)]
    words = sum(len(text.split()) + (text.count("\n") if words_per_line else 0) for text, _ in job.pieces)
    with path.with_suffix(".part").open("wb") as file:
        np.savez(
            file,
            ids=np.fromiter(chain.from_iterable(ids), dtype, sum(map(len, ids))),
            lengths=np.array([len(i) for i in ids]),
            firsts=np.array([first for _, first in job.pieces]),
            bytes=sum(len(text.encode()) for text, _ in job.pieces),
            words=words,
        )
    path.with_suffix(".part").replace(path)


def _tokenize(
    jobs: Iterator[Job], tokenizer: Path, work: Path, dtype: np.dtype, workers: int, words_per_line: bool
) -> dict[str, int]:
    """Run the jobs that have no file yet; returns how many jobs each part has."""
    counts = dict.fromkeys(corpora.PARTS, 0)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("MB,"))
    context = get_context("spawn")  # the library's threads do not survive a fork
    with (
        Progress(*columns, TimeElapsedColumn()) as progress,
        ProcessPoolExecutor(workers, context, _start_worker, (str(tokenizer),)) as pool,
    ):
        bar = progress.add_task("tokenizing", total=None)
        running: set[Future] = set()
        for job in jobs:
            counts[job.part] += 1
            path = work / f"{job.part}-{job.number:06}.npz"
            if not path.is_file():
                running.add(pool.submit(_encode, job, path, dtype.name, words_per_line))
            progress.update(bar, advance=sum(len(text) for text, _ in job.pieces) // 10**6)
            if len(running) > 2 * workers:  # so that the text read ahead is bounded
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        for future in running:
            future.result()
    return counts


def _join(work: Path, part: str, jobs: int, folder: Path, dtype: np.dtype) -> dict[str, object]:
    """Write PART.bin from its jobs' files; returns the part's entry in the index."""
    starts = []
    tokens = 0
    characters = 0
    words = 0
    path = folder / f"{part}.bin"
    with path.with_suffix(".bin.part").open("wb") as file:
        for number in range(jobs):
            source = work / f"{part}-{number:06}.npz"
            with reading(source, "a job's tokens", "delete it and run the command again"), np.load(source) as job:
                job["ids"].astype(dtype.newbyteorder("<"), copy=False).tofile(file)
                offsets = tokens + job["lengths"].cumsum() - job["lengths"]
                starts += offsets[job["firsts"]].tolist()
                tokens += int(job["lengths"].sum())
                characters += int(job["bytes"])
                words += int(job["words"])
    path.with_suffix(".bin.part").replace(path)
    counts = {"tokens": tokens, "documents": len(starts), "bytes": characters, "words": words, "starts": starts}
    return {**counts, "sha256": file_sha256(path)}
