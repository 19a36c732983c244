"""The page of the language benchmark: one table a corpus, figures down, models across."""

import re

from benchmarks.shared.rows import Row, number, table

METRIC = re.compile(r"(?P<corpus>\S+) (?P<case>.+?): (?P<figure>.+)")


def page(rows: list[Row]) -> str:
    """Every figure of every model in nats a token; seeds, device and commit of each model stand below its column."""
    corpora: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        found = METRIC.fullmatch(row.metric)
        if found is None:
            raise ValueError(f"not a row of the language benchmark: {row.metric}")
        cases = corpora.setdefault(found["corpus"], {})
        cases.setdefault(found["case"], {})[found["figure"]] = row
    return "\n".join(_table(corpus, cases) for corpus, cases in corpora.items())


def _table(corpus: str, cases: dict[str, dict[str, Row]]) -> str:
    figures = list(dict.fromkeys(figure for rows in cases.values() for figure in rows))
    lines = [["nats a token", *cases]]
    for figure in figures:
        lines.append([figure, *(number(rows[figure]) if figure in rows else "" for rows in cases.values())])
    notes = ""
    for case, rows in cases.items():
        row = next(iter(rows.values()))
        seeds = ", ".join(map(str, row.seeds))
        where = f"{row.device}, {row.date}, commit {str(row.commit)[:7]}"
        notes += f"- `{case}`: {row.note}; seeds {seeds}; {where}: `{row.command}`\n"
    return f"## {corpus}\n\n{table(lines)}\n{notes}"
