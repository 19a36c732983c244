"""Do memories stay finite where training is rough and reading is long? `python -m benchmarks.stability --workers 8`.

Every variant, depth of the memory, chunk and place of the errors is trained on generated text at three times its
configuration's learning rate; steps without finite gradients are counted (training leaves them out). Then the trained
model reads a million random tokens, one token over and over, and one short phrase over and over, with its state
carried: how large its memories get in the second half of the reading, as a multiple of their largest in the first.
Options of `fit` may follow and change all runs alike.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import torch

from app.door import main as app
from app.guard import SkipNonFinite
from app.module import TitansModule
from app.versions import device_name, versions
from benchmarks.shared.rows import Row, command_line, write
from benchmarks.shared.runs import CONF, Run, finish, seeded
from domains.text.reader import Reader
from memory.state import MemoryState

CONFIG = str(CONF / "text_lm.yaml")
RATE = 3 * 3.0e-3
STEPS = 2000
MEMORIES = [
    {"errors": "anchor", "depth": depth, "chunk": chunk, "norm": True} for depth in (1, 2, 3, 4) for chunk in (16, 64)
] + [{"errors": "exact", "depth": 1, "chunk": chunk, "norm": False} for chunk in (16, 64)]
PIECE = 4096
PHRASE = 37  # tokens of the phrase that is repeated: it divides no piece, chunk or window
READ = ("random", "constant", "repeated")


def run_of(variant: str, memory: dict[str, Any], length: int, more: Sequence[str]) -> Run:
    """The run of one variant with one memory, and a reading of this length."""
    options = ["--config", CONFIG, f"--trainer.max_steps={STEPS}", f"--model.optim.lr={RATE}"]
    options += ["--trainer.precision=bf16-mixed"] if torch.cuda.is_available() else []
    options += [f"--model.backbone.variant={variant}"]
    options += [f"--model.backbone.memory.{key}={str(value).lower()}" for key, value in memory.items()]
    options += more
    label = f"stability_{variant}_{memory['errors']}{memory['depth']}_chunk{memory['chunk']}_read{length}"
    (run,) = seeded(label, options, 1)
    return run


def train_and_read(run: Run, length: int) -> dict[str, Any]:
    """Steps that were left out, the last validation, and what the memories' norms did along each reading."""
    fitted = app(["fit", *run.command])
    (guard,) = (callback for callback in fitted.trainer.callbacks if isinstance(callback, SkipNonFinite))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = fitted.model.to(device).eval()
    return {
        "steps": fitted.trainer.global_step,
        "skipped": int(guard.counts["total"]),
        "validation": fitted.trainer.checkpoint_callback.best_model_score.item(),
        "device": device_name(device),
        "growth": dict(zip(READ, growth(module, length), strict=True)),
        "versions": versions(),
    }


def tokens(vocabulary: int, length: int) -> torch.Tensor:
    """A text of each kind in READ, [kinds, length]."""
    drawn = torch.randint(vocabulary, (length,), generator=torch.Generator().manual_seed(0))
    places = torch.arange(length)
    return drawn[torch.stack([places % period for period in (length, 1, PHRASE)])]


@torch.inference_mode()
def growth(module: TitansModule, length: int) -> list[float]:
    """Largest norm of the memories in the second half of each text, by that in the first; not finite if one is not."""
    reader = Reader(module)
    norms = []

    def look(_: int) -> None:
        parts = [weights.float().flatten(1).norm(dim=1) for weights in memories(reader.state)]
        norms.append(torch.stack(parts).norm(dim=0))

    reader.read(tokens(module.head.vocabulary, length), PIECE, look)
    first, second = torch.stack(norms).chunk(2)
    return (second.amax(0) / first.amax(0)).tolist()  # the largest of what holds NaN is NaN


def memories(state: Any) -> list[torch.Tensor]:
    """The weights of all memories in a state."""
    if isinstance(state, MemoryState):
        return state.fast.weights
    parts = state if isinstance(state, list) else vars(state).values() if hasattr(state, "__dict__") else []
    return [weights for part in parts for weights in memories(part)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stability", description=__doc__.splitlines()[0])
    parser.add_argument("--variants", default="lmm,mac,mag,mal", help="separated by commas (%(default)s)")
    parser.add_argument("--tokens", type=int, default=1 << 20, help=f"of a reading, at least {2 * PIECE} (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time on one device (%(default)s)")
    parser.add_argument("--name", default="stability", help="of the results (%(default)s)")
    given, more = parser.parse_known_args()  # options of `fit`, for all runs
    if given.tokens < 2 * PIECE:
        parser.error(f"--tokens is {given.tokens}; its halves are compared, and each is read by {PIECE}")
    pairs = product(given.variants.split(","), MEMORIES)
    keys = {run_of(variant, memory, given.tokens, more): (variant, memory) for variant, memory in pairs}
    rows = []
    for run, result in finish([*keys], given.workers, partial(train_and_read, length=given.tokens)):
        variant, memory = keys[run]
        name = f"{variant}, errors {memory['errors']}, depth {memory['depth']}, chunk {memory['chunk']}"
        shared: dict[str, Any] = {"spread": None, "unit": "", "seeds": [0], "device": result["device"], "aim": ""}
        shared |= {"command": command_line("stability")}
        note = f"of {result['steps']:,}, at a rate of {RATE}; validation {result['validation']:.3f} nats"
        rows.append(Row(f"{name}: steps without finite gradients", result["skipped"], must="<= 0", note=note, **shared))
        for kind, value in result["growth"].items():
            note = f"{given.tokens:,} tokens; largest in the second half by that in the first"
            rows.append(Row(f"{name}: norm, {kind} tokens", value, must="<= 1.5", note=note, **shared))
        write("stability", given.name, rows)
        norms = ", ".join(f"{kind} {value:.3g}" for kind, value in result["growth"].items())
        print(f"{name}: {result['skipped']} steps left out; norms {norms}", flush=True)


if __name__ == "__main__":
    main()
