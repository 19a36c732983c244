"""`python -m data_prep timeseries --sets ETTh1,ETTh2 [--root data]`: download public data, checked."""

import argparse
import sys
from pathlib import Path

from data_prep.files import data_root
from data_prep.timeseries import BENCHMARKS, fetch


def main(args: list[str] | None = None) -> int:
    """Fetch what the command line names; returns 0, or 2 after a one-line error."""
    parser = argparse.ArgumentParser(prog="python -m data_prep", description="Download public data sets, checked.")
    domains = parser.add_subparsers(dest="domain", required=True)
    timeseries = domains.add_parser("timeseries", help="forecasting benchmarks")
    timeseries.add_argument("--sets", default=",".join(BENCHMARKS), help="names, separated by commas (%(default)s)")
    timeseries.add_argument("--root", type=Path, default=data_root(), help="data folder (TITANS_DATA or %(default)s)")
    options = parser.parse_args(args)
    try:
        for name in options.sets.split(","):
            print(f"{name}: {fetch(name.strip(), options.root)}")
    except (OSError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
