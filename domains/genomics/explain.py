"""Which bases a class depends on: saturation mutagenesis and gradient x input."""

import numpy as np
import torch
from pandas import DataFrame
from torch import Tensor

from domains.genomics.bases import LETTERS, N, Sequences
from domains.genomics.data import Batch
from domains.genomics.stem import one_hot
from domains.genomics.stream import Reader


def mutagenesis(reader: Reader, bases: Tensor, target: int, first: int, last: int) -> np.ndarray:
    """Change of a class's log-odds (or of a value) by putting each base at each place, float32 [places, 4].

    Args:
        reader: the model.
        bases: codes uint8 [L].
        target: number of the class.
        first: the first place, from 0.
        last: one behind the last place.
    """
    places = torch.arange(first, last).repeat_interleave(4)
    letters = torch.arange(4, dtype=torch.uint8).repeat(last - first)
    changed = letters != bases[places]  # the base that is there changes nothing

    def strength(batch: Tensor) -> Tensor:  # [rows, L] to [rows]
        output, _ = reader.read(Sequences(batch.flatten(), torch.arange(len(batch) + 1) * len(bases)))
        return reader.head.task.strength(output, target).cpu()

    rows = max(1, reader.tokens * reader.head.stem.stride // len(bases))
    odds = []
    for place, letter in zip(places[changed].split(rows), letters[changed].split(rows), strict=True):
        batch = bases.repeat(len(place), 1)
        batch[torch.arange(len(place)), place] = letter
        odds.append(strength(batch))
    effects = torch.zeros(len(places))
    effects[changed] = torch.cat(odds) - strength(bases[None])
    return effects.view(-1, 4).numpy()


def gradient(reader: Reader, bases: Tensor, target: int) -> np.ndarray:
    """Gradient x input of a class's log-odds, float32 [L]; the gradient is centred over the four bases, as a place
    holds one of them whatever happens. N counts nothing.
    """
    weights = one_hot(bases[None].to(reader.device)).requires_grad_()
    slope = torch.autograd.grad(_strength(reader, weights, target).sum(), weights)[0][0, :, :4]
    centred = slope - slope.mean(1, keepdim=True)
    return (centred * weights.detach()[0, :, :4]).sum(1).cpu().numpy()


def _strength(reader: Reader, bases: Tensor, target: int) -> Tensor:
    """Log-odds of a class or label, or a value, [B]."""
    batch = Batch(bases, None)
    tokens, mask = reader.head.embed(batch)
    output = reader.head.readout(reader.backbone(tokens, mask=mask)[0], batch)
    return reader.head.task.strength(output, target)


def importance_table(name: str, bases: Tensor, first: int, effects: np.ndarray, slopes: np.ndarray) -> DataFrame:
    """Rows of id, place (from 1), base, effect_A .. effect_T and gradient_x_input.

    Args:
        name: id of the sequence.
        bases: all its codes, uint8 [L].
        first: the first place of the table, from 0.
        effects: of each base at each place, [places, 4].
        slopes: gradient x input, [places].
    """
    letters = [LETTERS[code] for code in bases[first : first + len(effects)].tolist()]
    table = DataFrame({"id": name, "place": first + 1 + np.arange(len(effects)), "base": letters})
    for column, letter in enumerate(LETTERS[:N]):
        table[f"effect_{letter}"] = effects[:, column]
    return table.assign(gradient_x_input=slopes)
