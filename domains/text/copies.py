"""The trivial rival of a memory: a cache of all n-grams of the document so far, mixed with a model's probabilities.

The longest context of 6 to 1 tokens that has stood in the document before says what followed it how often. How much
that counts against the model is one weight for each length of the context and how often it was seen, fitted on
validation text.
"""

from collections.abc import Sequence

import numpy as np

ORDERS = range(2, 8)  # tokens of an n-gram, the predicted one included
SEEN = (1, 2, 4)  # least numbers of times that a context was seen which are told apart
ROUNDS = 50  # of fitting a weight


def copies(document: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the cache says of each token of a document but the first.

    Args:
        document: ids, [N].

    Returns:
        kind [N - 1] int64 of the context that matched, 0 where none did, below `kinds()`; and the probability
        [N - 1] float64 of the token that came.
    """
    kind, share = np.zeros(len(document) - 1, np.int64), np.zeros(len(document) - 1)
    grams, seen = _numbered(document.astype(np.int64))
    for order in ORDERS:
        if len(grams) < 2:
            break
        # grams are those of order - 1 tokens, by where they start; each but the last is the context of a longer one
        longer, right = _numbered(grams[:-1] * (document.max() + 1) + document[order - 1 :])
        context = seen[:-1]
        matched = context > 0
        place = np.arange(order - 2, len(document) - 1)  # of the token behind the context
        often = np.searchsorted(SEEN, context[matched], side="right") - 1
        kind[place[matched]] = 1 + (order - ORDERS[0]) * len(SEEN) + often
        share[place[matched]] = right[matched] / context[matched]
        grams, seen = longer, right
    return kind, share


def kinds() -> int:
    """Kinds of context that weights are fitted for, `none` included."""
    return 1 + len(ORDERS) * len(SEEN)


def _numbered(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys [N] as dense numbers from 0, equal for equal keys; and how many equal ones stand before each."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    fresh = np.r_[True, ordered[1:] != ordered[:-1]]
    group = fresh.cumsum() - 1
    firsts = np.flatnonzero(fresh)
    numbers, before = np.empty_like(order), np.empty_like(order)
    numbers[order] = group
    before[order] = np.arange(len(keys)) - firsts[group]
    return numbers, before


def fit(kind: Sequence[np.ndarray], share: Sequence[np.ndarray], nats: Sequence[np.ndarray]) -> np.ndarray:
    """The weight of the cache for each kind of context that makes a model's tokens likeliest, [kinds()] in [0, 1).

    Args:
        kind: of each token of each document; see `copies`.
        share: the cache's probability of it.
        nats: the model's loss of it.
    """
    kinds_of, cached, own = np.concatenate(kind), np.concatenate(share), np.exp(-np.concatenate(nats, dtype=np.float64))
    count = np.bincount(kinds_of, minlength=kinds()) + 1  # a token more that was the model's: no weight becomes 1
    weights = np.full(kinds(), 0.5)
    weights[0] = 0.0
    for _ in range(ROUNDS):  # expectation and maximisation: which of the two has said it
        w = weights[kinds_of]
        copied = w * cached / ((1 - w) * own + w * cached).clip(1e-300)
        weights = np.bincount(kinds_of, copied, minlength=kinds()) / count
    return weights


def mixed(kind: np.ndarray, share: np.ndarray, nats: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Nats of a document's tokens by model and cache together, float32."""
    w = weights[kind]
    return -np.log((1 - w) * np.exp(-nats.astype(np.float64)) + w * share).astype(np.float32)
