"""Train and test language models at equal parameters and tokens within a budget of minutes.

    python -m benchmarks.text --task shakespeare --minutes 5
    python -m benchmarks.text --task books --variants mac,mag,mal,attention,swa --minutes 28

Every run is `python -m app fit` and then `test`. First each variant's step is timed; the number of steps that lets all
of them finish within the budget is then the same for all. With `--steps N` nothing is timed first, and runs that have
finished are not run again. Each variant gets as many blocks as bring it nearest to the parameters of the YAML's own.
"""

import argparse
import json
from pathlib import Path
from time import perf_counter

import torch
from lightning import Callback, Trainer
from rich.console import Console
from rich.table import Table

from app.door import main as app
from app.runs import run_folder
from app.versions import git_commit
from benchmarks.shared.equal import layers_for
from benchmarks.shared.rows import Row, command_line, write
from benchmarks.shared.runs import CONF, FOLDER, digest, kept, resolved

VARIANTS = {"shakespeare": "mal,attention", "books": "mac,mag,mal,attention,swa"}
LENGTHS = {"shakespeare": [256], "books": [4096, 16384]}  # tokens of test windows; gates stand at the first
PROBE = (6, 18)  # steps between which a step is timed
CONTROLS = {"attention": 0.01, "swa": 0.0}  # nats that a memory may lie above each
VALIDATIONS = 8  # of a run, the last behind its last step
SHARE = 0.85  # of the budget that training may take; the rest is validation, test and start


class StepTime(Callback):
    """Seconds per training step, between the two steps of PROBE.

    Args:
        path: file that the number is written to.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step not in PROBE:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if trainer.global_step == PROBE[0]:
            self.start = perf_counter()
        else:
            self.path.write_text(str((perf_counter() - self.start) / (PROBE[1] - PROBE[0])))


def config(task: str) -> str:
    """The file that says how a task is trained."""
    return str(CONF / f"text_{task}.yaml")


def options(task: str, variant: str, layers: int, seed: int, extra: list[str]) -> list[str]:
    """The command line that fit and test share."""
    name = f"bench_{task}_{variant}"
    shared = ["--config", config(task), "--trainer.logger.name", name, "--seed_everything", str(seed)]
    return shared + ["--model.backbone.variant", variant, "--model.backbone.layers", str(layers), *extra]


def timed(path: Path) -> list[str]:
    """Options of `fit` that write the time of a training step in steady state to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    timer = {"class_path": "benchmarks.text.StepTime", "init_args": {"path": str(path)}}
    return [f"--trainer.callbacks+={json.dumps(timer)}"]


def seconds_per_step(command: list[str]) -> float:
    """Time of a training step, of a run that ends with it."""
    path = FOLDER / "step_time"
    quiet = ["--trainer.max_steps", str(PROBE[1]), "--trainer.limit_val_batches", "0", "--trainer.logger", "false"]
    quiet += ["--trainer.enable_checkpointing", "false", "--trainer.enable_progress_bar", "false"]
    app(["fit", *command, *quiet, *timed(path)])
    return float(path.read_text())


def train(command: list[str], task: str, steps: int, path: Path) -> dict:
    """Fit for `steps`, test the best checkpoint; the results.json of the first test, with the metrics of all.

    A finished run of the same configuration lies at `path`, and is not run again.
    """
    if found := kept(path, git_commit()):
        return found
    time = path.with_suffix(".time")
    fitted = app(["fit", *command, *timed(time)])
    best = fitted.trainer.checkpoint_callback.best_model_path
    results = []
    for length in LENGTHS[task]:
        tested = app(["test", *command, "--ckpt", best, "--data.eval_length", str(length)])
        results.append(json.loads((run_folder(tested.checkpoint) / "results.json").read_text()))
    data = results[0]["config"]["data"]["init_args"]
    metrics = {
        f"{name.removeprefix('test/')} at {length}": value
        for length, result in zip(LENGTHS[task], results, strict=True)
        for name, value in result["metrics"].items()
    }
    tokens = steps * data["batch_size"] * data["length"]
    seconds = float(time.read_text()) if time.is_file() else None  # a run may be too short to be timed
    found = {**results[0], "metrics": metrics, "tokens": tokens, "steps": steps, "step": seconds}
    path.write_text(json.dumps(found))
    time.unlink(missing_ok=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text", description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=VARIANTS, required=True)
    parser.add_argument("--variants", help="separated by commas")
    parser.add_argument("--minutes", type=float, default=25.0, help="for all variants together (%(default)s)")
    parser.add_argument("--steps", type=int, help="steps of every variant, in place of what the budget allows")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--name", help="of the results (text_TASK)")
    given, extra = parser.parse_known_args()  # anything else goes to `fit` and `test`: --data.batch_size 32
    variants = (given.variants or VARIANTS[given.task]).split(",")
    own = resolved(["--config", config(given.task)])["model"]["backbone"]
    layers = {variant: layers_for(own, {**own, "variant": variant}) for variant in variants}
    commands = {variant: options(given.task, variant, layers[variant], given.seed, extra) for variant in variants}
    steps = given.steps or affordable(commands, given.minutes)
    results = {}
    for variant, command in commands.items():
        every = str(max(steps // VALIDATIONS, 1))
        command += ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", every]
        path = FOLDER / f"{given.task}_{variant}_{digest(resolved(command))}_{given.seed}.json"
        results[variant] = train(command, given.task, steps, path)
        rows = [row for name in results for row in rows_of(given.task, name, results, given.seed)]
        write("text", given.name or f"text_{given.task}", rows)
    show(results)


def affordable(commands: dict[str, list[str]], minutes: float) -> int:
    """Steps that let all variants finish within the budget.

    Raises:
        SystemExit: there is not one.
    """
    start = perf_counter()
    times = [seconds_per_step(command) for command in commands.values()]
    left = minutes * 60 * SHARE - (perf_counter() - start)
    steps = int(left / sum(times)) // VALIDATIONS * VALIDATIONS
    if steps < 1:
        raise SystemExit(f"error: {minutes} minutes are too few; timing the steps alone took them")
    return steps


def gates(task: str, results: dict[str, dict]) -> tuple[str, str]:
    """Must and aim of the variants with memory, in nats; those of books follow from the controls."""
    if task == "shakespeare":
        return "<= 1.47", "<= 1.45"
    nats = {name: results[name]["metrics"][f"nats at {LENGTHS[task][0]}"] for name in CONTROLS if name in results}
    limits = [nats[name] + allowed for name, allowed in CONTROLS.items() if name in nats]
    must = f"<= {min(limits):.4f}" if limits else ""
    return must, f"<= {nats['attention'] - 0.02:.4f}" if "attention" in nats else ""


def rows_of(task: str, variant: str, results: dict[str, dict], seed: int) -> list[Row]:
    """Every score of one variant."""
    result, rows = results[variant], []
    step = f", {result['step'] * 1e3:.0f} ms a step" if result["step"] else ""
    for name, value in result["metrics"].items():
        judged = variant not in CONTROLS and name == f"nats at {LENGTHS[task][0]}"
        must, aim = gates(task, results) if judged else ("", "")
        rows.append(
            Row(
                metric=f"{task} {variant} test {name}",
                value=value,
                spread=None,
                unit="nats" if name.startswith("nats") else "bits" if name.startswith("bpb") else "",
                must=must,
                aim=aim,
                seeds=[seed],
                device=result["device"],
                command=command_line("text"),
                note=f"{result['parameters']:,} parameters, {result['tokens']:,} tokens{step}",
            )
        )
    return rows


def show(results: dict[str, dict]) -> None:
    """One line per score, one column per variant."""
    table = Table("", *results, title="equal tokens, nearly equal parameters")
    table.add_row("parameters", *(f"{result['parameters']:,}" for result in results.values()))
    table.add_row("tokens trained on", *(f"{result['tokens']:,}" for result in results.values()))
    speeds = (r["tokens"] / r["steps"] / r["step"] if r["step"] else float("nan") for r in results.values())
    table.add_row("tokens/s", *(f"{speed:,.0f}" for speed in speeds))
    for name in next(iter(results.values()))["metrics"]:
        table.add_row(name, *(f"{result['metrics'].get(name, float('nan')):.4f}" for result in results.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
