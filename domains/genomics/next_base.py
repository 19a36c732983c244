"""Pretraining: predict the next base from those before it, with the stem and backbone of the classifier."""

from collections.abc import Callable

import torch
from pandas import DataFrame
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection

from app.head import Head
from app.tokens import IGNORE, TokenBatch
from domains.genomics.bases import LETTERS, N
from domains.genomics.stem import Stem


class BaseScores(Metric):
    """Nats per base, perplexity, and the share of bases that were the likeliest."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("nats", "right", "bases"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, nats: Tensor, right: Tensor, scored: Tensor) -> None:
        """Count the bases of one batch: nats, whether right, and whether they count, [B, T] each."""
        self.nats += nats.sum(dtype=torch.float64)
        self.right += (right & scored).sum()
        self.bases += scored.sum()

    def compute(self) -> dict[str, Tensor]:
        """The scores by name."""
        nats = self.nats / self.bases
        values = {"nats": nats, "perplexity": nats.exp(), "accuracy": self.right / self.bases}
        return {name: value.float() for name, value in values.items()}


class NextBaseHead(Head):
    """Predict every base from those before it, on one strand. An output is logits [B, T, 4].

    The stem is the classifier's, whose convolutions look both ways and whose tokens span several bases. Here it lags
    behind what is predicted: N stands before the first base, so many that a token has seen nothing beyond base i when
    base i + 1 is asked. With `stride` S a token predicts the next S bases, each without those in between.

    Args:
        dim: width of the backbone.
        input_size: letters, the last of which is N.
        conv_layers: residual convolutions over bases, as of the classifier.
        conv_width: bases that each of them sees, odd.
        stride: bases per token of the backbone.
        dropout: in the stem.
    """

    monitor = "nats"

    def __init__(
        self,
        dim: int,
        input_size: int = len(LETTERS),
        conv_layers: int = 2,
        conv_width: int = 9,
        stride: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = Stem(dim, input_size, conv_layers, conv_width, stride, dropout)
        self.lag = self.stem.halo + stride - 1  # bases that a token sees behind its first one
        self.out = nn.Linear(dim, N * stride)

    def embed(self, batch: TokenBatch) -> tuple[Tensor, None]:
        """Tokens [B, ceil(T / stride), dim], of which token j has seen the bases up to j * stride; no mask."""
        tokens = self.stem(F.pad(batch.inputs, (self.lag, 0), value=N), None)
        return tokens[:, : self.stem.tokens(batch.inputs.shape[1])], None

    def readout(self, hidden: Tensor, batch: TokenBatch) -> Tensor:
        """Logits [B, T, 4] of the base behind each."""
        return self.out(hidden).unflatten(-1, (-1, N)).flatten(1, 2)[:, : batch.targets.shape[1]].float()

    def nats(self, output: Tensor, batch: TokenBatch) -> Tensor:
        """Cross-entropy [B, T]; zero where nothing is asked."""
        return F.cross_entropy(output.mT, batch.targets, ignore_index=IGNORE, reduction="none")

    def loss(self, output: Tensor, batch: TokenBatch) -> Tensor:
        """Mean nats of the batch's bases; zero where it has none."""
        return self.nats(output, batch).sum() / self.scored(batch).clamp(min=1)

    def scored(self, batch: TokenBatch) -> Tensor:
        """Bases that are asked."""
        return (batch.targets != IGNORE).sum()

    def metrics(self, stage: str = "val") -> MetricCollection:
        """Nats, perplexity and accuracy."""
        return MetricCollection([BaseScores()])

    def update(self, metrics: MetricCollection, output: Tensor, batch: TokenBatch) -> None:
        """Count one batch."""
        metrics.update(self.nats(output, batch), output.argmax(-1) == batch.targets, batch.targets != IGNORE)

    def predict(self, model: Callable[[TokenBatch], Tensor], batch: TokenBatch) -> DataFrame:
        """One row per window: where it starts in its part, its bases and their mean nats."""
        output = model(batch)
        bases = (batch.targets != IGNORE).sum(1)
        nats = self.nats(output, batch).sum(1) / bases.clamp(min=1)
        columns = {"start": batch.starts, "bases": bases, "nats": nats}
        return DataFrame({name: column.cpu().numpy() for name, column in columns.items()})
