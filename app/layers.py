"""Configs that stand on others: a file's key `base` names the file below it, or several, the lowest first."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace


class LayeredConfig(ActionConfigFile):
    """`--config FILE`: the file on top of its bases, those on top of their own, and so on.

    A file means the same wherever it stands: after another `--config` its bases come first all the same.
    """

    def __call__(self, parser: ArgumentParser, cfg: Namespace, value: str, option_string: str | None = None) -> None:
        for base in chain(value)[:-1]:
            self.apply_config(parser, cfg, self.dest, str(base))
        self.apply_config(parser, cfg, self.dest, value)
        cfg["base"] = None  # it has served; one that is left comes from the command line


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
    """The bases that a config names; none where a parser will complain of the config anyway."""
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        return []
    base: Any = config.get("base") if isinstance(config, dict) else None
    bases = base if isinstance(base, list) else [base]
    return bases if all(isinstance(each, str) for each in bases) else []


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for a text that is too long to be a path."""
    try:
        return path.is_file()
    except OSError:
        return False
