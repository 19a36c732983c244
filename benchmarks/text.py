"""Train and test language models at equal parameters and tokens within a budget of minutes.

    python -m benchmarks.text --task shakespeare --minutes 5
    python -m benchmarks.text --task books --variants mac,mag,mal,attention,swa --minutes 28

Every run is `python -m app fit` and then `test`. First each variant's step is timed; the number of steps that lets all
of them finish within the budget is then the same for all. Controls get as many blocks as bring them nearest to the
parameters of the first variant.
"""

import argparse
import json
from pathlib import Path
from time import perf_counter

import torch
import yaml
from lightning import Callback, Trainer
from rich.console import Console
from rich.table import Table

from app.cli import main as app
from app.runs import run_folder
from benchmarks.rows import Row, write
from domains.text import LanguageHead
from memory import BackboneConfig, MemoryConfig, TitansBackbone

CONFIGS = {"shakespeare": "conf/text_shakespeare.yaml", "books": "conf/text_books.yaml"}
VARIANTS = {"shakespeare": "mag,attention", "books": "mac,mag,mal,attention,swa"}
EVALUATION = {"shakespeare": 256, "books": 16384}  # tokens of a test window
PROBE = (6, 18)  # steps between which a step is timed
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


def backbone(config: dict, variant: str, layers: int) -> BackboneConfig:
    """The backbone of a YAML with another variant and number of blocks."""
    options = {**config["model"]["backbone"], "variant": variant, "layers": layers}
    return BackboneConfig(**{**options, "memory": MemoryConfig(**options["memory"])})


def layers_for(config: dict, variant: str, reference: str) -> int:
    """Blocks that bring a variant's parameters nearest to those of the reference as the YAML has it."""

    def parameters(variant: str, layers: int) -> int:
        with torch.device("meta"):
            model = TitansBackbone(backbone(config, variant, layers), LanguageHead.feed_forward)
        return sum(p.numel() for p in model.parameters())

    wanted = parameters(reference, config["model"]["backbone"]["layers"])
    return min(range(1, 64), key=lambda layers: abs(parameters(variant, layers) - wanted))


def options(task: str, variant: str, layers: int, seed: int, extra: list[str]) -> list[str]:
    """The command line that fit and test share."""
    name = f"bench_{task}_{variant}"
    shared = ["--config", CONFIGS[task], "--trainer.logger.name", name, "--seed_everything", str(seed)]
    return shared + ["--model.backbone.variant", variant, "--model.backbone.layers", str(layers), *extra]


def seconds_per_step(command: list[str]) -> float:
    """Time of a training step in steady state."""
    path = Path("runs") / "step_time"
    path.parent.mkdir(exist_ok=True)
    probe = {"class_path": "benchmarks.text.StepTime", "init_args": {"path": str(path)}}
    quiet = ["--trainer.max_steps", str(PROBE[1]), "--trainer.limit_val_batches", "0", "--trainer.logger", "false"]
    quiet += ["--trainer.enable_checkpointing", "false", "--trainer.enable_progress_bar", "false"]
    app(["fit", *command, *quiet, f"--trainer.callbacks+={json.dumps(probe)}"])
    return float(path.read_text())


def train(command: list[str], task: str, steps: int) -> dict:
    """Fit for `steps`, test the best checkpoint; the results.json of the test."""
    every = str(max(steps // VALIDATIONS, 1))
    fitted = app(["fit", *command, "--trainer.max_steps", str(steps), "--trainer.val_check_interval", every])
    best = fitted.trainer.checkpoint_callback.best_model_path
    tested = app(["test", *command, "--ckpt_path", best, "--data.eval_length", str(EVALUATION[task])])
    return json.loads((run_folder(tested.checkpoint) / "results.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text", description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=CONFIGS, required=True)
    parser.add_argument("--variants", help="separated by commas; the first sets the number of parameters")
    parser.add_argument("--minutes", type=float, default=25.0, help="for all variants together (%(default)s)")
    parser.add_argument("--steps", type=int, help="steps of every variant, in place of what the budget allows")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    given, extra = parser.parse_known_args()  # anything else goes to `fit` and `test`: --data.batch_size 32
    variants = (given.variants or VARIANTS[given.task]).split(",")
    config = yaml.safe_load(Path(CONFIGS[given.task]).read_text())
    commands = {
        variant: options(given.task, variant, layers_for(config, variant, variants[0]), given.seed, extra)
        for variant in variants
    }
    start = perf_counter()
    times = {variant: seconds_per_step(command) for variant, command in commands.items()}
    left = given.minutes * 60 * SHARE - (perf_counter() - start)
    steps = given.steps or int(left / sum(times.values())) // VALIDATIONS * VALIDATIONS
    if steps < 1:
        raise SystemExit(f"error: {given.minutes} minutes are too few; timing the steps alone took them")
    data = config["data"]["init_args"]
    tokens = steps * data["batch_size"] * data["length"]
    rows, results = [], {}
    for variant, command in commands.items():
        results[variant] = train(command, given.task, steps)
        rows += rows_of(given.task, variant, results, times[variant], tokens, given.seed)
        write(f"text_{given.task}", rows)
    show(results, times, data["batch_size"] * data["length"], tokens)


def rows_of(task: str, variant: str, results: dict, seconds: float, tokens: int, seed: int) -> list[Row]:
    """Every score of one variant; the gate stands at the nats of Shakespeare."""
    result = results[variant]
    memory = variant not in ("attention", "swa")
    rows = []
    for name, value in result["metrics"].items():
        score = name.removeprefix("test/")
        gate = task == "shakespeare" and score == "nats" and memory
        rows.append(
            Row(
                metric=f"{task} {variant} test {score}",
                value=value,
                spread=None,
                unit="nats" if score.startswith("nats") else "bits" if score == "bpb" else "",
                must="<= 1.47" if gate else "",
                aim="<= 1.45" if gate else "",
                seeds=[seed],
                device=result["device"],
                command=result["command"],
                note=f"{result['parameters']:,} parameters, {tokens:,} tokens, {seconds * 1e3:.0f} ms a step",
            )
        )
    return rows


def show(results: dict[str, dict], times: dict[str, float], per_step: int, tokens: int) -> None:
    """One line per variant, best first."""
    names = sorted({name for result in results.values() for name in result["metrics"]}, key=lambda n: (len(n), n))
    columns = ("variant", "parameters", "tokens/s", *(name.removeprefix("test/") for name in names))
    table = Table(*columns, title=f"{tokens:,} tokens")
    for variant, result in sorted(results.items(), key=lambda item: item[1]["metrics"]["test/nats"]):
        cells = (f"{result['metrics'][name]:.4f}" if name in result["metrics"] else "-" for name in names)
        table.add_row(variant, f"{result['parameters']:,}", f"{per_step / times[variant]:,.0f}", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
