"""The one door, `python -m app VERB`: which verb is meant, what was asked of it, and who does it.

Arguments are read and help is shown before PyTorch is imported, which takes seconds.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from app.help import Parser, overview, page, parser_of
from app.lean import import_torchmetrics
from app.output import tell
from app.verbs import PROGRAM, SHARED, Domain, Verb, registered

WRITTEN = ("output", "save", "vcf")  # options of all verbs that name a file to write
RENAMED = {"--ckpt_path": "--ckpt"}  # old spellings of options, which this release still takes


@dataclass(frozen=True)
class Call:
    """A command line.

    Args:
        name: its verb.
        words: what follows the verb, in the spelling of today.
        line: all of it as it was typed, for the record.
    """

    name: str
    words: list[str]
    line: str


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
        tell(overview(domains))
        return None
    name, *words = typed
    if words and not words[0].startswith("-") and "--ckpt" not in {word.partition("=")[0] for word in words}:
        words = ["--ckpt", *words]  # a first word without an option is the checkpoint
    shared = next((verb for verb in SHARED if verb.name == name), None)
    own = {domain.package: verb for domain in domains for verb in domain.verbs if verb.name == name}
    if shared is None and not own:
        names = [verb.name for verb in SHARED] + [verb.name for domain in domains for verb in domain.verbs]
        Parser(prog=PROGRAM).error(f"there is no verb {name}; choose {', '.join(dict.fromkeys(names))}")
    if {"-h", "--help"} & set(words) and words[-2:] != ["--help", "all"]:
        tell(page(shared, own))
        return None
    words = respelled(words, old_spellings(domains if shared else ()))
    action = action_of(Call(name, words, shlex.join(["python", "-m", "app", *typed])), shared, own)
    refuse_missing(name, words)
    import_torchmetrics()  # only now, when the arguments are known to be good, PyTorch is imported
    try:
        from app.command import carry_out
    except ModuleNotFoundError as error:
        Parser(prog=PROGRAM).error(f"{error.name} is not installed; the application needs pip install -e '.[app]'")
    return carry_out(action)


def refuse_missing(name: str, words: Sequence[str]) -> None:
    """End a command whose `--ckpt` names no file, before it has taken the seconds in which PyTorch is imported."""
    parser = Parser(prog=f"{PROGRAM} {name}")
    parser.add_argument("--ckpt")
    ckpt = parser.parse_known_args(words)[0].ckpt
    if ckpt not in (None, "best", "last") and not Path(ckpt).is_file():
        parser.error(f"--ckpt: there is no file {ckpt}")


def old_spellings(domains: Sequence[Domain]) -> dict[str, str]:
    """Options that are spelled otherwise now, {old: new}: those of every verb, and what some domains have renamed."""
    return RENAMED | {old: new for domain in domains for old, new in domain.renamed.items()}


def respelled(words: Sequence[str], renamed: dict[str, str]) -> list[str]:
    """A command line in the spelling of today, which is told where an old one was used.

    Words of a verb's option are joined as those of a key are, by underscores; once they were by dashes.

    Args:
        words: what was typed.
        renamed: options that are spelled otherwise now, {old: new}.
    """
    fresh = []
    for word in words:
        typed, equals, value = word.partition("=")
        option = renamed.get(typed, typed)
        if option.startswith("--") and "." not in option:  # a key of the configuration may end in a name of the user's
            option = "--" + option[2:].replace("-", "_")
        if option != typed:
            print(f"warning: {typed} is spelled {option} now; the next release takes no other", file=sys.stderr)
        fresh.append(f"{option}{equals}{value}")
    return fresh


def action_of(call: Call, shared: Verb | None, own: dict[str, Verb]) -> Callable[[], Any]:
    """What a command line asks for, with its arguments read.

    Args:
        call: the command line.
        shared: the verb of this name that every domain has, if any.
        own: the verbs of this name that domains have, by the package of each.
    """
    takes_file = any(word.partition("=")[0] == "--input" for word in call.words)
    if shared is not None and not takes_file:
        return partial(run, shared, read(shared, call))
    if shared is None and len(own) == 1:
        ((package, verb),) = own.items()
        return partial(run, verb, read(verb, call, package=package))
    parser = Parser(prog=f"{PROGRAM} {call.name}")
    parser.add_argument("--ckpt", type=Path, required=True)
    return partial(run_of_checkpoint, parser.parse_known_args(call.words)[0].ckpt, call, shared, own)


def read(verb: Verb, call: Call, shared: Verb | None = None, package: str | None = None) -> argparse.Namespace:
    """The arguments of a verb; those of the configuration stay unread in `keys`.

    Args:
        verb: that is called.
        call: the command line.
        shared: the verb of this name that every domain has, if any.
        package: of the one domain that has a verb of this name; None where a checkpoint says which it is.
    """
    parser = parser_of(verb, shared)
    arguments, keys = parser.parse_known_args(call.words)
    if keys and not verb.keys:
        parser.error(f"{verb.name} takes no {keys[0]}")
    refuse_overwriting(parser, arguments)
    arguments.verb = verb.name
    arguments.package = package
    arguments.keys = keys
    arguments.command = call.line
    return arguments


def refuse_overwriting(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End a command that would write over what it reads; a state alone may be gone on from in its own place."""
    for name in WRITTEN:
        written = getattr(arguments, name, None)
        if written is None or not written.is_file():
            continue
        for other, value in vars(arguments).items():
            paths = [path for path in (value if isinstance(value, list) else [value]) if isinstance(path, Path)]
            if other not in (name, "state") and any(path.is_file() and path.samefile(written) for path in paths):
                parser.error(f"--{name}: {written} is what --{other} reads; name another file")


def run(verb: Verb, arguments: argparse.Namespace) -> Any:
    """Import a verb's function and call it."""
    module, _, function = verb.run.partition(":")
    return getattr(import_module(module), function)(arguments)


def run_of_checkpoint(ckpt: Path, call: Call, shared: Verb | None, own: dict[str, Verb]) -> Any:
    """Run the verb of the domain that a checkpoint is of; for the other arguments see `action_of`.

    Raises:
        UserError: that domain has no such verb.
    """
    from app.errors import UserError
    from app.module import trained_head

    head = trained_head(ckpt)
    verb = next((verb for package, verb in own.items() if head.startswith(f"{package}.")), None)
    if verb is None:
        names = " and ".join(package.rpartition(".")[2] for package in own) or "no domain"
        cure = "name another checkpoint" if shared is None else "leave --input out and name the data by --data.KEY"
        raise UserError(f"{ckpt}: holds a {head}; this is for models of {names}: {cure}")
    return run(verb, read(verb, call, shared))
