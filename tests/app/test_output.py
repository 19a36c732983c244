"""Standard output that takes no more, or few characters."""

import io
import os
import sys
from pathlib import Path

import pytest

from app.command import carry_out


@pytest.mark.parametrize("lines", [1, 9999])  # within what Python keeps back, and beyond
def test_a_reader_that_has_gone_ends_the_command_in_silence(
    lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit) as stop:
            carry_out(lambda: print("line\n" * lines))
        assert stop.value.code == 141 and not capsys.readouterr().err


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
