"""Make the pages of results: `python -m benchmarks.pages` writes NAME.md beside every results/COMMAND/NAME.json.

Pictures in the same folder whose names begin with NAME stand at the end of its page.
"""

from collections.abc import Callable
from pathlib import Path

from benchmarks.decode.page import page as decode
from benchmarks.harness.page import page as harness
from benchmarks.kernel.page import page as kernel
from benchmarks.language.page import page as language
from benchmarks.shared.rows import RESULTS, Row, markdown, read
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


def page(path: Path) -> str:
    """Markdown of one file of results; a command that has no form of its own gets plain tables."""
    text = PAGES.get(path.parent.name, markdown)(read(path))
    pictures = sorted(path.parent.glob(f"{path.stem}*.png"))
    return text.rstrip("\n") + "\n" + "".join(f"\n![{picture.stem}]({picture.name})\n" for picture in pictures)


def main() -> None:
    for path in sorted(RESULTS.glob("*/*.json")):
        path.with_suffix(".md").write_text(page(path))
        print(path.with_suffix(".md"))


if __name__ == "__main__":
    main()
