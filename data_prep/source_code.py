"""A corpus of Python source, out of packages that are installed beside this interpreter: nothing is fetched.

Names recur over a whole document, so it asks a model for range. The packages are all dependencies of this project; the
held-out ones are never trained on, and a file that stands in several packages is taken once, for the first part.
"""

import hashlib
import json
import os
import random
import sysconfig
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

PACKAGES: dict[str, tuple[str, ...]] = {
    "train": (
        "torch",
        "sympy",
        "pandas",
        "sklearn",
        "scipy",
        "numpy",
        "matplotlib",
        "fontTools",
        "lightning",
        "torchmetrics",
        "jsonargparse",
        "tensorboard",
    ),
    "valid": ("Bio", "setuptools"),
    "test": ("networkx", "nltk"),
}
FILE = (200, 400_000)  # least and most characters of a file: less is nearly empty, more is a table of data
DOCUMENT = (60_000, 600_000)  # characters: a smaller folder is left out, a larger one is cut between files
COPIED = {"_vendor", "_vendored", "extern"}  # folders that hold other projects' code, perhaps that of another part


def write(folder: Path, packages: dict[str, tuple[str, ...]] = PACKAGES, root: Path | None = None) -> None:
    """Write train.jsonl, valid.jsonl and test.jsonl with a row per document: `package` with its version, and `text`.

    A document is a folder of a package, its files in the order of their names.

    Args:
        folder: where the files shall lie; it is made.
        packages: their names by part.
        root: where they are installed; by default beside this interpreter.

    Raises:
        FileNotFoundError: a package is not installed.
    """
    root = root or Path(sysconfig.get_paths()["purelib"])
    missing = [name for names in packages.values() for name in names if not (root / name).is_dir()]
    if missing:
        raise FileNotFoundError(f"{root}: {', '.join(missing)} not installed, of which corpus code is made; install it")
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[bytes] = set()
    for part, names in packages.items():
        rows = [
            {"package": f"{name} {_version(name)}".strip(), "text": text}
            for name in names
            for text in _documents(root, name, seen)
        ]
        random.Random(0).shuffle(rows)
        partial = folder / f"{part}.jsonl.part"
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        partial.replace(folder / f"{part}.jsonl")


def _version(package: str) -> str:
    names = packages_distributions().get(package, [])
    return version(names[0]) if names else ""


def _documents(root: Path, package: str, seen: set[bytes]) -> Iterator[str]:
    least, most = DOCUMENT
    for place, below, files in os.walk(root / package):
        below[:] = sorted(name for name in below if name not in COPIED)
        sources: list[str] = []
        for name in sorted(file for file in files if file.endswith(".py")):
            path = Path(place, name)
            source = path.read_text(encoding="utf-8", errors="ignore")
            checksum = hashlib.sha256(source.encode()).digest()
            if not FILE[0] <= len(source) <= FILE[1] or checksum in seen:
                continue
            seen.add(checksum)
            sources.append(f"# file: {path.relative_to(root)}\n{source}\n")
            if sum(map(len, sources)) > most:
                yield "".join(sources)
                sources = []
        if sum(map(len, sources)) > least:
            yield "".join(sources)
