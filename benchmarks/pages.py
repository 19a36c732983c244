"""Make the pages of results: `python -m benchmarks.pages` writes NAME.md beside every results/COMMAND/NAME.json.

Pictures in the same folder whose names begin with NAME stand at the end of its page. Pages in docs/results, written by
hand, get the table at their head anew: when, on what and at which commits the rows of each page that it links were
measured.
"""

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.decode.page import page as decode
from benchmarks.harness.page import page as harness
from benchmarks.kernel.page import page as kernel
from benchmarks.language.page import page as language
from benchmarks.shared.rows import RESULTS, Row, card, markdown, read
from benchmarks.throughput.page import page as throughput
from benchmarks.timeseries.page import page as timeseries

PAGES: dict[str, Callable[[list[Row]], str]] = {
    "decode": decode,
    "harness": harness,
    "kernel": kernel,
    "language": language,
    "throughput": throughput,
    "timeseries": timeseries,
}
WRITTEN = Path("docs/results")  # pages by hand
SOURCES = "| rows | date | device | commit |\n| --- | --- | --- | --- |\n"  # the head of their first table


def page(path: Path) -> str:
    """Markdown of one file of results; a command that has no form of its own gets plain tables."""
    text = PAGES.get(path.parent.name, markdown)(read(path))
    pictures = sorted(path.parent.glob(f"{path.stem}*.png"))
    return text.rstrip("\n") + "\n" + "".join(f"\n![{picture.stem}]({picture.name})\n" for picture in pictures)


def sources(text: str, folder: Path) -> str:
    """A page's text with the table at its head made anew; one row for each day, device and page that it links.

    Args:
        text: of a page.
        folder: that its links start from.
    """
    before, table = text.split(SOURCES)
    table, after = table.split("\n\n", 1)
    lines = []
    for link, target in dict.fromkeys(re.findall(r"^\| (\[.*?\]\((.*?)\))", table, re.MULTILINE)):
        commits: dict[tuple[str, str], dict[str, None]] = {}  # an ordered set for each day and device
        for row in read((folder / target).with_suffix(".json")):
            if not row.device:  # a ratio of other rows
                continue
            found = re.findall(r"([0-9a-f]{7})[0-9a-f]*(-dirty)?", row.commit or "")
            names = (f"{commit}{'*' if dirty else ''}" for commit, dirty in found)
            commits.setdefault((row.date, card(row.device)), {}).update(dict.fromkeys(names))
        lines += [f"| {link} | {date} | {device} | {', '.join(of)} |" for (date, device), of in sorted(commits.items())]
    return before + SOURCES + "\n".join(lines) + "\n\n" + after


def main() -> None:
    for path in sorted(RESULTS.glob("*/*.json")):
        path.with_suffix(".md").write_text(page(path))
        print(path.with_suffix(".md"))
    for path in sorted(WRITTEN.glob("*.md")):
        path.write_text(sources(path.read_text(), path.parent))
        print(path)


if __name__ == "__main__":
    main()
