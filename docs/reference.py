"""Pages of every key of a configuration, made of the typed classes that read them, as the command line itself does."""

import argparse
import inspect
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from docstring_parser import parse
from jsonargparse import ArgumentParser
from jsonargparse.typing import import_object

from app.module import TitansModule
from app.optim import OptimConfig
from app.trainer import TitansTrainer
from memory import BackboneConfig

ROOT = Path(__file__).parent.parent


def pages() -> dict[str, str]:
    """Markdown by path: what all domains share, and the heads and data of each domain that a config names."""
    shared = [
        section(BackboneConfig, "model.backbone"),
        section(OptimConfig, "model.optim"),
        section(TitansModule, "model", ("compile", "init_from")),
        section(TitansTrainer, "trainer", [*own(TitansTrainer)]),
        "The trainer also takes every key of [Lightning's Trainer](https://lightning.ai/docs/pytorch/stable/common/"
        "trainer.html): `max_epochs`, `max_steps`, `devices`, `val_check_interval`, ...\n",
    ]
    found = {"reference/shared.md": "\n".join(["# Model, optimiser, trainer\n", INTRODUCTION, *shared])}
    for domain, classes in named().items():
        sections = [section(import_object(name), f"{part} {name}") for part, name in classes]
        found[f"reference/{domain}.md"] = "\n".join([f"# Heads and data: {domain}\n", INTRODUCTION, *sections])
    return found


INTRODUCTION = """Made of the classes that read the keys; a key that is not here is refused. The files of `conf/` set
them, and `python -m app fit --config FILE --print_config` prints all of a run.
"""


def own(cls: type) -> Iterator[str]:
    """Names of a class's own arguments, without those that it hands on."""
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            yield name


def named() -> dict[str, list[tuple[str, str]]]:
    """Per domain, (`model.head` or `data`, dotted class) of all that the files in conf/ name."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path in sorted(ROOT.glob("conf/**/*.yaml")):
        config = yaml.safe_load(path.read_text())
        places = {"model.head": config.get("model", {}).get("head", {}), "data": config.get("data", {})}
        for part, place in places.items():
            name = place.get("class_path", "")
            if name and (part, name) not in found[name.split(".")[1]]:
                found[name.split(".")[1]].append((part, name))
    return {domain: sorted(classes, reverse=True) for domain, classes in sorted(found.items())}


def section(cls: type, title: str, only: Any = None) -> str:
    """Heading, the class's first words and a table of its keys.

    Args:
        cls: what reads them.
        title: heading.
        only: names of the keys to show; None for all.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls)
    rows = [row(action) for action in parser._actions if shown(action) and (only is None or action.dest in only)]
    summary = parse(inspect.getdoc(cls) or "").short_description or ""
    table = ["| key | default | type | meaning |", "| --- | --- | --- | --- |", *rows]
    return "\n".join([f"## `{title}`\n", f"{summary}\n", *table, ""])


def shown(action: argparse.Action) -> bool:
    """Whether an action stands for a key."""
    return hasattr(action, "_typehint") and not action.dest.endswith(".help")


def row(action: argparse.Action) -> str:
    """A line of a table."""
    kind = words(vars(action)["_typehint"])
    default = yaml.safe_dump(_plain(action.default), default_flow_style=True).splitlines()[0]
    given = action.default is None and "null" not in kind  # by the data or by another key
    meaning = " ".join((action.help or "").split())
    cells = (f"`{action.dest}`", "" if given else f"`{default}`", kind, meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(value: Any) -> Any:
    return [*value] if isinstance(value, tuple) else value


def words(kind: Any) -> str:
    """A type for people: the values that may be chosen, or its name."""
    if get_origin(kind) is Literal:
        return " ".join(f"`{value}`" for value in get_args(kind))
    if kind is type(None):
        return "null"
    if isinstance(kind, type) and not get_args(kind):
        return kind.__name__
    name = getattr(get_origin(kind), "__name__", "")
    parts = [words(part) for part in get_args(kind) if part is not Ellipsis]
    return " or ".join(parts) if name in ("Union", "UnionType") else f"list of {', '.join(dict.fromkeys(parts))}"
