"""Values of heads and data that cannot be: the command's one line names the key and what it may be."""

import pytest

from app.door import main
from benchmarks.shared.runs import CONF

CASES = {
    "timeseries_ett": [
        ("data.horizon=0", "data.horizon is 0; it must be from 1 to 1048576"),
        ("data.batch_size=0", "data.batch_size is 0; it must be at least 1"),
        ("model.head.dropout=3", "model.head.dropout is 3.0; it must be from 0 to 1"),
    ],
    "text_lm": [
        ("data.length=0", "data.length, batch_size, tbptt, tbptt_groups and eval_length must be at least 1"),
        ("model.head.dropout=-1", "model.head.dropout is -1.0; it must be from 0 to 1"),
    ],
    "genomics_sample": [
        ("model.head.dropout=3", "model.head.dropout is 3.0; it must be from 0 to 1"),
        ("model.head.bins=0", "model.head.bins is 0; it must be at least 1"),
        ("model.head.hide=2", "model.head.hide is 2.0; it must be from 0 to 1"),
        ("model.head.focal=-1", "model.head.focal is -1.0; it must be at least 0"),
        (
            "model.head.conv_width=-3",
            "head.stride must be at least 1, head.conv_layers at least 0, head.conv_width odd",
        ),
    ],
    "genomics_planted": [("data.distance=33", "data.distance is 33; give a power of two of at least 16")],
}


@pytest.mark.parametrize(("name", "option", "says"), [(name, *case) for name in CASES for case in CASES[name]])
def test_a_value_that_cannot_be_is_one_line(
    name: str, option: str, says: str, capsys: pytest.CaptureFixture, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(CONF / f"{name}.yaml"), f"--{option}"])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"error: {says}")
