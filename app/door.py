"""The one door, `python -m app VERB`: which verbs there are, what each takes, and who runs it.

Arguments are read and help is shown before PyTorch is imported, which takes seconds.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from app.verbs import KEYS, PROGRAM, SHARED, Domain, Verb, registered

RENAMED = {"--ckpt_path": "--ckpt"}  # old spellings of options, which this release still takes


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which takes no option by half its name."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, add_help=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def main(args: Sequence[str] | None = None) -> Any:
    """Run one command; what the user can fix ends as one line and exit code 2 (TITANS_DEBUG=1 shows the traceback).

    Args:
        args: the command line after `python -m app`; by default that of this process.

    Returns:
        what the verb returns: the `TitansCLI` of one that all domains share.
    """
    typed = list(sys.argv[1:] if args is None else args)
    domains = registered()
    if not typed or typed[0] in ("-h", "--help"):
        print(overview(domains))
        return None
    name, *words = typed
    shared = next((verb for verb in SHARED if verb.name == name), None)
    own = {domain.package: verb for domain in domains for verb in domain.verbs if verb.name == name}
    if shared is None and not own:
        names = dict.fromkeys(verb.name for verbs in (SHARED, *(d.verbs for d in domains)) for verb in verbs)
        Parser(prog=PROGRAM).error(f"there is no verb {name}; choose {', '.join(names)}")
    wants_keys = words[-2:] == ["--help", "all"] and any(verb.keys for verb in (shared, *own.values()) if verb)
    if {"-h", "--help"} & set(words) and not wants_keys:
        print(page(shared, own))
        return None
    words = respelled(words, RENAMED)
    if shared is not None:
        words = respelled(words, {old: new for domain in domains for old, new in domain.renamed.items()})
    command = shlex.join(["python", "-m", "app", *typed])
    takes_file = any(word.partition("=")[0] == "--input" for word in words)
    if shared is not None and not takes_file:
        action = partial(run, shared, read(shared, words, command))
    elif shared is None and len(own) == 1:
        (verb,) = own.values()
        action = partial(run, verb, read(verb, words, command))
    else:  # several domains have a verb of this name
        action = partial(run_of_checkpoint, name, shared, own, checkpoint_of(name, words), words, command)
    from app.command import carry_out  # only now, when the arguments are known to be good, PyTorch is imported

    return carry_out(action)


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
            verb.options(more.add_argument_group(title, verb.summary))
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


def respelled(words: Sequence[str], renamed: dict[str, str]) -> list[str]:
    """A command line with the new spelling of every option, which is told where the old one was used."""
    fresh = []
    for word in words:
        option, equals, value = word.partition("=")
        if option in renamed:
            warning = f"{option} is spelled {renamed[option]} now; the next release takes no other"
            print(f"warning: {warning}", file=sys.stderr)
        fresh.append(f"{renamed.get(option, option)}{equals}{value}")
    return fresh


def read(verb: Verb, words: Sequence[str], command: str, shared: Verb | None = None) -> argparse.Namespace:
    """The arguments of a verb; those of the configuration stay unread in `keys`."""
    parser = parser_of(verb, shared)
    given, keys = parser.parse_known_args(words)
    if keys and not verb.keys:
        parser.error(f"{verb.name} takes no {keys[0]}")
    given.verb, given.keys, given.command = verb.name, keys, command
    return given


def checkpoint_of(name: str, words: Sequence[str]) -> Path:
    """The checkpoint that says which domain's verb is meant."""
    parser = Parser(prog=f"{PROGRAM} {name}")
    parser.add_argument("--ckpt", metavar="FILE", type=Path, required=True)
    return parser.parse_known_args(words)[0].ckpt


def run(verb: Verb, given: argparse.Namespace) -> Any:
    """Import a verb's function and call it."""
    module, _, function = verb.run.partition(":")
    return getattr(import_module(module), function)(given)


def run_of_checkpoint(
    name: str, shared: Verb | None, own: dict[str, Verb], ckpt: Path, words: Sequence[str], command: str
) -> Any:
    """Run the verb of the domain that a checkpoint is of.

    Args:
        name: the verb.
        shared: the one that all domains have by this name, if any.
        own: the verbs of that name, by the package of the domain.
        ckpt: the checkpoint.
        words: the arguments, not read yet.
        command: the whole command line.

    Raises:
        UserError: that domain has no such verb.
    """
    from app.errors import UserError
    from app.module import trained_head

    head = trained_head(ckpt)
    verb = next((verb for package, verb in own.items() if head.startswith(f"{package}.")), None)
    if verb is None:
        names = " and ".join(package.rpartition(".")[2] for package in own) or "no domain"
        cure = "leave --input out and name the data by --data.KEY" if name == "predict" else "name another checkpoint"
        raise UserError(f"{ckpt}: holds a {head}; this is for models of {names}: {cure}")
    return run(verb, read(verb, words, command, shared))
