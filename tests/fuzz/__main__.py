"""`python -m tests.fuzz`: read damaged files of every format, and count what came of them by format and kind."""

import argparse
import importlib
import math
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.run import BAD, bounded, fuzz

KINDS = ("timeseries", "genomics", "text", "checkpoints", "configs", "doors")  # the files of this folder


def main() -> int:
    """Returns 1 where a file came to what no file may."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=5000, help="files in all, dealt out to the formats")
    parser.add_argument("--seed", type=int, default=0, help="the same seed reads the same files")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of files, separated by commas (%(default)s)")
    parser.add_argument("--formats", default="", help="names, separated by commas; by default all")
    parser.add_argument("--keep", type=Path, help="folder for the smallest file of each kind of fault")
    given = parser.parse_args()
    modules = [importlib.import_module(f"tests.fuzz.{kind}") for kind in given.kinds.split(",")]
    forms = [form for module in modules for form in module.FORMATS]
    forms = [form for form in forms if not given.formats or form.name in given.formats.split(",")]
    bounded()
    bad = total = 0
    shares = sum(form.share for form in forms)
    for form in forms:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(form, math.ceil(given.examples * form.share / shares), given.seed, Path(folder))
        total += found.counts.total()
        bad += sum(found.counts[what] for what in BAD)
        counts = ", ".join(f"{count} {what}" for what, count in found.counts.most_common())
        print(f"{form.name}: {counts} ({time.perf_counter() - begin:.0f} s)")
        for number, (kind, (data, said)) in enumerate(sorted(found.smallest.items())):
            print(f"  {kind}\n    {' '.join(said.split())[:500]}\n    {data[:300]!r}")
            if given.keep:
                given.keep.mkdir(parents=True, exist_ok=True)
                (given.keep / f"{form.name}.{number}").write_bytes(data)
    print(f"{total} files, seed {given.seed}: {bad} of them came to {', '.join(BAD)}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
