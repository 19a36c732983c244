"""The corpus of code is made of installed packages."""

import json
import re
from pathlib import Path

import pytest

from data_prep import source_code


def test_code_is_made_of_installed_packages(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_code, "DOCUMENT", (400, 1000))
    packages = {"train": ("known",), "valid": ("held",), "test": ("other",)}

    def module(path: str, letter: str, size: int = 300) -> None:
        file = root / "site" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{letter} = 1\n" * (size // 6))

    for name in "abcdef":
        module(f"known/{name}.py", name)
    module("known/small/g.py", "g")  # alone in its folder, which is too small for a document
    module("known/_vendor/h.py", "h", 900)  # code of another project
    module("held/a.py", "a", 300)  # a copy of a training file
    module("held/i.py", "i", 900)
    module("other/j.py", "j", 100)  # too short to be taken
    with pytest.raises(FileNotFoundError, match=r"other2 not installed"):
        source_code.write(root / "out", {**packages, "test": ("other2",)}, root / "site")
    source_code.write(root / "out", packages, root / "site")
    documents = {
        part: [
            re.findall(r"^# file: (.*)$", json.loads(line)["text"], re.MULTILINE)
            for line in (root / "out" / f"{part}.jsonl").read_text().splitlines()
        ]
        for part in packages
    }
    assert sorted(documents["train"]) == [[f"known/{name}.py" for name in names] for names in ("abcd", "ef")]
    assert documents["valid"] == [["held/i.py"]] and documents["test"] == []
