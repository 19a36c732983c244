"""`make lint` counts a type checker's complaints: none may come, and one that goes is said."""

import pytest

from tests import typecheck


def test_a_folder_with_more_complaints_is_named_and_one_with_fewer_is_told() -> None:
    more, fewer = typecheck.verdict({"app": 1, "domains": 6, "memory": 2}, {"domains": 9, "memory": 2, "tests": 4})
    assert more == ["app: 1 complaints, 0 at most"]
    assert fewer == ["domains: 6 complaints, write 6 for 9", "tests: 0 complaints, write 0 for 4"]


def test_a_complaint_too_many_ends_the_check_and_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    error = {"path": "app/cli.py", "line": 7, "concise_description": "`None` has no `x`", "name": "missing-attribute"}
    monkeypatch.setattr(typecheck, "complaints", lambda: [error] * 1000)
    with pytest.raises(SystemExit, match="app: 1000 complaints"):
        typecheck.main()
    assert "app/cli.py:7: `None` has no `x` [missing-attribute]" in capsys.readouterr().out
