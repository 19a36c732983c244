"""Kill trainings where it hurts, go on, and count what was lost: `python -m benchmarks.faults --kills 30`.

A small training of each domain runs once undisturbed. Others of the same configuration are killed by SIGKILL at random
moments of a training step, of the writing of a checkpoint and of a validation, and gone on with by `--ckpt last`.
Behind every kill each checkpoint that was there must still be there, whole and no older, and hold, bit for bit, weights
and momenta of the undisturbed training at that step. What a finished training leaves must be equal to it.

TMPDIR is on another file system than the runs, where there is one: a file that was moved from there could be torn.
"""

import argparse
import hashlib
import json
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from app.checkpoints import WholeCheckpoints
from app.door import main as app
from app.module import TitansModule, read_checkpoint
from app.reading import Unreadable
from benchmarks.shared.runs import CONF

MEMORY = Path("/dev/shm")  # a file system of its own on every Linux
SMALL = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
         "--trainer.num_sanity_val_steps=0", "--trainer.save_minutes=0.001")  # fmt: skip
EPOCHS = ("--trainer.max_epochs=2", "--trainer.limit_train_batches=20", "--trainer.limit_val_batches=4")
STEPS = ("--trainer.max_steps=40", "--trainer.val_check_interval=7", "--trainer.limit_val_batches=4")
TRAININGS = {
    "timeseries": ("timeseries_ett.yaml", "--data.source=sample", *EPOCHS, "--data.batch_size=16"),
    "genomics": ("genomics_sample.yaml", *EPOCHS, "--data.batch_size=8", "--data.floors=false"),
    "text": ("text_lm.yaml", *STEPS, "--data.batch_size=4", "--data.tbptt=4", "--model.backbone.variant=lmm"),
}
PLACES = {  # what a process is in the midst of while it is told, and how much later it is killed, in seconds at most
    "step": (TitansModule, "training_step", 0.03),  # behind the loss come gradients and the optimiser
    "save": (WholeCheckpoints, "save_checkpoint", 0.003),
    "validation": (TitansModule, "validation_step", 0.03),
}
MOST = 6  # times that a place is passed before the kill
PATIENCE = 300  # seconds until a process must have come to its place


def digest(content: Any) -> str:
    """SHA-256 of nested dictionaries, lists and tensors."""
    found = hashlib.sha256()
    if isinstance(content, torch.Tensor):
        found.update(content.detach().cpu().contiguous().numpy().tobytes())
    elif isinstance(content, dict):
        found.update("".join(f"{key}:{digest(content[key])}" for key in sorted(content, key=str)).encode())
    else:
        found.update(repr(content).encode())
    return found.hexdigest()


def checkpoints(name: str) -> dict[str, Path]:
    """The checkpoints of a run, by their names."""
    return {path.stem: path for path in Path("runs", name, "version_0", "checkpoints").glob("*.ckpt")}


def start(command: list[str], name: str, prepare: Callable[[], None]) -> int:
    """A process that trains, from the last checkpoint of its name if there is one; returns its id."""
    options = [f"--trainer.logger.name={name}", "--trainer.logger.version=0"]
    options += ["--ckpt=last"] if "last" in checkpoints(name) else []
    if process := os.fork():
        return process
    code = 1
    try:
        with open(f"{name}.log", "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        prepare()
        app([*command, *options])
        code = 0
    finally:
        os._exit(code)


def record() -> None:
    """Make this process write `steps.json`: digests of weights and momenta by step, and the weights' names."""
    steps: dict[int, str] = {}

    def note(module: TitansModule, *_: Any) -> None:
        weights = {name: value for name, value in module.named_parameters()}
        steps[module.trainer.global_step] = digest(
            [*map(digest, (weights, module.trainer.optimizers[0].state_dict()["state"]))]
        )
        Path("steps.json").write_text(json.dumps({"names": [*weights], "steps": steps}))

    TitansModule.on_train_batch_end = note
    begin = TitansModule.on_train_start
    TitansModule.on_train_start = lambda module: (begin(module), note(module))


def tell(places: mmap.mmap) -> None:
    """Make this process count in `places`, which others see, how often it has come to each of PLACES."""

    def telling(method: Callable, number: int) -> Callable:
        def told(*args: Any, **kwargs: Any) -> Any:
            places[number] = (places[number] + 1) % 256
            return method(*args, **kwargs)

        return told

    for number, (owner, method, _) in enumerate(PLACES.values()):
        setattr(owner, method, telling(getattr(owner, method), number))


def kill(process: int, places: mmap.mmap, place: str, chance: random.Random) -> bool:
    """Kill a process behind one of the next times that it comes to a place; False if it ended before."""
    number, times, until = [*PLACES].index(place), chance.randint(1, MOST), time.monotonic() + PATIENCE
    while places[number] < times:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended or time.monotonic() > until:
            finished(status if ended else 1)
            return False
        time.sleep(0.0002)
    time.sleep(chance.random() * PLACES[place][2])
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def finished(status: int) -> None:
    """Insist that a training ended well."""
    if status:
        raise SystemExit(f"error: a training ended by itself with status {status}; see the logs in {Path.cwd()}")


def look(name: str, known: dict[str, Any], before: dict[str, int], counts: Counter) -> dict[str, int]:
    """Count what is wrong with the checkpoints of a run that was killed; returns the step of each.

    Args:
        name: of the run.
        known: what `record` wrote of the undisturbed training.
        before: what this function returned behind the kill before.
        counts: where to count.
    """
    now = {}
    for file, path in checkpoints(name).items():
        counts["checkpoints read"] += 1
        try:
            content = read_checkpoint(path)
        except Unreadable as error:
            print(error)
            counts["damaged"] += 1
            continue
        now[file] = step = content["global_step"]
        weights = {name: content["state_dict"][name] for name in known["names"]}
        held = digest([*map(digest, (weights, content["optimizer_states"][0]["state"]))])
        counts["unequal"] += held != known["steps"][str(step)]
        counts["older than before"] += step < before.get(file, 0)
        counts["not finite"] += not all(value.isfinite().all() for value in weights.values())
    counts["lost"] += len(before.keys() - now.keys())
    return now


def faults(domain: str, kills: int, seed: int) -> Counter:
    """Kill trainings of a domain, in the present folder; returns what was counted."""
    config, *options = TRAININGS[domain]
    command = ["fit", "--config", str(CONF / config), *SMALL, *options]
    places, chance = mmap.mmap(-1, len(PLACES)), random.Random(seed)
    counts = Counter(dict.fromkeys(("damaged", "unequal", "older than before", "not finite", "lost"), 0))

    def left(name: str) -> dict[str, str]:
        return {file: digest(read_checkpoint(path)["state_dict"]) for file, path in checkpoints(name).items()}

    finished(os.waitpid(start(command, "straight", record), 0)[1])
    known, straight = json.loads(Path("steps.json").read_text()), left("straight")
    killed = run = 0
    before: dict[str, int] = {}
    while True:
        name, place = f"killed_{run}", [*PLACES][killed % len(PLACES)]
        places[:] = bytes(len(PLACES))
        process = start(command, name, lambda: tell(places))
        if killed < kills and kill(process, places, place, chance):
            killed += 1
            counts[f"kills in a {place}"] += 1
            before = look(name, known, before, counts)
            continue
        if killed == kills:
            finished(os.waitpid(process, 0)[1])
        counts["trainings that ended"] += 1
        counts["unequal at the end"] += left(name) != straight
        if killed == kills:
            return counts
        run, before = run + 1, {}


def main(args: list[str] | None = None) -> int:
    """Count faults of each domain; returns 1 if there is one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.split("\n")[0])
    parser.add_argument("--domains", default=",".join(TRAININGS), help="(%(default)s)")
    parser.add_argument("--kills", type=int, default=30, help="for each domain (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of their moments (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the trainings run; else a new folder of /var/tmp")
    given = parser.parse_args(args)
    torch.set_num_threads(1)  # threads do not survive a fork
    home, wrong = Path.cwd(), 0
    root = given.folder or Path(tempfile.mkdtemp(prefix="faults", dir="/var/tmp"))
    if MEMORY.is_dir():
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)
    for domain in given.domains.split(","):
        folder = root / domain
        folder.mkdir(parents=True)
        os.chdir(folder)
        apart = os.stat(tempfile.gettempdir()).st_dev != os.stat(folder).st_dev
        counts = faults(domain, given.kills, given.seed)
        os.chdir(home)
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        print(f"{domain}: {told}; TMPDIR on {'another' if apart else 'the same'} file system", flush=True)
        names = ("damaged", "unequal", "older than before", "not finite", "lost", "unequal at the end")
        wrong += sum(counts[name] for name in names)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
