"""What the memory and EinFFT are worth in the forecaster: `python -m benchmarks.ablation --sets ETTh1 --horizons 96`.

One shell, at equal parameters, with {memory, no momentum, no forgetting, linear memory, attention, GRU, identity} in
the memory's place and EinFFT on or off. Every checkpoint is chosen on validation. Options of `python -m app fit` may
follow and change all runs alike, e.g. `--model.head.patch 2 --model.head.stride 2`; give such a study a --name.
"""

from argparse import Namespace
from itertools import product
from typing import get_args

from benchmarks.ablation.controls import Kind
from benchmarks.shared.forecasts import arguments, cell_rows, growing, results_name, task
from benchmarks.shared.rows import command_line, write
from benchmarks.shared.runs import Run, seeded


def cell(given: Namespace, dataset: str, horizon: str, kind: str, mixing: str, more: list[str]) -> list[Run]:
    """The runs of one model on one task."""
    control = ["--trainer.callbacks+=benchmarks.ablation.controls.ReplaceMixers", f"--trainer.callbacks.kind={kind}"]
    options = [*task(dataset, horizon, given.long), "--model.head.channel_mixing", mixing, *control, *more]
    return seeded("_".join(["ablation", dataset, horizon, kind.replace(" ", "-"), mixing]), options, given.seeds)


def main() -> None:
    parser = arguments("ablation", __doc__, "--sets", "--long")
    parser.add_argument("--kinds", default=",".join(get_args(Kind)), help="what takes the memory's place (%(default)s)")
    given, more = parser.parse_known_args()
    keys = product(given.sets.split(","), given.horizons.split(","), given.kinds.split(","), ("einfft", "none"))
    for cells in growing({key: cell(given, *key, more) for key in keys}, given.workers):
        rows = []
        for (dataset, horizon, kind, mixing), results in cells.items():
            look_back, switch = results[0]["data"]["look_back"], "on" if mixing == "einfft" else "off"
            label = f"{dataset} {look_back}/{horizon} {kind}, EinFFT {switch},"
            rows += cell_rows(label, results, given.seeds, {}, command_line("ablation"))
        write("ablation", results_name("ablation", given), rows)


if __name__ == "__main__":
    main()
