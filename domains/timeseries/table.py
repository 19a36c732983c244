"""What stands in a file or frame, before anything is made of it: cells, their places, and columns as numbers."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

# what pandas takes for an empty cell in a column of numbers; in names nothing but an empty cell is empty
EMPTY = ["", "#N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]
FRAME = "DataFrame"  # stands for a pandas frame where a file would have its name
LARGEST = 1e100  # whose square is still a number
SPACE = "[ \u00a0\u202f'\u2019]"  # parts thousands, and nothing else: 10 012,57
COMMA_NUMBER = rf"[+-]?(?:\d{{1,3}}(?:(?:\.|{SPACE})\d{{3}})+|\d+),\d+"
POINTED_NUMBER = r"[+-]?[1-9]\d{0,2}(?:\.\d{3})+"
SPACED_NUMBER = rf"[+-]?\d{{1,3}}(?:{SPACE}\d{{3}})+(?:[.,]\d+)?"
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:inf|infinity|nan)"


@dataclass
class Table:
    """What stands in a file, before anything is made of it.

    Args:
        path: the file.
        cells: one row per record; columns of numbers where the file holds numbers only, else of text.
        places: int64 [R], line of the file (row of a parquet file) that each record begins at.
        sha256: checksum of the decompressed file.
        decimal: what a number is written with.
        said: how the file is written, where that is not the usual way, in words.
        unit: what `places` count.
    """

    path: Path
    cells: pd.DataFrame
    places: np.ndarray
    sha256: str
    decimal: str = "."
    said: list[str] = field(default_factory=list)
    unit: Literal["line", "row"] = "line"

    def place(self, row: int) -> str:
        """Where a record stands in the file."""
        return f"{self.unit} {self.places[row]}"

    def numbers(self, name: str, key: str = "targets") -> np.ndarray:
        """A column, which stands in a `key` of the data, as float64 [R]; what is missing is NaN.

        Raises:
            ValueError: a cell is no number, or too large or small a one; names it.
        """
        values = self._numbers(name, key)
        sizes = np.abs(np.where(np.isfinite(values), values, 0.0))
        row = int(sizes.argmax()) if len(sizes) else 0
        size = sizes[row] if len(sizes) else 0.0
        if size > LARGEST or 0 < size < 1 / LARGEST:
            much = "large" if size > LARGEST else "small"
            raise ValueError(
                f"{self.path} {self.place(row)}: column {name!r} holds {values[row]:g}, which is too {much} to compute "
                "with; mend the cell, or write the column in another unit"
            )
        return values

    def _numbers(self, name: str, key: str) -> np.ndarray:
        column = self.cells[name]
        types = pd.api.types
        if types.is_numeric_dtype(column) and not (types.is_bool_dtype(column) or types.is_complex_dtype(column)):
            return column.to_numpy(np.float64, na_value=np.nan)
        if types.is_object_dtype(column):  # decimals of a database, None beside numbers, integers beyond 64 bits
            column = column.astype("str")
        if types.is_bool_dtype(column) or not types.is_string_dtype(column):
            kind = "true or false" if types.is_bool_dtype(column) else f"of kind {column.dtype}"
            raise ValueError(
                f"{self.path} {self.place(0)}: column {name!r} is not numeric, it is {kind}; turn it into numbers, or "
                f"leave it out of data.{key}"
            )
        text = column.str.strip()
        spaced = text.str.fullmatch(SPACED_NUMBER).fillna(False).astype(bool)
        text = text.where(~spaced, text.str.replace(SPACE, "", regex=True))
        empty = text.isna() | text.isin(EMPTY)
        wrong = ~(empty | text.str.fullmatch(NUMBER, flags=re.IGNORECASE).fillna(False).astype(bool))
        if self.decimal == ",":
            grouped = text.str.fullmatch(rf"{COMMA_NUMBER}|{POINTED_NUMBER}").fillna(False).astype(bool)
            plain = text.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
            text = text.where(~grouped, plain)
            # 1.250 is no decimal here, and so 1.25 beside it may be none either
            wrong = ~grouped & (wrong | (text.str.contains(".", regex=False) & ~empty & bool(grouped.any())))
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            few = wrong.mean() < 0.5  # slips in a column of numbers, or units under its heading
            left = f"leave it out of data.{key}" + (", or name it in data.id_col" if key == "targets" else "")
            raise ValueError(
                f"{self.path} {self.place(row)}: column {name!r} is not numeric ({column.iloc[row]!r}); "
                f"{_cure(str(column.iloc[row]), self.decimal)}{'or leave the cell empty' if few else left}"
            )
        return text.where(~empty).astype(np.float64).to_numpy()


def _cure(cell: str, decimal: str) -> str:
    if decimal == "." and re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", cell):
        return f"write {cell.replace(',', '')} without commas, "
    if decimal == "." and re.fullmatch(COMMA_NUMBER, cell):
        return "write a decimal point, or part the cells by semicolons (pandas: read_csv with decimal=','), "
    if decimal == "," and re.fullmatch(r"[+-]?\d*\.\d+", cell):
        return "write a decimal comma, as in other rows, "
    return "turn it into numbers, "


def refuse_headings(path: Path, place: str, headings: list[str]) -> None:
    """Refuse a heading that stands twice.

    Raises:
        ValueError: names the columns.
    """
    twice = [name for name, count in Counter(headings).items() if name and count > 1]
    if twice:
        columns = [i + 1 for i, name in enumerate(headings) if name == twice[0]]
        raise ValueError(
            f"{path}{place}: heading {twice[0]!r} stands over columns {' and '.join(map(str, columns))}; rename one"
        )


def tell_empty(empty: np.ndarray, said: list[str]) -> None:
    """Say how many rows are left out, bool [R]."""
    said.append(f"{int(empty.sum())} empty row{'s' if empty.sum() > 1 else ''} left out")


def without_unnamed(path: Path, cells: pd.DataFrame, said: list[str], place: str = "") -> pd.DataFrame:
    """Leave out columns without a heading: empty ones, and row names that count the rows.

    A csv says `\\0` and a number for a missing heading, pandas `Unnamed: 3`, which a column may really be called.

    Args:
        path: the file.
        cells: all its columns.
        said: what is left out is added.
        place: of the headings, for errors.

    Raises:
        ValueError: one without any name holds anything else.
    """
    left = []
    for i, name in enumerate(map(str, cells)):
        called = bool(re.fullmatch(r"Unnamed: \d+", name))
        if not name.startswith("\0") and not called:
            continue
        column = cells[name]
        counts = pd.api.types.is_numeric_dtype(column) and (column.diff().iloc[1:] == 1).all()
        if column.isna().all():
            said.append(f"column {i + 1} without heading or cells left out")
        elif i == 0 and counts and column.iloc[0] in (0, 1):
            said.append("the first column, which numbers the rows, left out")
        elif called:
            continue
        else:
            raise ValueError(f"{path}{place}: column {i + 1} has no heading; give it one, or remove it")
        left.append(name)
    return cells.drop(columns=left)
