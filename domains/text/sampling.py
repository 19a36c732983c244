"""How the next token is chosen from the logits of all, one after the other."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.errors import UserError

COLDEST = 1e-6  # temperature; divided by much less, logits are infinite
STRONGEST = 1e30  # penalty on repetition; multiplied by much more, logits are infinite


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the logits.

    Args:
        temperature: logits are divided by it; 0 takes the likeliest token. Above it, not below COLDEST.
        top_k: keep the k likeliest tokens; 0 for all.
        top_p: keep the likeliest tokens whose probabilities first add up to this.
        min_p: keep tokens at least this fraction as likely as the likeliest.
        repetition: logits of tokens that stand in the prompt or were chosen before are divided by it where they are
            positive, multiplied where they are negative (Keskar et al. 2019, section 4.1); 1 for no penalty.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0

    def __post_init__(self) -> None:
        # Comparisons with nan are false, so that each is written as what must hold.
        cold = self.temperature == 0 or COLDEST <= self.temperature < math.inf
        _check("temperature", self.temperature, cold, f"0, or finite and at least {COLDEST:g}")
        _check("top_k", self.top_k, self.top_k >= 0, "at least 0")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "from 0 to 1")
        penalty = 1 / STRONGEST <= self.repetition <= STRONGEST
        _check("repetition_penalty", self.repetition, penalty, f"from {1 / STRONGEST:g} to {STRONGEST:g}")

    def penalised(self, logits: Tensor, seen: Tensor) -> Tensor:
        """Logits [B, V] after the penalty on tokens that are `seen`, bool [B, V]."""
        lower = torch.where(logits > 0, logits / self.repetition, logits * self.repetition)
        return torch.where(seen, lower, logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """What the next token is drawn from, [B, V], for logits [B, V] and a temperature above zero."""
        p = (logits / self.temperature).softmax(-1)
        if self.top_k:
            least = p.topk(min(self.top_k, p.shape[-1])).values[..., -1:]
            p = p.masked_fill(p < least, 0)
        if self.top_p < 1:
            ordered, ids = p.div(p.sum(-1, keepdim=True)).sort(-1, descending=True)
            before = ordered.cumsum(-1) - ordered
            beyond = (before >= self.top_p) & (before > 0)  # a top_p that float32 takes for 0 keeps the likeliest too
            p = p.masked_fill(beyond.scatter(-1, ids, beyond), 0)
        if self.min_p:
            p = p.masked_fill(p < self.min_p * p.max(-1, keepdim=True).values, 0)
        return p / p.sum(-1, keepdim=True)

    def choose(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """The next token of each row, [B], from logits [B, V]."""
        if self.temperature == 0:
            return logits.argmax(-1)
        return torch.multinomial(self.probabilities(logits), 1, generator=generator)[:, 0]

    def drawn(self, logits: Tensor, at: Tensor) -> Tensor:
        """The next token of each row, [B], by a number of its own in [0, 1) for each, [B] float64.

        A row's choice does not depend on the rows beside it.
        """
        total = self.probabilities(logits).double().cumsum(-1)
        return (total <= at[:, None] * total[:, -1:]).sum(-1)


def _check(name: str, value: float, holds: bool, bounds: str) -> None:
    if not holds:
        raise UserError(f"{name} is {value}; it must be {bounds}")


def generated(
    logits: Tensor,
    read: Callable[[Tensor], Tensor],
    tokens: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    prompts: Sequence[Sequence[int]] = (),
) -> Iterator[Tensor]:
    """Choose and read up to `tokens` tokens [B], starting from `logits` [B, V]; they stay on the device.

    Args:
        logits: those of the first token.
        read: takes the tokens that were chosen, and returns the logits of the next.
        tokens: how many at most; the last is not read.
        sampling: how they are chosen.
        generator: source of random numbers, on the model's device.
        prompts: ids of each row that a penalty on repetition begins with.
    """
    seen = None
    if sampling.repetition != 1:  # else no token waits for what only a penalty looks at
        seen = torch.zeros_like(logits, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            seen[row, list(prompt)] = True
    for left in range(tokens, 0, -1):
        if seen is not None:
            logits = sampling.penalised(logits, seen)
        chosen = sampling.choose(logits, generator)
        yield chosen
        if seen is not None:
            seen.scatter_(1, chosen[:, None], True)
        if left > 1:
            logits = read(chosen)
