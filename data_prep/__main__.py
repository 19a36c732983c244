"""Make data ready: `python -m data_prep timeseries --sets ETTh1`, or `genomics --set ..`, or `text --corpus ..`."""

import argparse
import pkgutil
import sys
from importlib import import_module
from pathlib import Path

from app.output import taken
from data_prep import commands


def main(args: list[str] | None = None) -> int:
    """Fetch what the command line names; returns 0, 2 after a one-line error, or 130 after Ctrl-C."""
    try:
        from data_prep.files import data_root  # here, as it and the commands need what is told below

        found = [import_module(f"{commands.__name__}.{each.name}") for each in pkgutil.iter_modules(commands.__path__)]
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed; preparing data needs pip install -e '.[app]'", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(
        prog="python -m data_prep", description="Download public data sets, and prepare text."
    )
    domains = parser.add_subparsers(dest="domain", required=True)
    for command in found:
        domain = domains.add_parser(command.__name__.rpartition(".")[2], help=str(command.__doc__).splitlines()[0])
        command.add_arguments(domain)
        domain.add_argument("--root", type=Path, default=data_root(), help="data folder (TITANS_DATA or %(default)s)")
        domain.set_defaults(run=command.run)
    options = parser.parse_args(args)
    try:
        options.run(options)
    except (OSError, ValueError) as err:
        print(f"error: {' '.join(str(err).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    with taken():
        sys.exit(main())
