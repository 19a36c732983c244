"""The parser of each verb, and the help that is made of it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from app.verbs import KEYS, PROGRAM, SHARED, Domain, Verb


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which takes no option by half its name."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, add_help=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def overview(domains: Sequence[Domain]) -> str:
    """Every verb with a line and an example."""
    lines = [f"usage: {PROGRAM} VERB [options]; `{PROGRAM} VERB --help` tells the options of one", ""]
    lines += ["for every domain:"]
    for verb in SHARED:
        lines += _summary(verb)
    for domain in domains:
        verbs = [verb for verb in domain.verbs if verb.name not in {shared.name for shared in SHARED}]
        if verbs:
            lines += ["", f"for models of {domain.name}:"]
        for verb in verbs:
            lines += _summary(verb)
    return "\n".join(lines)


def _summary(verb: Verb) -> list[str]:
    return [f"  {verb.name:<10}{verb.summary}", f"{'':12}{PROGRAM} {verb.example}"]


def page(shared: Verb | None, own: dict[str, Verb]) -> str:
    """The help of one verb: its own options, then what every domain that has it adds."""
    pages = [] if shared is None else [parser_of(shared, usage=_usage(shared)).format_help()]
    for package, verb in own.items():
        if shared is None:
            pages.append(parser_of(verb, usage=_usage(verb)).format_help())
        else:
            more = Parser(usage=argparse.SUPPRESS)
            title = f"with --input, and a checkpoint of {package.rpartition('.')[2]}"
            group = more.add_argument_group(title, verb.summary)
            verb.options(cast(argparse.ArgumentParser, group))  # a group takes arguments like a parser
            pages.append(more.format_help())
    return "\n".join(pages)


def _usage(verb: Verb) -> str | None:
    return f"{PROGRAM} {verb.name} {KEYS}" if verb.keys else None


def parser_of(verb: Verb, shared: Verb | None = None, **kwargs: Any) -> Parser:
    """The parser of a verb's own options, and of those of the shared verb that it is a domain's part of."""
    example = f"example:\n  {PROGRAM} {verb.example}"
    if verb.keys:
        example += (
            f"\n\n`{PROGRAM} {verb.name} --help all` lists every key of trainer, model and data, after some seconds,"
            "\n`--model.head.help CLASS` and `--data.help CLASS` those of a head or of data, and `--print_config`"
            "\nprints the whole configuration and runs nothing."
        )
    parser = Parser(
        prog=f"{PROGRAM} {verb.name}",
        description=verb.summary,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **kwargs,
    )
    if verb.keys:
        text = "`best`, `last` or a checkpoint file, which needs no --config"
        parser.add_argument("--ckpt", metavar="FILE", help=text)
    else:
        parser.add_argument("--ckpt", metavar="FILE", type=Path, required=True, help="checkpoint of a trained model")
    for each in (shared, verb):
        if each is not None:
            each.options(parser)
    return parser
