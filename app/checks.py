"""Whether what a config says can be, before anything is built of it."""

from importlib import import_module
from inspect import signature
from types import NoneType
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace

from app.optim import OptimConfig
from app.verbs import registered
from memory import BackboneConfig, MemoryConfig
from memory.bounds import check_bounds

SECTIONS = ("trainer", "model", "model.backbone", "model.backbone.memory", "model.optim")  # groups of keys
SIZES = ("input_size", "output_size")  # what every domain's data know, so that the config of a head need not repeat it


def linked_sizes() -> list[str]:
    """Arguments of heads that their data say once they are built."""
    return [*SIZES, *(size for domain in registered() for size in domain.linked)]


def check_parts(config: Namespace, verb: str, package: str | None) -> None:
    """Refuse a value in the place of keys, null for a key that has no such value, and a head of one of our domains with
    data, or by a verb, of another.

    Args:
        config: as read, with `model` and `data`.
        verb: that is to be carried out.
        package: of the domain whose verb it is; None for a verb of all domains.

    Raises:
        ValueError: names what does not belong together.
    """
    for key in SECTIONS:
        if not isinstance(config[key], Namespace):
            raise ValueError(f"{key} is {config[key]!r}; it must hold keys with values")
    for key in ("model.head", "data"):
        _refuse_null(key, config[key].class_path, config[key].get("init_args") or Namespace())
    head: str = config["model"]["head"].class_path
    data: str = config["data"].class_path
    # Each would ask the other for what it does not have.
    ours, theirs = _domain(head), _domain(data)
    if ours and theirs not in (None, ours):
        raise ValueError(f"model.head {head} reads no {data}; give head and data of one domain")
    if ours and package not in (None, ours):
        raise ValueError(f"{verb} is for models of {package}, and model.head is {head}; name another verb")


def _refuse_null(key: str, path: str, given: Namespace) -> None:
    """Refuse null for an argument of a class that declares no such value: a parser takes it as if it were not given."""
    module, _, name = path.rpartition(".")
    made = getattr(import_module(module), name)
    hints = get_type_hints(made.__init__ if isinstance(made, type) else made)
    linked = linked_sizes()
    for argument, parameter in signature(made).parameters.items():
        if given.get(argument, 0) is not None or argument in linked:
            continue
        hint = hints.get(argument, Any)
        if not (hint is Any or parameter.default is None or NoneType in get_args(hint)):
            raise ValueError(f"{key}.{argument} is null; it must have a value")


def _domain(path: str) -> str | None:
    """The package of the domain that a class is of; None for one of the user's own."""
    packages = (domain.package for domain in registered())
    return next((package for package in packages if path.startswith(f"{package}.")), None)


def check_values(config: dict[str, Any]) -> None:
    """Refuse numbers that no key may have, and a model that cannot be.

    Args:
        config: resolved, with the parts that all commands share; none is changed.

    Raises:
        ValueError: names the key and what it may be.
    """
    check_bounds("", config, {"seed_everything": (0, 2**32 - 1)})
    backbone: dict[str, Any] = {**config["model"]["backbone"]}
    backbone["memory"] = MemoryConfig(**backbone["memory"])
    BackboneConfig(**backbone)
    OptimConfig(**config["model"]["optim"])
