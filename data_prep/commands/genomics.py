"""Labelled DNA: GenomicBenchmarks and GUE."""

import argparse
from pathlib import Path

from data_prep.genomics import GENOMIC_BENCHMARKS, SETS, fetch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sets."""
    parser.add_argument("--set", required=True, help=f"names, separated by commas, or all: {', '.join(SETS)}")
    parser.add_argument("--file", type=Path, help="the zip of a GenomicBenchmarks set that you downloaded yourself")


def run(options: argparse.Namespace) -> None:
    """Download them and say where they are."""
    names = GENOMIC_BENCHMARKS if options.set == "all" else options.set.split(",")
    for name in names:
        print(f"{name}: {', '.join(map(str, fetch(name.strip(), options.root, options.file)))}")
