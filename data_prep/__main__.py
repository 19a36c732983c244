"""Make data ready: `python -m data_prep timeseries --sets ETTh1`, or `genomics --set ..`, or `text --corpus ..`."""

import argparse
import pkgutil
import sys
from importlib import import_module
from pathlib import Path

from data_prep import commands
from data_prep.files import data_root


def main(args: list[str] | None = None) -> int:
    """Fetch what the command line names; returns 0, or 2 after a one-line error."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep", description="Download public data sets, and prepare text."
    )
    domains = parser.add_subparsers(dest="domain", required=True)
    for module in pkgutil.iter_modules(commands.__path__):
        command = import_module(f"{commands.__name__}.{module.name}")
        domain = domains.add_parser(module.name, help=str(command.__doc__).splitlines()[0])
        command.add_arguments(domain)
        domain.add_argument("--root", type=Path, default=data_root(), help="data folder (TITANS_DATA or %(default)s)")
        domain.set_defaults(run=command.run)
    options = parser.parse_args(args)
    try:
        options.run(options)
    except (OSError, ValueError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
