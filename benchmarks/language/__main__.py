"""What memory does for language, in models of equal parameters and tokens: `python -m benchmarks.language`.

    python -m benchmarks.language --corpus code --cases swa-conv,mag,lmm,deltanet --seeds 0,1 --workers 2
    python -m benchmarks.language --cases mag,mag:model.backbone.memory.heads=4:model.backbone.persistent=0
    python -m benchmarks.language --cases mag --name momentum -- --model.backbone.memory.momentum true

Every run is `python -m app fit` with conf/text_code.yaml, or a case's changes of it and as many blocks as bring it
nearest to the parameters of the YAML's own, then its best checkpoint reads long test documents. What has finished is
not run again. Options of `fit` stand behind a case's name, which they change alone, or behind `--`, where they change
all cases alike; those of the memory change no number of blocks of a control.
"""

import argparse
import re
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.language import delta_layers
from benchmarks.language.run import train_and_score
from benchmarks.shared.equal import layers_for
from benchmarks.shared.rows import Row, command_line, spread, write
from benchmarks.shared.runs import CONF, Run, finish, resolved, seeded

CONFIG = str(CONF / "text_code.yaml")
CASES = {
    "lmm": ["lmm"],
    "mac": ["mac"],
    "mag": ["mag"],
    "mal": ["mal"],
    "swa": ["swa", "--model.backbone.conv=0"],
    "swa-conv": ["swa"],
    "attention": ["attention"],
    "deltanet": ["benchmarks.language.delta_layers.DeltaNet"],
    "deltanet-induction": ["benchmarks.language.delta_layers.InductionDeltaNet"],
    "gated-deltanet": ["benchmarks.language.delta_layers.GatedDeltaNet"],
    "kda": ["benchmarks.language.delta_layers.KimiDeltaAttention"],
}
PEERS = ("deltanet", "deltanet-induction", "gated-deltanet", "kda")
WITH_WINDOW = ("mac", "mag", "mal")  # of which one must be better than attention of the same window
MEMORIES = ("lmm", *WITH_WINDOW)
VALIDATIONS = 4
DIFFERENCES = {  # of two figures, with bounds of a memory
    "carried, 4K-16K less 1K-4K": ("carried at 4K-16K", "carried at 1K-4K", "<= -0.02", "<= -0.05"),
    "carried less reset, 4K-16K": ("carried at 4K-16K", "reset at 4K-16K", "<= -0.02", "<= -0.05"),
    "carried less reset, settled, 4K-16K": ("carried settled at 4K-16K", "reset settled at 4K-16K", "", ""),
    "carried less reset, far repeats": ("carried on far repeats", "reset on far repeats", "<= -0.3", "<= -1.0"),
}
Results = dict[str, list[dict[str, Any]]]  # of each case, one per seed


def runs_of(corpus: str, case: str, given: argparse.Namespace, more: list[str]) -> list[Run]:
    """The runs of one case on one corpus, one per seed."""
    variant, *changes = CASES[base(case)]
    shared = ["--config", CONFIG, f"--data.corpus={corpus}", "--data.source=file"]
    if given.steps:
        every = max(given.steps // VALIDATIONS, 1)
        shared += [f"--trainer.max_steps={given.steps}", f"--trainer.val_check_interval={every}"]
    changes = [f"--model.backbone.variant={variant}", *changes, *(f"--{change}" for change in case.split(":")[1:])]
    measure = [option for option in more if not option.startswith("--model.backbone.memory.")]
    own = resolved([*shared, *measure])["model"]["backbone"]
    other = resolved([*shared, *changes, *more])["model"]["backbone"]
    layers = f"--model.backbone.layers={layers_for(own, other)}"
    label = f"language_{label_of(corpus)}_" + re.sub(r"[^\w.=-]", "_", case)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    runs = seeded(label, [*shared, *changes, layers, *more], max(seeds) + 1)
    return [runs[seed] for seed in seeds]


def base(case: str) -> str:
    """The case of CASES that a case is, or is a change of."""
    return case.partition(":")[0]


def label_of(corpus: str) -> str:
    """Its name, or that of its folder."""
    return corpus.rstrip("/").rpartition("/")[2]


def joined(options: list[str]) -> list[str]:
    """Options as `--key=value`, each one word."""
    words: list[str] = []
    for option in options:
        if option.startswith("--") or not words:
            words.append(option)
        else:
            words[-1] += f"={option}"
    return words


def figures(result: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Every figure of a run by its name, with a note of what it is a mean of."""
    found = {"validation": (result["validation"], "")}
    found |= {name: (value, f"mean of {count:,} tokens") for name, (value, count) in result["figures"].items()}
    for name, (one, other, *_) in DIFFERENCES.items():
        if one in found and other in found:
            found[name] = (found[one][0] - found[other][0], found[one][1])
    found["gradient norm after warm-up, largest / median"] = (result["spike"], "")
    return found


def bounds(corpus: str, case: str, name: str, means: dict[str, dict[str, float]]) -> tuple[str, str]:
    """Must and aim of a figure; those of losses follow from the controls'.

    Args:
        corpus: its label.
        case: whose figure it is.
        name: of the figure.
        means: of every figure of every case.
    """
    if base(case) not in MEMORIES:
        return "", ""
    if name in DIFFERENCES:
        return DIFFERENCES[name][2:]
    if name.startswith("gradient norm"):
        return "<= 5", "<= 3"
    rival = next((means[control] for control in ("swa-conv", "swa") if control in means), None)
    if name == "carried on far repeats" and rival:
        return "", f"<= {rival['cache on far repeats']:.4f}"
    if name != "validation":
        return "", ""
    if base(case) == "lmm" and corpus == "code" and "deltanet" in means:
        return f"<= {means['deltanet'][name]:.4f}", f"<= {means['deltanet'][name] - 0.1:.4f}"
    best = min((of[name] for other, of in means.items() if base(other) in WITH_WINDOW), default=None)
    if base(case) in WITH_WINDOW and means[case][name] == best and "swa-conv" in means:
        return f"<= {rival[name] - 0.05:.4f}", f"<= {rival[name] - 0.15:.4f}"
    return "", ""


def averages(by_seed: list[dict[str, tuple[float, str]]]) -> dict[str, float]:
    """Means over seeds of the figures that all of them have."""
    names = [name for name in by_seed[0] if all(name in of for of in by_seed)]
    return {name: mean(of[name][0] for of in by_seed) for name in names}


def rows_of(corpus: str, results: Results) -> list[Row]:
    """Every figure of every case on one corpus."""
    by_case = {case: [figures(result) for result in several] for case, several in results.items()}
    means = {case: averages(by_seed) for case, by_seed in by_case.items()}
    rows = []
    for case, by_seed in by_case.items():
        several = results[case]
        first = several[0]
        size = f"{first['layers']} blocks, {first['parameters']:,} parameters, {first['tokens']:,} training tokens"
        for name in means[case]:
            note = by_seed[0][name][1]
            must, aim = bounds(corpus, case, name, means)
            rows.append(
                Row(
                    metric=f"{corpus} {case}: {name}",
                    value=means[case][name],
                    spread=spread([of[name][0] for of in by_seed]),
                    unit="" if name.startswith("gradient") else "nats",
                    must=must,
                    aim=aim,
                    seeds=[result["config"]["seed_everything"] for result in several],
                    device=first["device"],
                    command=command_line("language"),
                    commit=first["versions"]["commit"],
                    note=f"{size}, {note}".removesuffix(", "),
                )
            )
    return rows


def show(corpus: str, results: Results) -> None:
    """One line per figure, one column per case, means over seeds."""
    table = Table(corpus, *results, title="equal tokens, nearly equal parameters; nats")
    firsts = [several[0] for several in results.values()]
    table.add_row("blocks", *(str(first["layers"]) for first in firsts))
    table.add_row("parameters", *(f"{first['parameters']:,}" for first in firsts))
    means = [averages([figures(result) for result in several]) for several in results.values()]
    for name in {name: None for of in means for name in of}:
        digits = ".2f" if name.startswith("gradient") else ".4f"
        table.add_row(name, *(f"{of[name]:{digits}}" if name in of else "" for of in means))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.language", description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="code,novels", help="separated by commas (%(default)s)")
    cases = "separated by commas, each perhaps with changes of its own, CASE:key=value:... (%(default)s)"
    parser.add_argument("--cases", default=",".join(CASES), help=cases)
    parser.add_argument("--steps", type=int, help="of every run (those of the YAML)")
    parser.add_argument("--seeds", default="0", help="separated by commas (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time on one device (%(default)s)")
    parser.add_argument("--name", default="language", help="of the results (%(default)s)")
    parser.add_argument("more", nargs="*", help="behind --: options of `fit` for all cases, in place of the YAML's")
    given = parser.parse_args()
    corpora, cases, more = given.corpus.split(","), given.cases.split(","), joined(given.more)
    if unknown := [case for case in cases if base(case) not in CASES]:
        parser.error(f"there is no case {', '.join(unknown)}; choose from {', '.join(CASES)}")
    if (reason := delta_layers.missing()) and (out := [case for case in cases if base(case) in PEERS]):
        print(f"left out: {', '.join(out)} of flash-linear-attention ({reason})")
        cases = [case for case in cases if base(case) not in PEERS]
    keys = {run: (corpus, case) for corpus in corpora for case in cases for run in runs_of(corpus, case, given, more)}
    found: dict[str, Results] = {}
    finished: dict[Run, dict[str, Any]] = {}
    for run, result in finish([*keys], given.workers, train_and_score):
        finished[run] = result
        found = {}
        for done in (key for key in keys if key in finished):  # in the order that was asked for
            corpus, case = keys[done]
            found.setdefault(label_of(corpus), {}).setdefault(case, []).append(finished[done])
        write("language", given.name, [row for corpus, results in found.items() for row in rows_of(corpus, results)])
    for corpus, results in found.items():
        show(corpus, results)


if __name__ == "__main__":
    main()
