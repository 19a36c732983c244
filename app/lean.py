"""Imports torchmetrics, which Lightning begins with, without two libraries that it asks for a name each: 2 s less."""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

LATER = ("transformers", "scipy.signal")  # for scores of a text by another model, and for a window of sounds


class Later:
    """A class or function of a library that is imported when something of it is asked for.

    Args:
        library: that has it.
        name: it has there.
    """

    def __init__(self, library: str, name: str) -> None:
        self._of = library, name

    def __getattr__(self, name: str) -> Any:
        library, own = self._of
        return getattr(getattr(import_module(library), own), name)


def import_torchmetrics() -> None:
    """Import it as it is but for names of these libraries, whose own are found when they are used.

    A version that does more with a name than to keep it is left to be imported as it is; and where there is none, what
    needs it will say so.
    """
    if "torchmetrics" in sys.modules:
        return
    specs = {library: find_spec(library) for library in LATER if library not in sys.modules and installed(library)}
    for library, spec in specs.items():
        sys.modules[library] = stand_in(library)
        sys.modules[library].__spec__ = spec
    try:
        import_module("torchmetrics")
    except Exception:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchmetrics"]:
            del sys.modules[name]
    finally:
        for library in specs:
            del sys.modules[library]


def installed(library: str) -> bool:
    """Whether the package that a library is or is part of is there."""
    package = library.partition(".")[0]
    return sys.modules.get(package, package) is not None and find_spec(package) is not None


def stand_in(library: str) -> ModuleType:
    """A module that has every name but those of modules such as `__file__`, each a `Later`."""

    def get(name: str) -> Later:
        if name.startswith("__"):
            raise AttributeError(name)
        return Later(library, name)

    module = ModuleType(library)
    vars(module)["__getattr__"] = get
    return module
