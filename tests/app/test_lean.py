"""torchmetrics is imported without libraries that it asks for a name each, and finds their names when it uses them."""

import sys
from collections import OrderedDict
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from app import lean
from app.lean import LATER, Later, installed, stand_in
from tests.processes import forking


def tell(talk: Connection) -> None:
    """What a process that imported as a command does has of these libraries."""
    from torchmetrics.functional.text import bert

    talk.send((set(LATER) & set(sys.modules), type(getattr(bert, "AutoTokenizer", None))))


def test_a_command_imports_torchmetrics_without_them() -> None:
    ours, theirs = forking().Pipe()
    process = forking().Process(target=tell, args=(theirs,))
    process.start()
    assert ours.poll(60)
    found, tokenizer = ours.recv()
    process.join()
    assert not found and tokenizer is (Later if find_spec("transformers") else type(None))


def test_a_name_is_that_of_its_library_once_it_is_used() -> None:
    library = stand_in("collections")
    assert isinstance(library.OrderedDict, Later) and library.OrderedDict.fromkeys("ab") == OrderedDict.fromkeys("ab")
    with pytest.raises(AttributeError, match="nothing"):
        _ = library.OrderedDict.nothing
    assert not hasattr(library, "__file__")


def test_what_is_not_there_is_not_stood_in_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed("json") and installed("collections.abc") and not installed("nowhere.else")
    monkeypatch.setitem(sys.modules, "wave", None)
    assert not installed("wave")


def test_a_version_that_makes_more_of_a_name_is_imported_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchmetrics").mkdir()
    (tmp_path / "torchmetrics" / "__init__.py").write_text("from wave import Error\nclass Own(Error): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lean, "LATER", ("wave",))
    for name in [name for name in sys.modules if name == "wave" or name.partition(".")[0] == "torchmetrics"]:
        monkeypatch.delitem(sys.modules, name)
    lean.import_torchmetrics()
    assert not {"wave", "torchmetrics"} & set(sys.modules)
    assert import_module("torchmetrics").Own.__mro__[1].__module__ == "wave"
    for name in ("wave", "torchmetrics"):
        monkeypatch.delitem(sys.modules, name)
