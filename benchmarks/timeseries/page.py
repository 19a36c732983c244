"""A page of the forecaster's scores: a table for each set and look-back, with simple and published ones beside ours."""

import re
from collections.abc import Iterable

from benchmarks.shared.forecasts import METRICS
from benchmarks.shared.rows import Row, table
from domains.timeseries.published import HORIZONS, published_means, published_scores
from memory.config import CONTROLS

INTRODUCTION = """Scaled values, every test window, checkpoints chosen on validation; means ± standard deviation over
seeds. Published scores marked `tail dropped` left test windows out; at look-backs other than 96, published averages are
of a longer or a searched one."""
METRIC = re.compile(rf"(\S+) (\d+)/(\d+|average) (.+) test ({'|'.join(METRICS)})")
RUN = re.compile(
    r"loss (?P<loss>\w+), (?P<parameters>\d+) parameters, validation (?P<validation>\S+), (?P<seconds>\d+) s"
)

Scores = dict[int | str, dict[str, float]]  # MSE and MAE by horizon, and of `average`
Cells = dict[int | str, dict[str, Row]]  # the same as rows


def page(rows: list[Row]) -> str:
    """Markdown of all sets and look-backs."""
    tasks: dict[tuple[str, int], dict[str, Cells]] = {}
    for row in rows:
        dataset, look_back, column, model, name = METRIC.fullmatch(row.metric).groups()
        column = column if column == "average" else int(column)
        models = tasks.setdefault((dataset, int(look_back)), {})
        models.setdefault(model, {}).setdefault(column, {})[name] = row
    commands = "\n\n".join(f"`{command}`" for command in dict.fromkeys(row.command for row in rows))
    parts = [_part(dataset, look_back, models) for (dataset, look_back), models in tasks.items()]
    return "\n\n".join(["# Forecasting", commands, INTRODUCTION, *parts])


def published(dataset: str, look_back: int, horizons: Iterable[int]) -> dict[str, Scores]:
    """Published scores by model, best average first; our own linear map, measured anew beside them, is left out.

    Averages are those at look-back 96 or, for any other look-back, those at a longer or a searched one.
    """
    means = published_means(dataset, look_back)
    best_first = sorted(means, key=lambda model: means[model]["mse"])
    scores: dict[str, Scores] = {model: {"average": means[model]} for model in best_first}
    for horizon in horizons:
        for model, score in published_scores(dataset, look_back, horizon).items():
            scores.setdefault(model, {})[horizon] = score
    return {f"{model}, published": score for model, score in scores.items() if not model.startswith("linear")}


def _part(dataset: str, look_back: int, models: dict[str, Cells]) -> str:
    """One set at one look-back, a column for each horizon."""
    present = {column for cells in models.values() for column in cells}
    horizons = [horizon for horizon in HORIZONS if horizon in present]
    horizons += sorted(present - {*HORIZONS, "average"})
    lines: dict[str, dict[int | str, str]] = {}
    notes: list[str] = []
    for model, cells in models.items():
        whole = [row for scores in cells.values() for row in scores.values()]
        if not whole[0].seeds:  # a simple forecast
            lines[model] = {column: _pair(scores, ".3f") for column, scores in cells.items()}
            continue
        kind = "Control" if model in CONTROLS else "Titans memory"
        lines[f"**{kind} ({model})**"] = {column: _pair(scores, ".4f") for column, scores in cells.items()}
        runs = {h: RUN.search(scores["mse"].note) for h, scores in cells.items() if h != "average"}
        lines["parameters"] = {h: f"{int(run['parameters']):,}" for h, run in runs.items()}
        lines["seconds of training"] = {h: run["seconds"] for h, run in runs.items()}
        lines["validation MSE"] = {h: run["validation"] for h, run in runs.items()}
        notes += sorted({f"Loss {run['loss']}" for run in runs.values()})
        notes += dict.fromkeys(row.device for row in whole)
        commits = ", ".join(str(row.commit) for row in whole)
        notes += [f"commit {', '.join(dict.fromkeys(commits.split(', ')))}"]
        for horizon, scores in cells.items():
            _, lacking, why = scores["mse"].note.partition(", PARTIAL: ")
            notes += [f"**PARTIAL** at {horizon}: {why}"] if lacking else []
    for model, scores in published(dataset, look_back, horizons).items():
        lines[model] = {h: " / ".join(f"{score[name]:.3f}" for name in METRICS) for h, score in scores.items()}
    columns = [*horizons, "average"]
    body = [[model, *(cells.get(column, "") for column in columns)] for model, cells in lines.items()]
    text = table([["MSE / MAE", *map(str, columns)], *body])
    return f"## {dataset}, look-back {look_back}\n\n{'; '.join(notes)}.\n\n{text}"


def _pair(scores: dict[str, Row], digits: str) -> str:
    cells = []
    for name in METRICS:
        row = scores[name]
        cells.append(f"{row.value:{digits}}" + ("" if row.spread is None else f" ± {row.spread:{digits}}"))
    return " / ".join(cells)
