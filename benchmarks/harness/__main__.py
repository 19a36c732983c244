"""A checkpoint's columns of the paper's Table 1: `python -m benchmarks.harness --ckpt FILE --data FOLDER`.

Zero-shot scores of lm-evaluation-harness on the nine sets: read from files in --data, with this project's task files
(benchmarks/harness/tasks), or, without --data, downloaded and asked by the harness itself. Without --data, --tasks may
also name any other task of the harness.
"""

import argparse
import logging
import math
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from app.door import respelled
from app.errors import UserError, is_for_user
from app.module import TitansModule, load_module
from app.versions import device_name
from benchmarks.harness.page import average, page, table_row
from benchmarks.harness.sets import STARTS, find, task
from benchmarks.shared.rows import Row, command_line, write
from domains.text import LanguageHead
from domains.text.published import COLUMNS

SOURCES = {  # of each column: the harness's name of the set, and its metric
    "Wiki ppl": ("wikitext", "word_perplexity"),
    "LMB ppl": ("lambada_openai", "perplexity"),
    "LMB": ("lambada_openai", "acc"),
    "PIQA": ("piqa", "acc"),
    "HellaSwag": ("hellaswag", "acc_norm"),
    "WinoGrande": ("winogrande", "acc"),
    "ARC-e": ("arc_easy", "acc"),
    "ARC-c": ("arc_challenge", "acc_norm"),
    "SIQA": ("social_iqa", "acc"),
    "BoolQ": ("boolq", "acc"),
}
SHARES = ("acc", "acc_norm", "exact_match")  # of samples that are right, told in per cent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harness", description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--tasks", default=",".join(STARTS), help="the harness's names (%(default)s)")
    parser.add_argument("--data", type=Path, help="folder with a file of each set; without, the harness downloads them")
    parser.add_argument("--batch_size", type=int, default=32, help="texts at a time (%(default)s)")
    parser.add_argument("--limit", type=int, help="ask only the first rows of each set, to try it out")
    parser.add_argument("--name", default="harness", help="of the results (%(default)s)")
    given = parser.parse_args(respelled(sys.argv[1:], {}))
    try:
        evaluate(given)
    except Exception as error:
        if not is_for_user(error):
            raise
        raise SystemExit(f"error: {error}") from error


def evaluate(given: argparse.Namespace) -> None:
    """Ask the checkpoint and write the results."""
    if find_spec("lm_eval") is None:
        raise UserError("lm-evaluation-harness is not installed: pip install -e '.[harness]'")
    specs = [given_task(name, given.data) for name in given.tasks.split(",")]
    module = load_module(given.ckpt)
    if not isinstance(module.head, LanguageHead):
        raise UserError(f"{given.ckpt} holds a {type(module.head).__name__}, which is no language model")
    rows = rows_of(scores(module, specs, given.batch_size, given.limit), module, given)
    write("harness", given.name, rows)
    print(page(rows))


def given_task(name: str, folder: Path | None) -> str | dict[str, Any]:
    """What the harness is told of a task: its own name, or our task file with the user's rows."""
    if folder is None:
        return name
    if name not in STARTS:
        raise UserError(f"{name} is not read from files, but {', '.join(STARTS)} are; leave out --data to download it")
    return task(name, find(folder, name))


def scores(
    module: TitansModule, specs: list[str | dict[str, Any]], batch: int, limit: int | None
) -> dict[str, dict[str, Any]]:
    """The harness's results by task: `METRIC,FILTER` and `samples`.

    Raises:
        UserError: a task is unknown to the harness, or its data cannot be had.
    """
    import lm_eval  # slow to import: not for --help
    from lm_eval.tasks import TaskManager

    from benchmarks.harness.model import TitansLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_defaults=any(isinstance(spec, str) for spec in specs))
    try:
        tasks = manager.load(specs)
    except (KeyError, ValueError, OSError) as error:
        raise UserError(f"the harness cannot load {specs} ({error}); without a network, give --data FOLDER") from error
    found = lm_eval.evaluate(TitansLM(module, batch), tasks, limit=limit, log_samples=False, bootstrap_iters=0)
    return {
        name: {**values, "samples": found["n-samples"][name]["effective"]} for name, values in found["results"].items()
    }


def rows_of(results: dict[str, dict[str, Any]], module: TitansModule, given: argparse.Namespace) -> list[Row]:
    """One row for every metric, those of Table 1 under its names, and their average if all eight are there."""
    columns = {source: column for column, source in SOURCES.items()}
    variant, rows = module.backbone.config.variant, []
    parameters = sum(parameter.numel() for parameter in module.parameters())
    size = f"{parameters:,} parameters, tokenizer {module.head.tokenizer_name}"

    def row(column: str, value: float, unit: str, note: str) -> Row:
        command = command_line("harness")
        device = device_name(module.device)
        return Row(f"{column} {variant}", value, None, unit, "", "", [], device, command, note=note)

    for name, values in results.items():
        samples = values["samples"]
        note = f"{samples:,} samples" + (" (the first only)" if given.limit else "")
        note += f" of {find(given.data, name).name}" if given.data else ""
        note += f"; {size}"
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr"):
                continue
            column = columns.get((name, metric), f"{name} {metric}")
            if metric in SHARES:
                error = 100 * math.sqrt(value * (1 - value) / max(samples - 1, 1))
                rows.append(row(column, 100 * value, "%", f"{metric}, {note}, standard error {error:.2f}"))
            else:
                rows.append(row(column, value, "bits" if metric == "bits_per_byte" else "", f"{metric}, {note}"))
    ours = table_row(rows)
    if set(COLUMNS) <= ours.keys():
        rows.append(row("average", average(ours), "%", f"mean of the eight accuracies; {size}"))
    return rows


if __name__ == "__main__":
    main()
