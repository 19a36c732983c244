"""The commit that a result names."""

import subprocess
from pathlib import Path

import pytest

from app import versions


def test_rows_of_results_leave_a_commit_clean_and_code_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    assert versions.git_commit() is None
    for name in ("code.py", "results/rows.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\n")
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@b commit -qm first"):
        subprocess.run(["git", "-C", str(tmp_path), *command.split()], check=True)
    commit = versions.git_commit()
    assert commit is not None and len(commit) == 40
    (tmp_path / "results/rows.json").write_text("2\n")
    (tmp_path / "new.txt").write_text("not known to git\n")
    assert versions.git_commit() == commit
    (tmp_path / "code.py").write_text("2\n")
    assert versions.git_commit() == f"{commit}-dirty"
