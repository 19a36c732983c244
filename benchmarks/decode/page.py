"""A page of the decoding benchmark's rows."""

import re
from dataclasses import replace

from benchmarks.shared.rows import Row, by_place, markdown, number, table

SPEED, MEMORY = "tokens per second", "memory"
TIMES, FLAT = "times attention's tokens per second", "memory beside that of the shortest context"
STREAMS, TIMES_ONE = "streams", "streams beside one"
EQUAL = "streams, share that is bit-equal alone in the same engine"
EQUAL_SINGLE = "streams, share that is bit-equal in an engine of one row"
TITLES = {
    SPEED: "Tokens per second, all rows together",
    TIMES: "Times attention's",
    MEMORY: "Memory held, GiB",
}
METRIC = re.compile(r"(?P<variant>\S+), batch (?P<batch>\d+), context (?P<context>\d+): (?P<measure>.+)")


def where(variant: str, batch: int, context: int, measure: str) -> str:
    """The metric of a row."""
    return f"{variant}, batch {batch}, context {context}: {measure}"


def page(rows: list[Row]) -> str:
    """Markdown: a table of each measure, variants by batch and context, then what the server does."""
    text = f"{', '.join(sorted({row.device for row in rows}))}; "
    text += ", ".join(sorted({f"`{row.command}`, {row.date} at {row.commit}" for row in rows})) + ".\n"
    shown: list[Row] = []
    for measure, title in TITLES.items():
        cells = by_place(rows, METRIC, measure)
        shown += [row for found in cells.values() for row in found.values()]
        places = sorted({place for found in cells.values() for place in found})
        lines = [["", *(f"{batch} x {context:,}" for batch, context in places)]]
        for variant, found in cells.items():
            lines.append([variant, *(_cell(found.get(place)) for place in places)])
        if cells:
            text += f"\n## {title}\n\nBatch x context.\n\n{table(lines)}"
    others = [row for row in rows if row not in shown]
    return text + f"\n## Streams, and memory over contexts\n\n{markdown(others)}" if others else text


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return row.note if row.value != row.value else number(replace(row, spread=None))
