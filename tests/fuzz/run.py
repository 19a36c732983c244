"""Damaged files are read, and what came of each is counted."""

import codecs
import collections
import contextlib
import itertools
import re
import resource
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import app
from app.errors import is_for_user, user_errors

ROOT = Path(app.__file__).parents[1]
BAD = ("traceback", "unnamed", "silent", "slow")  # what must not come of any file
SLOW = 20.0  # seconds of this process
LONGEST = 2000  # characters of one line that a user reads


@dataclass(frozen=True)
class Format:
    """A kind of file, how it is damaged, how it is read, and what a careful reader would find in it.

    Args:
        name: of the format.
        file: its name on disk.
        damaged: contents of damaged files.
        read: what our reader makes of a file, in a form that can be compared.
        right: what the contents say, found without our reader; an exception where they say nothing. Several answers,
            a list, where more than one is right.
        named: parts of an error's message of which one must stand in it; by default the file's name.
        share: of the files that a format of cheap ones gets.
    """

    name: str
    file: str
    damaged: st.SearchStrategy[bytes]
    read: Callable[[Path], Any]
    right: Callable[[bytes], list[Any]]
    named: tuple[str, ...] = ()
    share: float = 1.0


@dataclass
class Found:
    """What came of the files of a format.

    Args:
        counts: files by outcome: `refused` in one line, `right`, and those of BAD.
        smallest: for each kind of bad outcome, the smallest file and what was said about it.
    """

    counts: collections.Counter = field(default_factory=collections.Counter)
    smallest: dict[str, tuple[bytes, str]] = field(default_factory=dict)


def outcome(form: Format, data: bytes, folder: Path) -> tuple[str, str, str]:
    """What came of a file, of which kind it is, and what was said."""
    path = folder / form.file
    path.write_bytes(data)
    begin = time.process_time()
    try:
        with warnings.catch_warnings(), user_errors():
            warnings.simplefilter("ignore")
            values = form.read(path)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = _where(error)
        said = f"{type(error).__name__}: {error}"
        if not is_for_user(error):
            return "traceback", f"{type(error).__name__} at {where}", said
        text = str(error)
        if not any(part in text for part in form.named or (form.file,)) or len(text) > LONGEST:
            return "unnamed", f"{type(error).__name__} at {where}", said
        return "refused", where, said
    if time.process_time() - begin > SLOW:
        return "slow", "slow", f"{time.process_time() - begin:.0f} s"
    try:
        answers = form.right(data)
    except Exception as error:
        why = re.sub(r"[^a-z ]+|0x..", "", str(error))[:40]
        return "silent", f"accepted, but {type(error).__name__} {why}", f"{error!r:.200}: read as {values!r:.300}"
    if any(same(values, answer) for answer in answers):
        return "right", "", ""
    return "silent", "other values", difference(values, answers[0])


def names(line: str, words: Iterable[str]) -> bool:
    """Whether a line holds one of some words, and not merely their letters within another word."""
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", line) for word in words if word)


class OneOf(list):
    """Several values of which each would be right."""


def same(a: Any, b: Any) -> bool:
    """Whether a tree is the right one, NaN with NaN."""
    if isinstance(b, OneOf):
        return any(same(a, choice) for choice in b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a != a and b != b)


def readings(data: bytes) -> list[str]:
    """What a text file may say: UTF-8 or UTF-16 where it is, else its odd bytes as Latin-1 has them, or as themselves.

    A reader that takes bytes for Latin-1 says so; one that makes them all the same character has changed the text.
    """
    whole = len(data) // 2 * 2  # a last byte without its second half is Latin-1, and said to be
    marked = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    found = [data[:whole].decode("utf-16") + data[whole:].decode("latin-1")] if marked else []
    data = data.removeprefix(codecs.BOM_UTF8)
    escaped = data.decode("utf-8", "surrogateescape")
    mixed = "".join(chr(ord(c) - 0xDC00) if "\udc80" <= c <= "\udcff" else c for c in escaped)
    found += [escaped, mixed, data.decode("latin-1")]
    with contextlib.suppress(UnicodeDecodeError):  # of which it is most often said, though it has more letters
        found.append(data.decode("cp1252"))
    if b"\0" in data:  # UTF-16 without its mark
        found.append(data.replace(b"\0", b"").decode("latin-1"))
    return list(dict.fromkeys(text.replace("\r\n", "\n").replace("\r", "\n") for text in found))


def any_of(right: Callable[..., list[Any]], *choices: Sequence[Any]) -> list[Any]:
    """All answers of `right` for any combination of choices; where it has none, the first one's exception."""
    answers, failure = [], None
    for chosen in itertools.product(*choices):
        try:
            answers += right(*chosen)
        except Exception as error:
            failure = failure or error
    if failure and not answers:
        raise failure
    return answers


def difference(a: Any, b: Any, place: str = "") -> str:
    """Where two trees differ first, and how."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return next(difference(a[key], b[key], f"{place}[{key!r}]") for key in a if not same(a[key], b[key]))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        at = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if not same(x, y))
        return difference(a[at], b[at], f"{place}[{at}]")
    return f"at {place or 'the top'}: {a!r:.200} where {b!r:.200} is right"


def _where(error: BaseException) -> str:
    """The last line of our own code that an error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(str(ROOT)) and "/tests/" not in frame.filename]
    return f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].lineno}" if ours else "no line of ours"


def bounded(gigabytes: int = 4) -> None:
    """Let this process ask for no more memory than it has, and some: a file must not take the machine's."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + (gigabytes << 30), resource.RLIM_INFINITY))


def fuzz(form: Format, examples: int, number: int, folder: Path) -> Found:
    """Read `examples` damaged files; the same for the same seed `number`."""
    found = Found()

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(form.damaged)
    def one(data: bytes) -> None:
        what, kind, said = outcome(form, data, folder)
        found.counts[what] += 1
        if what in BAD:
            key = f"{what}: {kind}"
            if key not in found.smallest or len(data) < len(found.smallest[key][0]):
                found.smallest[key] = data, said

    one()
    return found
