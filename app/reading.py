"""A file from outside is looked at once, whole: whatever a decoder makes of it ends as one line.

Decoders of other people raise what they like (pyarrow alone OSError, KeyError, TypeError and its own), so no list of
exception classes is ever complete. What is read is caught around the decoder, in one place per format.

This file needs nothing but Python, so that workers that only read text start fast.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LONGEST = 300  # characters of a decoder's own words


class Unreadable(ValueError):
    """A file from outside is not what it should be; the message names the file, the place and the cure."""

    for_user = True  # one line wherever it is raised: see app.errors.is_for_user


@dataclass
class Reading:
    """Where the reader of a file stands.

    Args:
        path: the file, or what an error shall call it.
        kind: what it should be, with its article: `a csv`, `a FASTQ file`.
        cure: what to do about a damaged one.
        place: where the reader is, `line 7`; kept up to date by the reader, where it knows.
    """

    path: Path | str
    kind: str
    cure: str
    place: str = ""

    def error(self, why: str, cure: str | None = None) -> Unreadable:
        """What the reader itself finds wrong at this place, to be raised."""
        return Unreadable(f"{' '.join(filter(None, (str(self.path), self.place)))}: {why}; {cure or self.cure}")


@contextmanager
def reading(path: Path | str, kind: str, cure: str = "copy or export it again") -> Iterator[Reading]:
    """Turn whatever is raised inside into one line that names the file, the place and the cure.

    ::

        with reading(path, "a FASTQ file") as at:
            for number, record in enumerate(decoder(path), 1):
                at.place = f"record {number}"
                if not record.letters:
                    raise at.error("no letters", "drop the record")

    Args:
        path: the file, or what an error shall call it.
        kind: what it should be, with its article: `a csv`, `a FASTQ file`.
        cure: what to do about a damaged one.

    Yields:
        The place, which the reader keeps up to date, and `error`, which makes the reader's own complaints.

    Raises:
        Unreadable: something inside raised; a ValueError.
        FileNotFoundError: there is no such file; a kind of its own, since something else can take its place.
    """
    at = Reading(path, kind, cure)
    try:
        yield at
    except BaseException as error:
        # of what is no Exception only a panic of a decoder written in Rust is the file's fault
        panic = type(error).__name__ == "PanicException"
        if getattr(error, "for_user", False) or not (panic or isinstance(error, Exception)):
            raise
        if isinstance(error, FileNotFoundError):
            named = f"{error.filename}: there is no such file; check the path" if error.filename else str(error)
            missing = FileNotFoundError(named)
            vars(missing)["for_user"] = True
            raise missing from error
        if isinstance(error, OSError) and error.errno and error.strerror:  # the system's words, not a decoder's
            raise at.error(error.strerror.lower(), "check the path and its permissions") from error
        raise at.error(f"not {kind} that can be read ({_words(error)})") from error


def _words(error: BaseException) -> str:
    """What an error says, in one line."""
    text = " ".join(str(error).split())[:LONGEST]
    if isinstance(error, LookupError | TypeError | AttributeError) or not text:  # whose text alone says nothing
        return f"{type(error).__name__} {text}".strip()
    return text
