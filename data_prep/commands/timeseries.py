"""Forecasting benchmarks."""

import argparse

from data_prep.timeseries import BENCHMARKS, fetch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sets."""
    parser.add_argument("--sets", default=",".join(BENCHMARKS), help="names, separated by commas (%(default)s)")


def run(options: argparse.Namespace) -> None:
    """Download them and say where they are."""
    for name in options.sets.split(","):
        print(f"{name}: {fetch(name.strip(), options.root)}")
