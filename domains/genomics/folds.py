"""Cross-validation and seeds: one model for each fold and seed, and the mean and spread of their scores."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from app.errors import UserError, user_errors
from app.results import print_scores, write_results
from app.runs import version


@user_errors()
def folds(arguments: argparse.Namespace) -> None:
    """Train and test a model for every fold and seed; what is finished already is not done again."""
    if arguments.ckpt is not None:
        raise UserError("folds trains models of its own; leave --ckpt out")
    found = {}
    for fold, seed in ((fold, seed) for fold in range(arguments.folds) for seed in range(arguments.seeds)):
        name = f"fold{fold}_seed{seed}"
        if (results := _finished(arguments.output / name, arguments.keys)) is None:
            results = _run(arguments, fold, seed, name)
        found[name] = {metric.removeprefix("test/"): value for metric, value in results["metrics"].items()}
        # after every run: what is there already can be looked at while the others train
        path = write_results(arguments.output, {"command": arguments.command, **summary(found)}, "folds.json")
    told = summary(found)["metrics"]
    print_scores(
        f"folds: {arguments.folds}, seeds: {arguments.seeds}",
        {
            "mean": {name: values["mean"] for name, values in told.items()},
            "spread": {name: values["spread"] for name, values in told.items()},
        },
    )
    print(f"results: {path}")


def summary(found: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Mean, spread (standard deviation; 0 of a single run) and all values of each metric that every run has."""
    metrics = {}
    for name in next(iter(found.values())):
        values = [scores[name] for scores in found.values() if scores.get(name) is not None]
        if len(values) == len(found):
            spread = stdev(values) if len(values) > 1 else 0.0
            metrics[name] = {"mean": mean(values), "spread": spread, "values": values}
    return {"runs": list(found), "metrics": metrics}


def _run(arguments: argparse.Namespace, fold: int, seed: int, name: str) -> dict[str, Any]:
    """Fit and test one model, each in a process of its own; their results."""
    print(f"{name}: fold {fold + 1} of {arguments.folds}, seed {seed}", flush=True)
    own = {"seed_everything": seed, "trainer.logger.save_dir": arguments.output, "trainer.logger.name": name}
    own |= {"data.folds": arguments.folds, "data.fold": fold} if arguments.folds > 1 else {}
    words = [*arguments.keys, *(f"--{key}={value}" for key, value in own.items())]
    for verb in ("fit", "test"):
        if code := command([verb, *words]):
            raise UserError(
                f"{name}: `{verb}` above ended with {code}; mend it, and the same command goes on from here"
            )
    folder = max(_versions(arguments.output / name), key=version)
    (folder / "keys.json").write_text(json.dumps(arguments.keys))
    return json.loads((folder / "results.json").read_text())


def command(words: list[str]) -> int:
    """Exit code of `python -m app` with these words."""
    return subprocess.run([sys.executable, "-m", "app", *words], check=False).returncode


def _finished(root: Path, keys: list[str]) -> dict[str, Any] | None:
    """Results of the newest run below a folder, if it was tested and its command had the same keys."""
    for folder in sorted(_versions(root), key=version, reverse=True):
        said = folder / "keys.json"
        if said.is_file() and json.loads(said.read_text()) == keys:
            return json.loads((folder / "results.json").read_text())
    return None


def _versions(root: Path) -> Iterator[Path]:
    return (path for path in root.glob("version_*") if version(path) is not None)
