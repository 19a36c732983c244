"""What a memory is asked to recall: every task is sequences, the places asked about, and the class that is right there.

`mqar` is multi-query associative recall as published with its mix of lengths (Zoology, arXiv:2312.04927); the other two
each need one part of the memory, forgetting and momentum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

KEYS, VALUES = 4096, 4096  # symbols 0..4095 are blank and keys, 4096..8191 are values


class Examples(NamedTuple):
    """Sequences of one length.

    Args:
        inputs: symbols [N, T].
        at: places asked about, [N, P].
        answers: the right classes, [N, P].
    """

    inputs: Tensor
    at: Tensor
    answers: Tensor


Make = Callable[[int, Generator], Examples]


@dataclass
class Task:
    """Training sets that are gone through batch by batch, and test sets that are scored one by one.

    Args:
        train: by name, how to make sequences and how many.
        test: likewise; never seen in training.
        classes: of an answer.
        symbols: of the inputs.
    """

    train: dict[str, tuple[Make, int]]
    test: dict[str, tuple[Make, int]]
    classes: int
    symbols: int


def distinct(rows: int, columns: int, among: int, generator: Generator) -> Tensor:
    """Numbers below `among`, [rows, columns], none twice in a row."""
    parts = [
        torch.rand(min(2048, rows - at), among, generator=generator, device=generator.device).topk(columns).indices
        for at in range(0, rows, 2048)
    ]
    return torch.cat(parts)


def mqar(rows: int, generator: Generator, time: int, pairs: int) -> Examples:
    """Keys and values side by side, then each key once more, whose value is asked for; noise between.

    The gap before a key comes again follows a power law with exponent 0.01, and what is neither pair nor query is a
    random symbol, as in the published configurations.
    """
    device, space = generator.device, (time - 2 * pairs) // 2
    keys = 1 + distinct(rows, pairs, KEYS - 1, generator)
    values = KEYS + distinct(rows, pairs, VALUES, generator)
    # the largest `pairs` of log p + Gumbel noise are a draw without replacement
    weight = torch.arange(1, space + 1, device=device).log() * (0.01 - 1)
    noise = torch.rand(rows, space, generator=generator, device=device).clamp(min=1e-20)
    at = 2 * pairs + 2 * (weight - (-noise.log()).log()).topk(pairs).indices
    inputs = torch.randint(KEYS + VALUES, (rows, time), generator=generator, device=device)
    inputs[:, : 2 * pairs] = torch.stack([keys, values], 2).flatten(1)
    return Examples(inputs.scatter(1, at, keys), at, values)


def rewritten(rows: int, generator: Generator, keys: int, rounds: int, noise: int) -> Examples:
    """Every key gets a new value each round, in a new order; after noise its last value is asked for."""
    device = generator.device
    names = 1 + distinct(rows, keys, KEYS - 1, generator)
    values = KEYS + torch.randint(VALUES, (rows, rounds, keys), generator=generator, device=device)
    order = torch.stack([distinct(rows, keys, keys, generator) for _ in range(rounds)], 1)
    shown = torch.stack([names[:, None].expand_as(order).gather(2, order), values.gather(2, order)], 3).flatten(1)
    blanks = torch.zeros(rows, noise, dtype=torch.long, device=device)
    asked = distinct(rows, keys, keys, generator)
    inputs = torch.cat([shown, blanks, names.gather(1, asked)], 1)
    at = torch.arange(inputs.shape[1] - keys, inputs.shape[1], device=device).expand(rows, -1)
    return Examples(inputs, at, values[:, -1].gather(1, asked))


def aftermath(rows: int, generator: Generator, pairs: int, kinds: int, lasts: int) -> Examples:
    """Each key comes twice with two values, in random order, and only the pair with an aftermath counts.

    After a pair follow `lasts` blanks, so that no convolution sees both, and then as many symbols that say whether it
    was important. Keys are below `kinds`, values below twice that.
    """
    device = generator.device
    names = 1 + distinct(rows, pairs, kinds - 1, generator)
    values = kinds + torch.randint(kinds, (rows, 2, pairs), generator=generator, device=device)
    both = torch.cat([names, names], 1), values.flatten(1), torch.arange(2 * pairs, device=device).expand(rows, -1)
    order = distinct(rows, 2 * pairs, 2 * pairs, generator)
    name, value, which = (x.gather(1, order) for x in both)
    event = torch.zeros(rows, 2 * pairs, 2 + 2 * lasts, dtype=torch.long, device=device)
    event[..., 0], event[..., 1] = name, value
    event[..., 2 + lasts :] = torch.where(which < pairs, 2 * kinds, 2 * kinds + 1)[..., None]  # important, or not
    asked = distinct(rows, pairs, pairs, generator)
    inputs = torch.cat([event.flatten(1), names.gather(1, asked)], 1)
    at = torch.arange(inputs.shape[1] - pairs, inputs.shape[1], device=device).expand(rows, -1)
    return Examples(inputs, at, values[:, 0].gather(1, asked))


def same(make: Make, train: int, test: int) -> dict[str, dict[str, tuple[Make, int]]]:
    """One kind of sequence for training and test."""
    return {"train": {"all": (make, train)}, "test": {"all": (make, test)}}


MIX = {(64, 4): 100_000, (128, 8): 20_000, (256, 16): 20_000, (256, 32): 20_000, (256, 64): 20_000}
SLICES = [(64, 4), (64, 8), (64, 16), (128, 32), (256, 64), (512, 128), (1024, 256)]
TASKS = {
    "mqar": Task(
        train={f"{t}/{p}": (partial(mqar, time=t, pairs=p), rows) for (t, p), rows in MIX.items()},
        test={f"{t}/{p}": (partial(mqar, time=t, pairs=p), 1000) for t, p in SLICES},
        classes=KEYS + VALUES,
        symbols=KEYS + VALUES,
    ),
    "rewritten": Task(
        **same(partial(rewritten, keys=16, rounds=6, noise=48), 40_000, 1000),
        classes=KEYS + VALUES,
        symbols=KEYS + VALUES,
    ),
    "aftermath": Task(**same(partial(aftermath, pairs=4, kinds=64, lasts=4), 6400, 1000), classes=128, symbols=130),
}
