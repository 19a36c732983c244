"""Text files whose lines can be looked at while they are written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from app.files import settle, unwritable


@contextmanager
def growing(path: Path) -> Iterator[IO[str]]:
    """A text file that takes its place once it is whole; until then its lines lie in `NAME.part` beside it."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w") as file:
            yield file
        settle(part, path)
    except OSError as error:
        raise unwritable(path, error) from error
