"""What the documents tell people to type exists."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from app.door import Call, action_of, main, old_spellings, read, respelled
from app.help import page
from app.verbs import SHARED, registered

ROOT = Path(__file__).parent.parent
ELSEWHERE = {".venv", "runs", "data", "site"}
DOCUMENTS = [path for path in ROOT.rglob("*.md") if not ELSEWHERE & set(path.relative_to(ROOT).parts)]


def commands(path: Path, program: str) -> list[str]:
    """What a document has people type after `python -m PROGRAM`, in blocks and within lines.

    Pages of results and the log record what was typed once.
    """
    if path.relative_to(ROOT).parts[0] == "results" or path.name == "log.md":
        return []
    text = path.read_text().replace("\\\n", " ")  # a backslash ends no command
    return re.findall(rf"(?:^|`)python -m {program}([. ][a-z][^`\n]*)", text, re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_configs_and_links_exist(path: Path) -> None:
    text = path.read_text()
    for module in re.findall(r"python -m ([a-z_.]+[a-z_])", text):
        assert find_spec(module), f"{path.name} names python -m {module}"
    for config in re.findall(r"conf/[a-z_0-9]+\.yaml", text):
        made = f'title="{config}"' in text  # by the reader, who follows a tutorial
        assert made or (ROOT / config).is_file(), f"{path.name} names {config}"
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (path.parent / link).exists(), f"{path.name} links to {link}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_read_by_the_door(path: Path) -> None:
    text = path.read_text().replace("\\\n", " ")
    for line in commands(path, "app"):
        name, *words = shlex.split(line, comments=True)
        domains = registered()
        shared = next((verb for verb in SHARED if verb.name == name), None)
        own = {domain.package: verb for domain in domains for verb in domain.verbs if verb.name == name}
        assert shared or own, f"{path.name} names the verb {name}"
        assert respelled(words, old_spellings(domains)) == words, f"{path.name} has an old spelling: {line}"
        if f"`python -m app{line}`" not in text:
            assert callable(action_of(Call(name, words, line), shared, own))
        else:  # named within a line, perhaps without what it needs
            options = {word.partition("=")[0] for word in words if word.startswith("--") and "." not in word}
            known = page(shared, own) + "--config --print_config"
            assert not [option for option in options if option not in known], f"{path.name}: {line}"


def test_every_key_of_every_command_is_one_that_its_configs_take(capsys: pytest.CaptureFixture) -> None:
    """The keys that all documents give with the same configs are read together, as reading them takes half a second."""
    verbs = {verb.name: verb for verb in (*SHARED, *(v for domain in registered() for v in domain.verbs if v.keys))}
    asked: dict[tuple[str, ...], dict[str, str]] = {}
    for line in (line for path in DOCUMENTS for line in commands(path, "app")):
        name, *words = shlex.split(line, comments=True)
        if name not in verbs or "--config" not in words:
            continue
        keys = iter(read(verbs[name], Call(name, [word.replace("[...]", "") for word in words], line)).keys)
        given = [(key, next(keys)) for key in keys if key.startswith("--") and "..." not in key]
        configs = tuple(value for key, value in given if key == "--config")
        if all((ROOT / config).is_file() for config in configs):
            asked.setdefault(configs, {}).update({key: value for key, value in given if key != "--config"})
    assert len(asked) >= 6 and sum(map(len, asked.values())) >= 15
    for configs, keys in asked.items():
        named = [f"--config={ROOT / config}" for config in configs]
        with pytest.raises(SystemExit) as stop:
            main(["fit", *named, *(f"{key}={value}" for key, value in keys.items()), "--print_config"])
        assert stop.value.code == 0, f"{configs} {keys}: {capsys.readouterr().err}"


@pytest.mark.parametrize("program", ["benchmarks", "data_prep"])
def test_options_of_other_commands_are_there(program: str) -> None:
    code = "\n".join(path.read_text() for path in (ROOT / program).rglob("*.py"))
    lines = [line for path in DOCUMENTS for line in commands(path, program)]
    options = {word.partition("=")[0] for line in lines for word in line.split() if word.startswith("--")}
    assert len(options) >= 3 and not [option for option in options if f'"{option}"' not in code]


def test_a_small_run_leaves_published_rows_alone() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    small = dict(re.findall(r"^\|[^|]*\| `python -m benchmarks\.(\w+)[^|]*\| `(-[^`]*)`", text, re.MULTILINE))
    assert len(small) >= 18
    named = {command for command, options in small.items() if "--name small" in options}
    assert small.keys() - named == {"faults"}  # which keeps no rows


def test_the_readme_is_read_in_one_breath() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_python_snippets_run() -> None:
    for path in (ROOT / "README.md", ROOT / "memory" / "README.md"):
        for snippet in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL):
            exec(compile(snippet, str(path), "exec"), {})
