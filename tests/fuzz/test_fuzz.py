"""Some damaged files of every format; `python -m tests.fuzz` reads thousands."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz import checkpoints, doors, genomics, text, timeseries
from tests.fuzz.run import BAD, Format, outcome

EXAMPLES = 40
FORMATS = (*timeseries.FORMATS, *genomics.FORMATS, *text.FORMATS, *checkpoints.FORMATS, *doors.FORMATS)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_damaged_file_is_refused_in_one_line_or_read_as_it_says(form: Format, tmp_path: Path) -> None:
    @settings(max_examples=max(int(EXAMPLES * form.share**3), 1), suppress_health_check=list(HealthCheck))
    @given(form.damaged)
    def read(data: bytes) -> None:
        what, kind, said = outcome(form, data, tmp_path)
        assert what not in BAD, f"{what}, {kind}: {said}"

    read()


@pytest.mark.parametrize("kind", BAD[:3])
def test_what_may_not_come_of_a_file_is_told_apart(kind: str, tmp_path: Path) -> None:
    def read(path: Path) -> str:
        if kind == "traceback":
            raise KeyError("a bug")
        if kind == "unnamed":
            raise ValueError("no number")
        return path.read_text().replace("1", "7")

    form = Format("x", "x.txt", None, read, lambda data: [data.decode()])
    assert outcome(form, b"a 1", tmp_path)[0] == kind
    good = Format("x", "x.txt", None, Path.read_text, lambda data: [data.decode()])
    assert outcome(good, b"a 1", tmp_path)[0] == "right"
