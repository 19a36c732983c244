"""The site: its reference is complete, it quotes what the code says, and it builds without a warning."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from docs import reference, site, tables

ROOT = Path(__file__).parents[2]
CODE = "\n".join(
    path.read_text() for folder in ("app", "domains", "memory", "data_prep") for path in (ROOT / folder).rglob("*.py")
)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference.pages()


def test_every_key_of_every_class_is_explained(pages: dict[str, str]) -> None:
    rows = [line for text in pages.values() for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert not [row for row in rows if len(re.split(r"(?<!\\)\|", row)[4].strip()) < 5]


def test_the_reference_has_what_configurations_set(pages: dict[str, str]) -> None:
    assert {f"reference/{name}.md" for name in ("shared", "timeseries", "genomics", "text", "recall")} == pages.keys()
    for key in ("variant", "memory.chunk", "lr", "init_from", "patience", "save_minutes"):
        assert f"| `{key}` |" in pages["reference/shared.md"]
    assert "`lmm`" in pages["reference/shared.md"] and "| `max_epochs` |" not in pages["reference/shared.md"]
    for key in ("horizon", "id_col", "quantiles"):  # `id_col` is handed on to another class
        assert f"| `{key}` |" in pages["reference/timeseries.md"]
    assert "| `layout.header_field` |" in pages["reference/genomics.md"]
    assert "domains.text.TaskData" in pages["reference/text.md"]


def test_every_table_of_results_has_its_commands() -> None:
    page = tables.page()
    names = [path.stem for path in (ROOT / "results").glob("*/*.json")]
    assert len(names) > 10 and page.count("\n## [") == len(names)
    assert all(page.split(f"\n## [{name}]")[1].count("| `python -m ") for name in names)


def test_what_troubleshooting_quotes_is_what_the_code_says() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = [
        words
        for line in text.splitlines()[6:]
        for words in re.findall(r"`(.*?)`", line.split("|")[1])
        if " " in words and not words.startswith("make ")
    ]
    assert len(quoted) >= 8 and not [words for words in quoted if words not in CODE]


def test_every_page_has_its_place_in_the_menu() -> None:
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda *_: None)
    menu = yaml.load((ROOT / "mkdocs.yml").read_text(), loader)["nav"]

    def paths(entries: list) -> list[str]:
        found = [value for entry in entries for value in entry.values()]
        return [path for value in found for path in ([value] if isinstance(value, str) else paths(value))]

    made = {*reference.pages(), "reference/tables.md"}
    written = {str(path.relative_to(ROOT)) for path in site.files() if path.suffix == ".md"}
    assert {*paths(menu)} == made | {path for path in written if not path.startswith("results/")}


def test_pictures_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs" / "pictures").glob("*.png")}
    assert len(sizes) >= 10 and not {name: size for name, size in sizes.items() if size > 180_000}


@pytest.mark.skipif(find_spec("zensical") is None, reason="pip install -e '.[docs]' brings what builds the site")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    site.gather(tmp_path / "site" / "source")
    (tmp_path / "mkdocs.yml").write_text((ROOT / "mkdocs.yml").read_text())
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    home = (tmp_path / "site" / "pages" / "index.html").read_text()
    assert "A domain of your own" in home
