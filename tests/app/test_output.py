"""Standard output that takes no more, or few characters."""

import io
import os
import sys
from pathlib import Path

import pytest

from app.command import carry_out
from app.door import main


@pytest.fixture
def unread() -> int:
    """Where what is written is read by nobody: a pipe whose other end is closed; a test closes it."""
    ours, theirs = os.pipe()
    os.close(ours)
    return theirs


@pytest.mark.parametrize("lines", [1, 9999])  # within what Python keeps back, and beyond
def test_a_reader_that_has_gone_ends_the_command_in_silence(
    lines: int, unread: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with open(unread, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit) as stop:
            carry_out(lambda: print("line\n" * lines))
        assert stop.value.code == 141 and not capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"]], ids=" ".join)
@pytest.mark.parametrize("kept_back", [True, False])  # not so where PYTHONUNBUFFERED is set
def test_a_page_of_help_may_be_cut_short(
    words: list[str], kept_back: bool, unread: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    for place, code in ((unread, 141), (full, 2)):
        with open(place, "wb", buffering=0) as raw, monkeypatch.context() as patched:
            under = io.BufferedWriter(raw) if kept_back else raw
            patched.setattr(sys, "stdout", io.TextIOWrapper(under, write_through=not kept_back))
            with pytest.raises(SystemExit) as stop:
                main(words)
            assert stop.value.code == code
            sys.stdout.detach()
    assert capsys.readouterr().err.startswith("\nerror: standard output takes no more")


@pytest.mark.parametrize(("code", "ended"), [(0, 141), (None, 141), (143, 143)])
def test_a_command_that_ends_by_itself_ends_so_where_its_reader_has_gone(
    code: int | None, ended: int, unread: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with open(unread, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit) as stop:
            carry_out(lambda: (print("seed_everything: 0"), sys.exit(code)))
        assert stop.value.code == ended and not capsys.readouterr().err


def test_a_full_disk_behind_standard_output_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with open("/dev/full", "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit) as stop:
            carry_out(lambda: print("line", flush=True))
        with pytest.raises(FileNotFoundError):  # of another file
            carry_out(Path("none").read_text)
    assert stop.value.code == 2
    assert (
        capsys.readouterr().err
        == "\nerror: standard output takes no more (No space left on device); write it elsewhere\n"
    )


def test_a_terminal_of_few_characters_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    carry_out(lambda: print("\xe9\u20ac"))
    assert shown.getvalue() == b"\\xe9\\u20ac\n"
