"""A configuration as a file would hold it."""

from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first needs libyaml, and an eighth of the time


def dumped(parser: ArgumentParser, config: Namespace, links: bool = False) -> dict[str, Any]:
    """What YAML makes of a configuration, with null where no value is given.

    Args:
        parser: that has read the configuration and checked it: here nothing is checked again, which would take longer.
        config: to dump.
        links: keep what follows from other keys.
    """
    # The third argument keeps keys whose value is null, the fifth checks nothing, the last is about links.
    return yaml.load(parser.dump(config, "yaml", False, False, True, False, not links), LOADER)
