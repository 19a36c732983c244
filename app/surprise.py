"""The page of the verb `surprise`: what a model's memories did with a file, as one HTML file that needs no other."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.errors import UserError
from app.files import write_text
from app.module import TitansModule
from app.runs import run_folder
from app.trace import Trace

TOKENS = 20_000  # on one page; more make it slow to open
PASSAGES = 12  # sequences or series on one page
TEMPLATE = Path(__file__).parent / "page.html"


@dataclass(frozen=True)
class Passage:
    """One sequence of a page.

    Args:
        name: its heading.
        pieces: what each token stands for, T texts.
        traces: of every memory, by its name; B rows are laid end to end, B times their tokens make T.
        values: of a series, to be drawn as a line; None of a sequence of letters.
        spans: first value, and the one behind the last, of each token of a series.
    """

    name: str
    pieces: list[str]
    traces: dict[str, Trace]
    values: list[float] | None = None
    spans: list[tuple[int, int]] | None = None


def refuse_without_memory(module: TitansModule) -> None:
    """Refuse a control, which has nothing to show.

    Raises:
        UserError: names its variant.
    """
    if not module.backbone.memories():
        variant = module.backbone.config.variant
        raise UserError(f"the model is {variant}, which has no memory; train lmm, mac, mag or mal")


def write_page(arguments: argparse.Namespace, passages: Sequence[Passage], notes: Sequence[str]) -> None:
    """Write the page, and tell where.

    Args:
        arguments: those of `app.verbs.surprise_options`, and `ckpt`; without `output` the page is surprise.html in the
            folder of the checkpoint's run.
        passages: what is shown.
        notes: sentences above it, what was left out among them.

    Raises:
        UserError: it cannot be written.
    """
    path = arguments.output or run_folder(arguments.ckpt) / "surprise.html"
    title = f"{arguments.input.name}, as {arguments.ckpt} read it"
    content = {"title": title, "notes": notes, "passages": [_plain(passage) for passage in passages]}
    # Inside a script element only `<` could end it, and JSON may hold that escaped.
    data = json.dumps(content, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    write_text(path, TEMPLATE.read_text(encoding="utf-8").replace("DATA", data))
    for note in notes:
        print(note)
    print(f"page: {path}")


def _plain(passage: Passage) -> dict[str, Any]:
    traces = {name: _flat(trace) for name, trace in passage.traces.items()}
    return {**asdict(passage), "traces": traces}


def _flat(trace: Trace) -> dict[str, Any]:
    """A trace as plain values, its rows end to end."""
    rows, tokens, _ = trace.found.shape
    before = tokens * torch.arange(rows, device=trace.found.device)[:, None, None]
    found = torch.where(trace.found < 0, trace.found, trace.found + before)
    return {
        "tokens": {name: _rounded(values) for name, values in trace.tokens.items()},
        "norms": {name: _rounded(values) for name, values in trace.norms.items()},
        "ends": [row * tokens + end for row in range(rows) for end in trace.ends],
        "found": found.flatten(0, 1).tolist(),
        "likeness": [[round(cosine, 3) for cosine in row] for row in trace.likeness.flatten(0, 1).tolist()],
    }


def _rounded(values: Tensor) -> list[float]:
    """Four digits of each, as a page shows three."""
    if not values.isfinite().all():
        raise UserError("the memory ended in numbers that are not finite, so there is nothing to show")
    return [float(f"{value:.4g}") for value in values.flatten().tolist()]
