"""How well a model predicts along a document: with its past, without it, and with another document's past.

A document is read in pieces of PERIOD tokens. Each piece is read three times:

- `carried`: from the state that the document's own past has left;
- `reset`: from a fresh state;
- `swapped`: from the state that another document's own past has left at the same place. Documents are read several at a
  time, and each takes the state of the one before it in the batch.

So three losses of one token differ in nothing but the past before the last multiple of PERIOD.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from app.module import TitansModule
from app.tokens import IGNORE, Tokens
from domains.text.loss import token_nats
from domains.text.reader import Reader

PERIOD = 4096
EDGES = (0, 64, 256, 1024, 4096, 16384, 65536)  # where the ranges of positions begin and end
Nats = dict[str, np.ndarray]  # by way of reading, the nats of each token but the first: float32 [tokens - 1]
Means = dict[str, tuple[float, int]]  # by range of positions, a mean and the number of tokens in it


def long_documents(tokens: Tokens, least: int, longest: int) -> list[np.ndarray]:
    """Ids of each document of at least `least` tokens, int64, cut behind `longest` predicted ones.

    Raises:
        ValueError: fewer than two are so long, and there is no other document to swap states with.
    """
    ends = [*tokens.starts[1:], len(tokens.ids)]
    places = [(start, end) for start, end in zip(tokens.starts, ends, strict=True) if end - start >= least]
    if len(places) < 2:
        raise ValueError(f"{tokens.name}: {len(places)} documents of {least} tokens or more, of which two are needed")
    return [tokens.read(np.arange(start, min(end, start + longest + 1))) for start, end in places]


@torch.inference_mode()
def nats_along(
    module: TitansModule, documents: Sequence[np.ndarray], batch: int, period: int = PERIOD, swaps: bool = True
) -> tuple[list[np.ndarray], list[Nats]]:
    """Nats of every token of documents, each read in the three ways.

    Args:
        module: a trained `TitansModule` with a `LanguageHead`.
        documents: at least two, ids that begin with the token before a document.
        batch: documents at a time, at least two.
        period: tokens after which the state is reset or swapped.
        swaps: read also `reset` and `swapped`; otherwise `carried` alone.

    Returns:
        the documents as far as they were read, longest first, and the nats of each. The longest of a batch is read as
        far as the second, since behind that there is no other state to swap it with.
    """
    if min(batch, len(documents)) < 2:
        raise ValueError(f"{len(documents)} documents, {batch} at a time: states are swapped between at least two")
    ordered = sorted(documents, key=len, reverse=True)
    groups = -(-len(ordered) // batch)
    if len(ordered) < 2 * groups:  # batches of two would leave one document alone
        groups = len(ordered) // 2
    read = []
    nats = []
    for numbers in np.array_split(np.arange(len(ordered)), groups):
        rows = [ordered[number] for number in numbers]
        rows[0] = rows[0][: len(rows[1])]
        read += rows
        nats += _group(module, rows, period, swaps)
    return read, nats


def _group(module: TitansModule, rows: list[np.ndarray], period: int, swaps: bool) -> list[Nats]:
    """Nats of documents that are read together, longest first."""
    reader = Reader(module)
    weight = module.head.embedding.weight
    lengths = [len(row) - 1 for row in rows]
    ways = ("carried", "reset", "swapped") if swaps else ("carried",)
    pieces: dict[str, list[list[np.ndarray]]] = {way: [[] for _ in rows] for way in ways}
    carried = None
    for start in range(0, lengths[0], period):
        going_on = sum(length > start for length in lengths)
        width = min(lengths[0] - start, period)
        inputs = torch.full((going_on, width), module.head.end)
        targets = torch.full_like(inputs, IGNORE)  # rows are padded behind their text, where a causal model ignores it
        for i, row in enumerate(rows[:going_on]):
            piece = torch.from_numpy(row[start : start + width + 1])
            inputs[i, : len(piece) - 1] = piece[:-1]
            targets[i, : len(piece) - 1] = piece[1:]
        inputs = inputs.to(reader.device)
        targets = targets.to(reader.device)
        if carried is not None:
            carried = carried.map(lambda t, n=going_on: t[:n])
        befores = {"carried": carried, "reset": None, "swapped": carried and carried.map(lambda t: t.roll(1, 0))}
        nats = None
        for way in ways:
            if start or nats is None:  # the first piece starts from a fresh state in all three ways: read it once
                hidden, after = reader.forward(inputs, befores[way])
                nats = token_nats(hidden.to(weight.dtype), weight, targets).cpu().numpy()
            carried = after if way == "carried" else carried
            for i, length in enumerate(lengths[:going_on]):
                pieces[way][i].append(nats[i, : length - start])
    return [{way: np.concatenate(pieces[way][i]) for way in ways} for i in range(len(rows))]


def mean(values: Sequence[np.ndarray], counted: Sequence[np.ndarray]) -> tuple[float, int]:
    """Mean of the tokens of all documents that are counted, and how many they are; nan of none."""
    total = sum(float(nats[mask].sum(dtype=np.float64)) for nats, mask in zip(values, counted, strict=True))
    count = sum(int(mask.sum()) for mask in counted)
    return (total / count if count else float("nan")), count


def by_position(
    values: Sequence[np.ndarray], counted: Callable[[np.ndarray], np.ndarray] = lambda place: place >= 0
) -> Means:
    """Means between EDGES of the position in the document, as far as there are tokens, by names such as `1K-4K`.

    Args:
        values: for each document a value for every token but the first.
        counted: which of some positions count.
    """
    places = [np.arange(len(nats)) for nats in values]
    means = {}
    for low, high in zip(EDGES, EDGES[1:], strict=False):
        value, count = mean(values, [(low <= place) & (place < high) & counted(place) for place in places])
        if count:
            means[f"{_short(low)}-{_short(high)}"] = (value, count)
    return means


def _short(position: int) -> str:
    return f"{position // 1024}K" if position >= 1024 else str(position)
