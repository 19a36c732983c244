"""The site's source: `python -m docs.site` gathers it in site/source, which `make docs` then builds.

Every page of the repository keeps its path, so that one link is good for a reader of either; beside them lie what they
link to, and pages made of the code.
"""

import re
import shutil
from pathlib import Path

from docs import reference, tables

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "site" / "source"
FOLDERS = ("docs", "domains", "memory", "results")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def files() -> list[Path]:
    """Every page, and every file that one of them links to or shows."""
    pages = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
    linked = {(page.parent / link).resolve() for page in pages for link in LINK.findall(page.read_text())}
    return sorted({*pages, *(path for path in linked if path.is_file())})


def gather(folder: Path) -> None:
    """Write the site's source into a folder, in the place of what it held."""
    shutil.rmtree(folder, ignore_errors=True)
    made = {**reference.pages(), "reference/tables.md": tables.page()}
    for path in files():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for name, text in made.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


if __name__ == "__main__":
    gather(SOURCE)
