"""`python -m data_prep {timeseries --sets ETTh1,ETTh2 | genomics --set gue/tf_0} [--root data]`: download, checked."""

import argparse
import sys
from pathlib import Path

from data_prep import genomics as dna
from data_prep.files import data_root
from data_prep.timeseries import BENCHMARKS, fetch


def main(args: list[str] | None = None) -> int:
    """Fetch what the command line names; returns 0, or 2 after a one-line error."""
    parser = argparse.ArgumentParser(prog="python -m data_prep", description="Download public data sets, checked.")
    domains = parser.add_subparsers(dest="domain", required=True)
    timeseries = domains.add_parser("timeseries", help="forecasting benchmarks")
    timeseries.add_argument("--sets", default=",".join(BENCHMARKS), help="names, separated by commas (%(default)s)")
    timeseries.add_argument("--root", type=Path, default=data_root(), help="data folder (TITANS_DATA or %(default)s)")
    genomics = domains.add_parser("genomics", help="labelled DNA: GenomicBenchmarks and GUE")
    genomics.add_argument("--set", required=True, help=f"names, separated by commas, or all: {', '.join(dna.SETS)}")
    genomics.add_argument("--file", type=Path, help="the zip of a GenomicBenchmarks set that you downloaded yourself")
    genomics.add_argument("--root", type=Path, default=data_root(), help="data folder (TITANS_DATA or %(default)s)")
    options = parser.parse_args(args)
    try:
        if options.domain == "genomics":
            names = dna.GENOMIC_BENCHMARKS if options.set == "all" else options.set.split(",")
            for name in names:
                print(f"{name}: {', '.join(map(str, dna.fetch(name.strip(), options.root, options.file)))}")
            return 0
        for name in options.sets.split(","):
            print(f"{name}: {fetch(name.strip(), options.root)}")
    except (OSError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
