"""What a decoder raises at a file from outside, and what a user reads of it."""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from app.errors import UserError, is_for_user
from app.reading import Unreadable, reading


class PanicException(BaseException):
    """Named as that which PyO3 raises where Rust code panics."""


def deep() -> None:
    json.loads("[" * 100_000)


def struct_short() -> None:
    struct.unpack("<f", b"1")


def no_parquet() -> None:
    parquet.read_table(pyarrow.BufferReader(b"PAR1" * 9))


def raises(error: BaseException) -> Callable[[], None]:
    def decode() -> None:
        raise error

    return decode


FOREIGN = {
    "key": (raises(KeyError("x")), "KeyError 'x'"),
    "type": (raises(TypeError("unhashable\n  list")), "TypeError unhashable list"),
    "memory": (raises(MemoryError()), "MemoryError"),
    "panic": (raises(PanicException("index out of\nbounds")), "index out of bounds"),
    "zlib": (lambda: zlib.decompress(b"no"), "incorrect header"),
    "recursion": (deep, "recursion"),
    "struct": (struct_short, "4 bytes"),
    "parquet": (no_parquet, "arquet"),
    "utf-8": (lambda: b"\xff".decode(), "invalid start byte"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_whatever_a_decoder_raises_is_one_line_with_file_place_and_cure(case: str) -> None:
    decode, said = FOREIGN[case]
    with pytest.raises(Unreadable) as caught, reading("a/b.x", "an X file", "export it again") as at:
        at.place = "record 7"
        decode()
    message = str(caught.value)
    assert message.startswith("a/b.x record 7: not an X file that can be read (") and said in message
    assert message.endswith("; export it again") and "\n" not in message
    assert is_for_user(caught.value) and isinstance(caught.value, ValueError)


def test_what_is_one_line_already_stays_as_it_is() -> None:
    with pytest.raises(UserError, match="^mine$"), reading("b", "a B file"):
        raise UserError("mine")
    with (
        pytest.raises(Unreadable, match="^a line 3: no letters; fill it$"),
        reading("b", "a B file"),
        reading("a", "an A file", "fill it") as at,
    ):
        at.place = "line 3"
        raise at.error("no letters")


def test_the_systems_own_words_are_about_the_path(tmp_path: Path) -> None:
    named = f"^{tmp_path}/none.x: there is no such file; check the path$"
    with pytest.raises(FileNotFoundError, match=named) as missing, reading("b", "a B file"):
        (tmp_path / "none.x").read_text()
    assert is_for_user(missing.value)
    with pytest.raises(FileNotFoundError, match="^no vocab.bpe beside it$"), reading("b", "a B file"):
        raise FileNotFoundError("no vocab.bpe beside it")
    with pytest.raises(Unreadable, match=f"^{tmp_path}: is a directory; check the path"), reading(tmp_path, "a file"):
        tmp_path.read_text()


def test_what_is_no_files_fault_passes() -> None:
    with pytest.raises(KeyboardInterrupt), reading("b", "a B file"):
        raise KeyboardInterrupt

    def lines():
        with reading("b", "a B file"):
            yield 1
            yield 2

    stopped = lines()
    next(stopped)
    stopped.close()  # a reader that is not read to its end
