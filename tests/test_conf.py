"""The files in conf/ say every value once."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

CONF = Path(__file__).parent.parent / "conf"


def values(config: dict[str, Any], key: str = "") -> list[tuple[str, str]]:
    """(dotted key, value) of all leaves of a config but the name of its base."""
    found = []
    for name, value in config.items():
        if isinstance(value, dict):
            found += values(value, f"{key}.{name}")
        elif name != "base":
            found.append((f"{key}.{name}", repr(value)))
    return found


def copies(domain: str) -> Counter:
    """Values that a domain's files and what all domains share hold more than once, and how often beyond the first."""
    files = [CONF / "base" / "shared.yaml", CONF / "base" / f"{domain}.yaml", *sorted(CONF.glob(f"{domain}_*.yaml"))]
    counts = Counter(value for file in files for value in values(yaml.safe_load(file.read_text())))
    return Counter({value: count - 1 for value, count in counts.items() if count > 1})


def test_no_more_than_twenty_values_are_copies() -> None:
    found = {domain: copies(domain) for domain in ("timeseries", "text", "genomics")}
    assert sum(counts.total() for counts in found.values()) <= 20, found


@pytest.mark.parametrize("config", sorted(CONF.glob("*_*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_overrides_its_base_and_repeats_nothing_of_it(config: Path) -> None:
    chain, file = [], config
    while file:
        content = yaml.safe_load(file.read_text())
        chain.append(content)
        file = file.parent / content["base"] if "base" in content else None
    below: dict[str, str] = {}
    for content in reversed(chain[1:]):
        below.update(values(content))
    assert len(chain) > 1 and not [key for key, value in values(chain[0]) if below.get(key) == value]
