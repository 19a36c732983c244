"""The floors of next-base prediction: Markov chains that know the last few bases only."""

import numpy as np

from domains.genomics.bases import LETTERS, N

ORDERS = (0, 3, 6)
PIECE = 1 << 22  # bases counted at a time


def counts(ids: np.ndarray, order: int) -> np.ndarray:
    """How often each base follows each context, int64 [5 ** order, 4].

    Args:
        ids: codes [L]; N is never counted, and a context reaches back to the last N only.
        order: bases of a context.
    """
    total = np.zeros((len(LETTERS) ** order, N), np.int64)
    for first in range(1, len(ids), PIECE):
        place = np.arange(first, min(first + PIECE, len(ids)))
        context, known = np.zeros(len(place), np.int64), np.ones(len(place), bool)
        for back in range(1, order + 1):
            letter = np.where(known & (place >= back), ids[np.maximum(place - back, 0)], N)
            known &= letter != N
            context = context * len(LETTERS) + letter
        bases = ids[place]
        pairs = (context * N + bases)[bases != N]
        total += np.bincount(pairs, minlength=total.size).reshape(total.shape)
    return total


def markov_floors(train: np.ndarray, part: np.ndarray) -> dict[str, dict[str, float]]:
    """Nats, perplexity and accuracy on `part` of chains of the ORDERS counted on `train`; codes [L] each, N first.

    Every count has one added, so that nothing is impossible.
    """
    floors = {}
    for order in ORDERS:
        seen, asked = counts(train, order) + 1, counts(part, order)
        logs = np.log(seen / seen.sum(1, keepdims=True))
        nats = float(-(asked * logs).sum() / asked.sum())
        right = asked[np.arange(len(seen)), seen.argmax(1)].sum() / asked.sum()
        scores = {"nats": nats, "perplexity": float(np.exp(nats)), "accuracy": float(right)}
        floors[f"Markov chain of order {order}"] = scores
    return floors
