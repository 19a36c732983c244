"""The examples as notebooks, which have the same code, a cell for each part: `python -m docs.notebooks`."""

import ast
import json
import re
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDED = "Needs this package: `pip install -e '.[app,hf]'` in a clone of the repository."


def notebook(name: str, source: str) -> dict[str, Any]:
    """What a notebook of version 4.5 holds; no outputs.

    Args:
        name: of the example.
        source: a module whose docstring says what it shows.
    """
    said, *parts = re.split(r"\n\n+(?=\S)", source.rstrip("\n"))
    (docstring,) = ast.parse(said).body
    text = ast.literal_eval(ast.unparse(docstring))
    cells = [_cell(name, 0, "markdown", f"{text}\n\n{NEEDED}")]
    for number, part in enumerate(parts, 1):
        cells.append(_cell(name, number, "code", part) | {"execution_count": None, "outputs": []})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _cell(name: str, number: int, kind: str, source: str) -> dict[str, Any]:
    lines = source.splitlines(keepends=True)
    return {"cell_type": kind, "id": f"{name}-{number}", "metadata": {}, "source": lines}


def main() -> None:
    """Write a notebook beside each example."""
    for path in sorted(EXAMPLES.glob("*.py")):
        content = json.dumps(notebook(path.stem, path.read_text()), indent=1, ensure_ascii=False)
        path.with_suffix(".ipynb").write_text(content + "\n")


if __name__ == "__main__":
    main()
