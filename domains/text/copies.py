"""The trivial rival of a memory: a cache of all n-grams of the document so far, mixed with a model's probabilities.

The longest context of 6 to 1 tokens that has stood in the document before says what followed it how often. How much
that counts against the model is one weight for each length of the context and how often it was seen, fitted on
validation text.
"""

from collections.abc import Sequence

import numpy as np

ORDERS = range(2, 8)  # tokens of an n-gram, the predicted one included
SEEN = (1, 2, 4)  # contexts seen once, twice or thrice, and four times or more have weights of their own
ROUNDS = 50  # steps of expectation and maximisation that fit a weight


def copies(document: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the cache says of each token of a document but the first.

    Args:
        document: ids, [N].

    Returns:
        kind [N - 1] int64 of the context that matched, 0 where none did, below `kinds()`; and the probability
        [N - 1] float64 of the token that came.
    """
    kind = np.zeros(len(document) - 1, np.int64)
    share = np.zeros(len(document) - 1)
    grams, seen = _numbered(document.astype(np.int64))
    for order in ORDERS:
        if len(grams) < 2:
            break
        # `grams` numbers the n-grams of order - 1 tokens by where they start. All but the last have a token behind
        # them, and so are the context of an n-gram of `order` tokens.
        longer, right = _numbered(grams[:-1] * (document.max() + 1) + document[order - 1 :])
        context = seen[:-1]
        matched = context > 0
        place = np.arange(order - 2, len(document) - 1)  # index of the token that follows each context
        often = np.searchsorted(SEEN, context[matched], side="right") - 1
        kind[place[matched]] = 1 + (order - ORDERS[0]) * len(SEEN) + often
        share[place[matched]] = right[matched] / context[matched]
        grams = longer
        seen = right
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
    numbers = np.empty_like(order)
    before = np.empty_like(order)
    numbers[order] = group
    before[order] = np.arange(len(keys)) - firsts[group]
    return numbers, before


def fit(kind: Sequence[np.ndarray], share: Sequence[np.ndarray], nats: Sequence[np.ndarray]) -> np.ndarray:
    """The weight of the cache for each kind of context that makes a model's tokens likeliest, [kinds()] in [0, 1).

    Args:
        kind: the context's kind for each token of each document; see `copies`.
        share: the cache's probability of each token.
        nats: the model's loss on each token.
    """
    kinds_of = np.concatenate(kind)
    cached = np.concatenate(share)
    own = np.exp(-np.concatenate(nats, dtype=np.float64))
    count = (
        np.bincount(kinds_of, minlength=kinds()) + 1
    )  # one more token, ascribed to the model, keeps every weight below 1
    weights = np.full(kinds(), 0.5)
    weights[0] = 0.0
    for _ in range(ROUNDS):
        w = weights[kinds_of]
        # expectation: the probability that the cache, not the model, has said each token
        copied = w * cached / ((1 - w) * own + w * cached).clip(1e-300)
        weights = np.bincount(kinds_of, copied, minlength=kinds()) / count
    return weights


def mixed(kind: np.ndarray, share: np.ndarray, nats: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Nats of a document's tokens by model and cache together, float32."""
    w = weights[kind]
    return -np.log((1 - w) * np.exp(-nats.astype(np.float64)) + w * share).astype(np.float32)
