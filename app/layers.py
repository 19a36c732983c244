"""Configs that stand on others: a file's key `base` names the file below it, or several, the lowest first."""

from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from app.checks import SECTIONS
from app.dump import LOADER
from app.reading import Reading, reading

applied: ContextVar[str] = ContextVar("applied", default="")  # the file being read, to begin complaints with


class LayeredConfig(ActionConfigFile):
    """`--config FILE`: the file on top of its bases, those on top of their own, and so on.

    A file means the same wherever it stands: after another `--config` its bases come first all the same.
    """

    def __call__(self, parser: ArgumentParser, cfg: Namespace, value: str, option_string: str | None = None) -> None:
        for base in chain(value)[:-1]:
            self._apply(parser, cfg, str(base))
        self._apply(parser, cfg, value)
        cfg["base"] = None  # it has served; one that is left comes from the command line

    def _apply(self, parser: ArgumentParser, cfg: Namespace, value: str) -> None:
        before = applied.set(f"{value}: " if is_file(Path(value)) else "")
        try:
            self.apply_config(parser, cfg, self.dest, value)
        finally:
            applied.reset(before)


def chain(config: str) -> list[Path]:
    """A config and all that is below it, lowest first, each file once; empty for YAML in place of a file.

    Raises:
        TypeError: a base is no file, or stands on the config that stands on it.
    """
    path = Path(config)
    return _chain(path.resolve(), ()) if is_file(path) else []


def _chain(path: Path, above: tuple[Path, ...]) -> list[Path]:
    if path in above:
        raise TypeError(f"{above[-1]}: base: {path} stands on itself")
    configs: list[Path] = []
    for base in bases_of(path):
        if not is_file(path.parent / base):
            raise TypeError(f"{path}: base: there is no file {path.parent / base}")
        configs += _chain((path.parent / base).resolve(), (*above, path))
    # What two bases share lies below both: its first place is its lowest.
    return list(dict.fromkeys([*configs, path]))


def bases_of(path: Path) -> list[str]:
    """The bases that a config names; none where a parser will complain of what stands there anyway.

    Raises:
        Unreadable: the file, or a section of it, holds no keys with values, or one of them twice.
    """
    with reading(path, "a config of YAML", "mend it, or name another file") as at:
        text = path.read_text(encoding="utf-8-sig")
        keys = yaml.compose(text, LOADER)
        if keys is None:
            raise at.error("the file is empty")
        if not isinstance(keys, yaml.MappingNode):
            raise at.error("it holds no keys with values")
        _refuse_twice(keys, at)
        _refuse_no_keys(keys, at)
        at.place = ""
        base: Any = yaml.load(text, LOADER).get("base")
    bases = base if isinstance(base, list) else [base]
    return bases if all(isinstance(each, str) for each in bases) else []


def _refuse_twice(node: yaml.Node, at: Reading, above: tuple[yaml.Node, ...] = ()) -> None:
    """Refuse a key that stands twice, of which YAML's reader takes the last, and an alias of what it stands in."""
    if node in above:
        raise at.error("an alias stands for what it stands in")
    parts = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for key, _ in node.value:
            at.place = f"line {key.start_mark.line + 1}"
            name = str(key.value)
            if name in names:
                raise at.error(f"{name} stands twice", "keep one of them")
            names.add(name)
        parts = [value for _, value in node.value]
    for part in parts:
        _refuse_twice(part, at, (*above, node))


def _refuse_no_keys(node: yaml.MappingNode, at: Reading, section: str = "") -> None:
    """Refuse a value in the place of a section's keys: it would take away those of the files below, and any key that is
    given behind it would hide it.
    """
    for key, value in node.value:
        name = f"{section}.{key.value}".lstrip(".")
        if name not in SECTIONS:
            continue
        if isinstance(value, yaml.MappingNode):
            _refuse_no_keys(value, at, name)
        elif value.tag != "tag:yaml.org,2002:str":  # a text may name a file that holds the keys
            at.place = f"line {key.start_mark.line + 1}"
            raise at.error(f"{name} holds no keys", "give it some, or leave it out")


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for a text that is too long to be a path."""
    try:
        return path.is_file()
    except OSError:
        return False
