"""Numbers that a configuration may hold: finite everywhere, and within bounds where a key has some."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

Bounds = Mapping[str, tuple[float, float]]  # least and largest value of a key, both allowed
MOST = 2**31 - 1  # of anything that is counted: products of larger sizes are no numbers of tensors any more


def check_bounds(prefix: str, values: Mapping[str, Any], bounds: Bounds) -> None:
    """Refuse a number that is not finite, or out of its key's bounds; what is no number is left alone.

    Raises:
        ValueError: names the first such key and what it may be.
    """
    for name, value in leaves(values, prefix):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}; give a finite number")
    for name, (least, largest) in bounds.items():
        value = values.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if isinstance(value, int) and largest == math.inf and value > MOST:
            raise ValueError(f"{prefix}.{name} is {value}; it must be at most {MOST}".lstrip("."))
        if not least <= value <= largest:
            allowed = f"at least {least}" if largest == math.inf else f"from {least} to {largest}"
            raise ValueError(f"{prefix}.{name} is {value}; it must be {allowed}".lstrip("."))


def leaves(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a tree of mappings and lists that is neither."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from leaves(value, f"{key}.{name}".lstrip("."))
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from leaves(value, f"{key}[{number}]")
    else:
        yield key, tree
