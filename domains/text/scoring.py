"""How likely a model finds some tokens after some others: what evaluation suites ask for."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from app.module import TitansModule
from app.tokens import IGNORE
from domains.text.loss import LOGITS
from domains.text.reader import PIECE, Reader

Scored = tuple[Sequence[int], int]  # ids, and how many of the first ones (at least one) are not scored


def log_likelihoods(
    module: TitansModule, sequences: Sequence[Scored], batch: int, piece: int = PIECE
) -> Iterator[tuple[int, float, bool]]:
    """Score sequences: the number of each, its log-likelihood in nats, and whether every token is the likeliest.

    Longest first, `batch` at a time, padded behind, where padding cannot influence a causal model: a score does not
    depend on what else is in the batch. A sequence is read in pieces with the state carried, and only scored tokens get
    logits, some at a time: memory in use does not depend on its length, but for the state of `attention`.

    Args:
        module: a trained `TitansModule` with a `LanguageHead`.
        sequences: what is scored; each begins with the token before a document, as in training.
        batch: sequences at a time.
        piece: tokens of each that are read at a time.
    """
    order = sorted(range(len(sequences)), key=lambda number: -len(sequences[number][0]))
    for start in range(0, len(order), batch):
        numbers = order[start : start + batch]
        nats, wrong = _score(module, [sequences[number] for number in numbers], piece)
        yield from zip(numbers, (-nats).tolist(), (wrong == 0).tolist(), strict=True)


@torch.inference_mode()
def _score(module: TitansModule, rows: list[Scored], piece: int) -> tuple[Tensor, Tensor]:
    """Nats and how many tokens are not the likeliest, [B] float64 and int64."""
    head = module.head
    reader = Reader(module)
    ids = torch.full((len(rows), max(len(rows[0][0]), 2)), head.end)
    targets = torch.full_like(ids, IGNORE)
    for i, (sequence, before) in enumerate(rows):
        ids[i, : len(sequence)] = torch.tensor(sequence)
        targets[i, before : len(sequence)] = ids[i, before : len(sequence)]
    nats = torch.zeros(len(rows), dtype=torch.float64, device=reader.device)
    wrong = torch.zeros(len(rows), dtype=torch.int64, device=reader.device)
    at_a_time = max(LOGITS // head.vocabulary, 1)
    inputs = ids[:, :-1]
    targets = targets[:, 1:]
    for start in range(0, inputs.shape[1], piece):
        going_on = max(sum(len(sequence) > start + 1 for sequence, _ in rows), 1)  # of rows sorted by length
        if reader.state is not None:
            reader.state = reader.state.map(lambda t, n=going_on: t[:n])
        following = targets[:going_on, start : start + piece]
        hidden = reader.advance(inputs[:going_on, start : start + piece])
        places = (following != IGNORE).nonzero()  # on the CPU, so that nobody waits for the device
        for part in places.split(at_a_time):
            wanted = following[part.unbind(1)].to(reader.device)
            row, place = part.to(reader.device).unbind(1)
            # in the weights' dtype, since bfloat16 may not tell two choices apart
            exact = hidden[row, place].to(head.embedding.weight.dtype)
            logits = head.logits(exact)
            nats.index_add_(0, row, cross_entropy(logits, wanted, reduction="none").double())
            wrong.index_add_(0, row, (logits.argmax(-1) != wanted).long())
    return nats, wrong
