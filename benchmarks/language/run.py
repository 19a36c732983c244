"""One run of `benchmarks.language`: training, and what its best checkpoint finds in long documents."""

import gc
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from app.door import main as app
from app.errors import UserError
from app.module import TitansModule, load_module
from app.versions import device_name, versions
from benchmarks.shared.runs import FOLDER, Run
from domains.text import TextData
from domains.text.copies import copies, fit, mixed
from domains.text.range import PERIOD, by_position, long_documents, mean, nats_along
from domains.text.repeats import RARE, Text, far_repeats, training_counts


@dataclass(frozen=True)
class Reading:
    """How test documents are read.

    Args:
        least: tokens of a document that is read.
        longest: tokens of it that are read.
        period: tokens from one reset of the state to the next.
        near: tokens that a stack of windows may know by itself: far repeats lie beyond, and figures that are called
            settled begin so far behind a reset.
        batch: documents at a time.
    """

    least: int = 4 * PERIOD
    longest: int = 16 * PERIOD
    period: int = PERIOD
    near: int = PERIOD // 4
    batch: int = 8


READING = Reading()


def train_and_score(run: Run) -> dict[str, Any]:
    """Everything that is measured of a run; training is not repeated if it was only the scores that failed."""
    fitted = run.path.with_suffix(".fit")
    if not fitted.is_file():
        fitted.write_text(json.dumps(_train(run)))
        gc.collect()  # the trained model, before the checkpoint takes its place
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    trained = json.loads(fitted.read_text())
    data = TextData(**trained["config"]["data"]["init_args"])
    return trained | {"figures": scores(load_module(trained["checkpoint"]), data, READING), "versions": versions()}


def _train(run: Run) -> dict[str, Any]:
    path = run.path.with_suffix(".watch")
    watch = {"class_path": "benchmarks.language.watch.Watch", "init_args": {"path": str(path)}}
    fitted = app(["fit", *run.command, f"--trainer.callbacks+={json.dumps(watch)}"])
    best, watched, config = fitted.trainer.checkpoint_callback, json.loads(path.read_text()), fitted.stored
    data = config["data"]["init_args"]
    steps = len(watched["loss"])
    return {
        "checkpoint": best.best_model_path,
        "validation": best.best_model_score.item(),
        "parameters": sum(p.numel() for p in fitted.model.parameters()),
        "layers": config["model"]["backbone"]["layers"],
        "tokens": steps * data["batch_size"] * data["length"],
        "spike": spike(watched["gradient_norm"], fitted.model.optim.warmup),
        "device": device_name(fitted.trainer.strategy.root_device),
        "command": fitted.command,
        "config": config,
        **watched,
    }


def spike(norms: list[float], warmup: float) -> float:
    """Largest gradient norm after the warm-up as a multiple of the median one there.

    Args:
        norms: of every step.
        warmup: see `OptimConfig`.
    """
    after = norms[round(warmup * len(norms)) if warmup < 1 else int(warmup) :]
    return max(after) / median(after)


def scores(module: TitansModule, data: TextData, reading: Reading) -> dict[str, tuple[float, int]]:
    """Mean nats and of how many tokens each is a mean, by name, from the test documents of a corpus.

    The names are WAY for all tokens, `WAY on far repeats`, `WAY at 4K-16K` and so on by position, and `WAY settled at
    4K-16K` for tokens that stand `near` or more behind a reset. WAY is `carried`, `reset` or `swapped` (see
    `domains.text.range`), or `cache`: carried, mixed with a copy cache (see `domains.text.copies`).

    Raises:
        UserError: the corpus has no test part.
    """
    parts, tokenizer, _ = data.prepared
    if not {"train", "val", "test"} <= parts.keys():
        raise UserError(f"{data.folder}: a test part is needed beside train and val; prepare code or novels")
    period = reading.period
    documents = long_documents(parts["test"], reading.least, reading.longest)
    documents, nats = nats_along(module, documents, reading.batch, period)
    ways = {way: [of[way] for of in nats] for way in nats[0]}
    held = long_documents(parts["val"], reading.least, reading.least)
    held, held_nats = nats_along(module, held, reading.batch, period, swaps=False)
    kind, share = zip(*map(copies, held), strict=True)
    weights = fit(kind, share, [of["carried"] for of in held_nats])
    cached = map(copies, documents)
    ways["cache"] = [mixed(*found, own, weights) for found, own in zip(cached, ways["carried"], strict=True)]
    far = _far(data, documents, reading)
    figures = {}
    for way, values in ways.items():
        figures[way] = mean(values, [np.ones(len(own), bool) for own in values])
        figures[f"{way} on far repeats"] = mean(values, far)
        first = 0 if way in ("carried", "cache") else reading.period  # before that they are what `carried` is
        places = by_position(values, lambda place, first=first: place >= first)
        figures |= {f"{way} at {name}": found for name, found in places.items()}
        if way != "cache":
            settled = by_position(values, lambda place: (place >= period) & (place % period >= reading.near))
            figures |= {f"{way} settled at {name}": found for name, found in settled.items()}
    return figures


def _far(data: TextData, documents: list[np.ndarray], reading: Reading) -> list[np.ndarray]:
    """Which tokens of each document belong to far repeats."""
    parts, tokenizer, _ = data.prepared
    text = Text(tokenizer)
    words = [text.words(document) for document in documents]
    checksum = hashlib.sha256(b"".join(document.tobytes() for document in documents))
    checksum.update(parts["train"].checksum.encode())
    kept = Path(FOLDER / f"words_{checksum.hexdigest()[:16]}.json")
    counts, total = training_counts(parts["train"], tokenizer, {word for of in words for word in of.texts}, kept)
    masks = []
    for of, ids in zip(words, documents, strict=True):
        rare = [counts.get(word, 0) <= RARE * total for word in of.texts]
        masks.append(far_repeats(of, rare, len(ids), reading.near, reading.period))
    return masks
