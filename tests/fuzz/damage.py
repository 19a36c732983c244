"""What happens to files on their way: hypothesis strategies that damage bytes, lines, columns and JSON."""

import codecs
import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

# what stands in a cell, a header or a name where something else should
HOSTILE = (
    "", " ", "nan", "NaN", "NA", "inf", "-inf", "1e400", "-1e400", "1e39", "-1", "0", "007", "1,5", "1.5.5", "0x1F",
    "1_000", "True", "None", "abc", "9" * 19, "9" * 40, "-" + "9" * 19, '"', "'", '""', "\0", "\t", "\r", "#", ";", "|",
    ">", "@", "\ufeff", "\u00e9", "\u0661\u0662", "\U0001f9ec", "\ud800", "\u2028", "1970-01-01", "2024-13-45",
    "0001-01-01", "9999-12-31", "2024-01-01T00:00:00+14:00", "x" * 300,
)  # fmt: skip
VALUES = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**40, 0.5, -1.0, 1e308, float("inf"), float("nan"), "", "x",
    "nan", "\ud800", "a" * 300, [], [[]], [None], [1, "x"], {}, {"": None}, {"text": []},
)  # fmt: skip

Draw = Callable[[st.SearchStrategy], Any]


def _place(draw: Draw, data: bytes) -> int:
    return draw(st.integers(0, max(len(data) - 1, 0)))


def flipped(draw: Draw, data: bytes) -> bytes:
    """One bit is another."""
    at = _place(draw, data)
    bit = draw(st.integers(0, 7))
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] if data else data


def overwritten(draw: Draw, data: bytes) -> bytes:
    """A few bytes are others."""
    at = _place(draw, data)
    new = draw(st.binary(min_size=1, max_size=4))
    return data[:at] + new + data[at + len(new) :]


def inserted(draw: Draw, data: bytes) -> bytes:
    """A few bytes stand between."""
    at = _place(draw, data)
    return data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at:]


def cut(draw: Draw, data: bytes) -> bytes:
    """The end is missing, or all."""
    return data[: _place(draw, data)]


def dropped(draw: Draw, data: bytes) -> bytes:
    """A stretch is missing."""
    at = _place(draw, data)
    return data[:at] + data[at + draw(st.integers(1, 64)) :]


def zeroed(draw: Draw, data: bytes) -> bytes:
    """A stretch was never written: a sparse file after a crash."""
    at = _place(draw, data)
    size = min(draw(st.sampled_from((1, 8, 64, 512))), len(data) - at)
    return data[:at] + bytes(size) + data[at + size :]


def repeated(draw: Draw, data: bytes) -> bytes:
    """A stretch stands twice."""
    at = _place(draw, data)
    size = draw(st.integers(1, 64))
    return data[: at + size] + data[at:]


BYTES = (flipped, overwritten, inserted, cut, dropped, zeroed, repeated)


def _lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def line_dropped(draw: Draw, data: bytes) -> bytes:
    """A line is missing."""
    lines = _lines(data)
    at = _place(draw, lines)
    return b"".join(lines[:at] + lines[at + 1 :])


def line_doubled(draw: Draw, data: bytes) -> bytes:
    """A line stands twice."""
    lines = _lines(data)
    at = _place(draw, lines)
    return b"".join(lines[: at + 1] + lines[at:])


def lines_swapped(draw: Draw, data: bytes) -> bytes:
    """Two lines stand in each other's place."""
    lines = _lines(data)
    if lines:
        a, b = _place(draw, lines), _place(draw, lines)
        lines[a], lines[b] = lines[b], lines[a]
    return b"".join(lines)


def line_joined(draw: Draw, data: bytes) -> bytes:
    """A line break is missing."""
    lines = _lines(data)
    at = _place(draw, lines)
    return b"".join([*lines[:at], *(line.rstrip(b"\r\n") for line in lines[at : at + 1]), *lines[at + 1 :]])


def line_hostile(draw: Draw, data: bytes) -> bytes:
    """A line of something else."""
    lines = _lines(data)
    at = _place(draw, lines)
    new = draw(st.sampled_from(HOSTILE)).encode("utf-8", "surrogatepass")
    return b"".join([*lines[:at], new + b"\n", *lines[at:]])


def recoded(draw: Draw, data: bytes) -> bytes:
    """Saved by a program with other habits: another encoding, a byte order mark, other line ends."""
    text = data.decode("utf-8", "replace")
    return draw(
        st.sampled_from(
            (
                text.encode("utf-16"),
                text.encode("latin-1", "replace"),
                codecs.BOM_UTF8 + data,
                data.replace(b"\n", b"\r\n"),
                data.replace(b"\n", b"\r"),
                data.replace(b"\n", b"\n\n"),
                data.rstrip(b"\n"),
                data.upper(),
                data.lower(),
            )
        )
    )


def resaved(draw: Draw, data: bytes) -> bytes:
    """Saved by hand: put behind itself, with a remark, an end mark, other blanks or digits, or every line in quotes."""
    text = data.decode("utf-8", "replace")
    return draw(
        st.sampled_from(
            (
                data + data,
                b"# made by hand\n" + data,
                data + b"\x1a",
                data.replace(b"\n", b" \n"),
                text.replace(" ", "\u00a0").encode(),
                text.translate({ord("0") + digit: 0xFF10 + digit for digit in range(10)}).encode(),
                b"".join(b'"%s"\n' % line for line in data.splitlines()),
            )
        )
    )


LINES = (line_dropped, line_doubled, lines_swapped, line_joined, line_hostile, recoded, resaved)


def cells(separator: bytes) -> tuple[Callable[[Draw, bytes], bytes], ...]:
    """Damages to a table whose columns `separator` parts."""

    def rows(data: bytes) -> list[list[bytes]]:
        return [line.rstrip(b"\r\n").split(separator) for line in data.splitlines()]

    def table(rows: list[list[bytes]]) -> bytes:
        return b"".join(separator.join(row) + b"\n" for row in rows)

    def cell_hostile(draw: Draw, data: bytes) -> bytes:
        """A cell holds something else."""
        found = rows(data)
        if not found:
            return data
        row = found[_place(draw, found)]
        row[_place(draw, row)] = draw(st.sampled_from(HOSTILE)).encode("utf-8", "surrogatepass")
        return table(found)

    def cell_dropped(draw: Draw, data: bytes) -> bytes:
        """A row, or the header, is one cell short."""
        found = rows(data)
        if found:
            row = found[0] if draw(st.booleans()) else found[_place(draw, found)]
            del row[_place(draw, row)]
        return table(found)

    def cell_doubled(draw: Draw, data: bytes) -> bytes:
        """A row, or the header, is one cell long."""
        found = rows(data)
        if found:
            row = found[0] if draw(st.booleans()) else found[_place(draw, found)]
            at = _place(draw, row)
            row.insert(at, row[at])
        return table(found)

    def column_dropped(draw: Draw, data: bytes) -> bytes:
        """A column is missing."""
        found = rows(data)
        at = draw(st.integers(0, 5))
        return table([row[:at] + row[at + 1 :] for row in found])

    def column_doubled(draw: Draw, data: bytes) -> bytes:
        """A column stands twice, under one name."""
        found = rows(data)
        at = draw(st.integers(0, 5))
        return table([row[: at + 1] + row[at:] for row in found])

    def column_of(draw: Draw, data: bytes) -> bytes:
        """A column holds one other thing in every row."""
        found = rows(data)
        at = draw(st.integers(0, 5))
        new = draw(st.sampled_from(HOSTILE)).encode("utf-8", "surrogatepass")
        return table([row[:at] + [new] + row[at + 1 :] if i and at < len(row) else row for i, row in enumerate(found)])

    def separated(draw: Draw, data: bytes) -> bytes:
        """Other characters part the columns."""
        return data.replace(separator, draw(st.sampled_from((b";", b"\t", b" ", b"|", b", "))))

    return cell_hostile, cell_dropped, cell_doubled, column_dropped, column_doubled, column_of, separated


@st.composite
def damaged(draw: Draw, base: bytes, kinds: tuple[Callable[[Draw, bytes], bytes], ...], most: int = 2) -> bytes:
    """`base` after one to `most` damages of `kinds`."""
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=most)):
        base = kind(draw, base)
    return base


def _nodes(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths of all values inside a tree of dicts and lists."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return [path, *(found for key, part in inside for found in _nodes(part, (*path, key)))]


@st.composite
def damaged_tree(draw: Draw, base: Any, values: tuple = VALUES, most: int = 2) -> Any:
    """A tree of dicts and lists with one to `most` of its values replaced, dropped, renamed or put in twice."""
    tree = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(_nodes(tree)))
        how = draw(st.sampled_from(("replaced", "replaced", "replaced", "dropped", "added")))
        value = draw(st.sampled_from(values))
        if not path:
            tree = copy.deepcopy(value) if how == "replaced" else tree
            continue
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        if isinstance(parent, tuple):
            continue
        if how == "replaced":
            parent[path[-1]] = copy.deepcopy(value)
        elif how == "dropped":
            del parent[path[-1]]
        elif isinstance(parent, dict):
            parent[f"{path[-1]}_"] = copy.deepcopy(value)
        else:
            parent.insert(path[-1], copy.deepcopy(value))
    return tree


def as_json(tree: Any) -> bytes:
    """A tree as JSON, with what JSON has no word for as Python writes it."""
    return json.dumps(tree, default=str).encode("utf-8", "surrogatepass")
