"""What the documents tell people to type exists."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from app.door import Call, action_of, respelled
from app.verbs import SHARED, registered

ROOT = Path(__file__).parent.parent
DOCUMENTS = [path for path in ROOT.rglob("*.md") if not {".venv", "runs", "data"} & set(path.relative_to(ROOT).parts)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_configs_and_links_exist(path: Path) -> None:
    text = path.read_text()
    for module in re.findall(r"python -m ([a-z_.]+[a-z_])", text):
        assert find_spec(module), f"{path.name} names python -m {module}"
    for config in re.findall(r"conf/[a-z_0-9]+\.yaml", text):
        assert (ROOT / config).is_file(), f"{path.name} names {config}"
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (path.parent / link).exists(), f"{path.name} links to {link}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_read_by_the_door(path: Path) -> None:
    text = path.read_text().replace("\\\n", " ")  # a backslash ends no command
    for line in re.findall(r"^python -m app [a-z].*", text, re.MULTILINE):
        name, *words = shlex.split(line, comments=True)[3:]
        domains = registered()
        shared = next((verb for verb in SHARED if verb.name == name), None)
        own = {domain.package: verb for domain in domains for verb in domain.verbs if verb.name == name}
        assert shared or own, f"{path.name} names the verb {name}"
        assert respelled(words, domains) == words, f"{path.name} has an old spelling: {line}"
        assert callable(action_of(Call(name, words, line), shared, own))


def test_the_readme_is_read_in_one_breath() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_python_snippets_run() -> None:
    for path in (ROOT / "README.md", ROOT / "memory" / "README.md"):
        for snippet in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL):
            exec(compile(snippet, str(path), "exec"), {})
