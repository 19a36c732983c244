"""The columns of a table, by the names that the layout gives them."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from lightning.pytorch.utilities import rank_zero_warn

from domains.genomics.bases import NUCLEOTIDES
from domains.genomics.bed import columns_named
from domains.genomics.verbs import OVERRIDES

MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "."}  # what a cell without a value holds, in lower case
DNA = re.compile(rf"([ACGTUNacgtun]{{6,}}|[{NUCLEOTIDES.decode()}]{{20,}})(\.\d+)?")  # "strand" is of such letters too
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}


def column_of(path: Path, table: pd.DataFrame, name: str, key: str) -> np.ndarray:
    """A column of a table.

    Raises:
        ValueError: there is none of that name; the cure names `key` of the layout.
    """
    if (found := _column(path, table, name)) is not None:
        return found
    names = list(table.columns)
    if any(DNA.fullmatch(found) for found in names):
        raise ValueError(
            f"{path} line 1: is DNA, where the names of the columns should stand; put them above it, for example "
            "`sequence,label`"
        )
    if key == "sequence_col" and _intervals(table):
        raise ValueError(
            f"{path}: holds intervals of a genome; let its name end in .bed, part its columns by tabs, and set "
            "data.layout.reference"
        )
    shown = ", ".join(repr(found[:30]) for found in names[:8]) + (", ..." if len(names) > 8 else "")
    some = f"some of them, [{names[-1][:30]}]" if key == "label_cols" else "one of them"
    cure = f"set data.layout.{key} to {some}"
    if key in OVERRIDES:
        cure = f"{cure} (where a model answers, --{key})"
    cure = f"{cure}, or call one {name!r}"
    if len(names) == 1 and name in names[0]:
        cure = "part the columns by commas, tabs or semicolons"
    raise ValueError(f"{path}: no column {name!r} among {shown}; {cure}")


def column_if_any(path: Path, table: pd.DataFrame, name: str, key: str) -> np.ndarray | None:
    """The names in a column of a table, bare, or None; one called nearly so, such as Split for split, is warned of.

    It may be read as something else: `label_col: Group` says nothing of `group`.

    Raises:
        ValueError: it holds no text.
    """
    if (found := _column(path, table, name)) is not None:
        return bare(found)
    for near in (other for other in table if _plain(other) == _plain(name)):
        rank_zero_warn(f"{path}: column {near!r} is not read as {name!r}; where it is meant, set data.layout.{key}")
    return None


def _column(path: Path, table: pd.DataFrame, name: str) -> np.ndarray | None:
    if name in table.attrs.get("other", {}):
        raise ValueError(f"{path}: column {name!r} is of {table.attrs['other'][name]}, not of text; export it as text")
    return table[name].to_numpy(object) if name in table else None


def _intervals(table: pd.DataFrame) -> bool:
    """Whether a table holds intervals of a genome by their places alone, without letters in any column."""
    names = list(table.columns)
    places = columns_named(names) or (len(names) > 2 and names[1].isdecimal() and names[2].isdecimal())
    return bool(places) and not any(DNA.fullmatch(cell) for cell in table[:1].to_numpy().flat)


def _plain(name: str) -> str:
    """Letters and digits of a name: id of ID and #id."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def letters_of(path: Path, table: pd.DataFrame, name: str) -> list[bytes]:
    """The sequences of a table; a cell that says there is none is empty, though NA and nan are of letters of DNA."""
    cells = column_of(path, table, name, "sequence_col")
    return [b"" if cell.strip().lower() in MISSING else cell.encode("ascii", "replace") for cell in cells]


def bare(names: Iterable[str]) -> np.ndarray:
    """Names without blanks at their ends, which nobody sees: with them a sequence would have no name that a table of
    classes knows, a group would be two, and a name of nothing else would be one.
    """
    return np.array([name.strip() for name in names], dtype=object)


def classes_of(path: Path, names: np.ndarray) -> np.ndarray:
    """Names of classes without blanks at their ends; those that become one by it are warned of."""
    found = bare(names)
    if len(set(names)) > len(set(found)):
        name = next(name for name in names if name != name.strip())
        rank_zero_warn(f"{path}: {name!r} and other classes have blanks at their ends; read without them, as one class")
    return found


def parts_of(path: Path, names: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Which part, train, val or test, each of the sequences `ids` is of, by the names in a split column.

    Raises:
        ValueError: a cell names none.
    """
    found = [PARTS.get(name.lower()) for name in names]
    if None in found:
        row = found.index(None)
        told = f"sequence {ids[row]!r}: split {names[row][:40]!r} is unknown"
        raise ValueError(f"{path}: {told}; write train, val or test")
    return np.array(found, dtype=object)
