"""Configs that stand on others: a file's key `base` names the file below it."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace


class LayeredConfig(ActionConfigFile):
    """`--config FILE`: the file on top of its base, that on top of its own base, and so on.

    A file means the same wherever it stands: after another `--config` its base comes first all the same.
    """

    def __call__(self, parser: ArgumentParser, cfg: Namespace, value: str, option_string: str | None = None) -> None:
        for base in chain(value)[:-1]:
            self.apply_config(parser, cfg, self.dest, str(base))
        self.apply_config(parser, cfg, self.dest, value)
        cfg["base"] = None  # it has served; one that is left comes from the command line


def chain(config: str) -> list[Path]:
    """A config and the bases below it, lowest first; empty for YAML in place of a file.

    Raises:
        TypeError: a base is no file, or stands on the config that stands on it.
    """
    path = Path(config)
    configs: list[Path] = []
    while is_file(path):
        path = path.resolve()
        if path in configs:
            raise TypeError(f"{config}: base: {path} stands on itself")
        configs.insert(0, path)
        if (base := base_of(path)) is None:
            break
        if not is_file(path.parent / base):
            raise TypeError(f"{path}: base: there is no file {path.parent / base}")
        path = path.parent / base
    return configs


def base_of(path: Path) -> str | None:
    """The base that a config names; None without one, or where a parser will complain of the config anyway."""
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    base: Any = config.get("base") if isinstance(config, dict) else None
    return base if isinstance(base, str) else None


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for a text that is too long to be a path."""
    try:
        return path.is_file()
    except OSError:
        return False
