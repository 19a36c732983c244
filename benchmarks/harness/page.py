"""A page of a checkpoint's columns of the paper's Table 1, above the published lines."""

from statistics import mean

from benchmarks.shared.rows import Row, table
from domains.text.published import COLUMNS, published_scores

PUBLISHED = """
Published: arXiv 2501.00663, Table 1, trained on FineWeb-Edu with the Llama-2 tokenizer; `average` is that of the eight
accuracies shown. A model of other data, tokens or size is not comparable. Guessing gives about 50 in PIQA and
WinoGrande, 25 in HellaSwag and ARC, 33 in SIQA; always `yes` gives 62 in BoolQ.
"""


def table_row(rows: list[Row]) -> dict[str, float]:
    """Values by column of Table 1, as far as they were measured."""
    measured = {row.metric.rpartition(" ")[0]: row.value for row in rows}
    return {column: measured[column] for column in COLUMNS if column in measured}


def average(scores: dict[str, float]) -> float:
    """Mean of the accuracies of a line of Table 1."""
    return mean(value for column, value in scores.items() if not column.endswith("ppl"))


def page(rows: list[Row]) -> str:
    """Markdown: ours above the published lines of Table 1, then every metric."""
    ours, first = table_row(rows), rows[0]
    variant = first.metric.rpartition(" ")[2]
    lines = {f"**{variant}, {first.note.rpartition('; ')[2]}**": ours, **published_scores()} if ours else {}
    text = f"Zero-shot, `{first.command}`, {first.device}, {first.date} at {first.commit}.\n\n"
    if lines:
        body = []
        for model, scores in lines.items():
            cells = [f"{scores[column]:.2f}" if column in scores else "" for column in COLUMNS]
            body.append([model, *cells, f"{average(scores):.2f}" if len(scores) == len(COLUMNS) else ""])
        text += table([["model", *COLUMNS, "average"], *body]) + PUBLISHED
    measured = [[row.metric, f"{row.value:.4g}", row.unit, row.note] for row in rows]
    return text + "\n" + table([["measured", "value", "unit", "note"], *measured])
