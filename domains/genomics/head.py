"""Both ends of the classifier of DNA: bases to tokens, hidden states to class scores."""

import math
import warnings
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassAveragePrecision,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
)
from torchmetrics.utilities import dim_zero_cat

from app.head import Head
from domains.genomics.bases import LETTERS, N, flip, reverse_complement, valid
from domains.genomics.data import Batch, GenomicsData
from domains.genomics.figures import confusion_figure
from domains.genomics.pooling import Pooled, Pooling
from domains.genomics.stem import Stem


class OverPresent:
    """Takes the mean of a metric over the classes that have rows, and others beside them."""

    def compute(self) -> Tensor:
        rows = dim_zero_cat(self.target).bincount(minlength=self.num_classes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the classes that are left out
            return super().compute()[(rows > 0) & (rows < rows.sum())].mean()


class AUROC(OverPresent, MulticlassAUROC):
    """Area under the ROC curve, for which torchmetrics counts 0 where a class has no row."""


class AUPRC(OverPresent, MulticlassAveragePrecision):
    """Area under the precision-recall curve."""


class VectorNorm(nn.BatchNorm1d):
    """Batch normalisation of vectors [rows, features] that takes one row in training as it does in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class SequenceHead(Head):
    """Classify sequences: stem, backbone in one or two readings with shared weights, pooling, one linear layer.

    What is pooled varies little from sequence to sequence; batch normalisation makes the classes of such means easy to
    tell for the last layer, as a regression on k-mers has its features standardised.

    Class names travel in the checkpoint, which alone is enough to predict. An output is log-probabilities [B, classes].

    Args:
        dim: width of the backbone.
        output_size: classes.
        input_size: letters, the last of which is N.
        conv_layers: residual convolutions over bases before the backbone; 0 leaves them out.
        conv_width: bases that each of them sees, odd.
        stride: bases per token of the backbone.
        read: the backbone is causal; `forward` gives the first base no context, `directions` reads the tokens backwards
            too, `strands` reads the reverse complement too.
        reverse_complement: `none`; `augment` trains on a random strand of each sequence; `average` does so too, and
            takes the mean probability of both strands elsewhere. Promoters and splice sites have a strand: `none`.
        pool: `mean` of the hidden states, or by learned weights (`attention`).
        bins: equal parts of a sequence that are pooled by themselves: 1 forgets where something stood.
        dropout: in the stem and on the pooled hidden states.
        hide: share of the bases that training reads as N, drawn anew each time; for small sets.
    """

    monitor = "mcc"
    mode = "max"
    starts_from = {"domains.genomics.next_base.NextBaseHead": ("stem",)}

    def __init__(
        self,
        dim: int,
        output_size: int,
        input_size: int = len(LETTERS),
        conv_layers: int = 2,
        conv_width: int = 9,
        stride: int = 1,
        read: Literal["forward", "directions", "strands"] = "directions",
        reverse_complement: Literal["none", "augment", "average"] = "none",
        pool: Literal["mean", "attention"] = "mean",
        bins: int = 1,
        dropout: float = 0.1,
        hide: float = 0.0,
    ) -> None:
        super().__init__()
        self.read, self.reverse_complement, self.hide = read, reverse_complement, hide
        self.stem = Stem(dim, input_size, conv_layers, conv_width, stride, dropout)
        self.pooling = Pooling(dim, pool, bins)
        self.readings = 1 if read == "forward" else 2
        self.dropout = nn.Dropout(dropout)
        self.norm = VectorNorm(self.readings * bins * dim)
        self.out = nn.Linear(self.readings * bins * dim, output_size)
        self.classes = [str(i) for i in range(output_size)]

    def fit_to(self, data: GenomicsData) -> None:
        """The names of the classes."""
        self.classes = list(data.classes)

    def check(self, data: GenomicsData) -> None:
        """Refuse data with other classes than those that the head was fitted to.

        Raises:
            ValueError: names them.
        """
        if data.classes != self.classes:
            raise ValueError(f"classes are {data.classes}, the checkpoint's {self.classes}; use the same ones")

    def get_extra_state(self) -> dict[str, Any]:
        """The names of the classes."""
        return {"classes": self.classes}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Names of a checkpoint."""
        self.classes = state["classes"]

    @property
    def averages(self) -> bool:
        """Whether an answer is the mean of both strands'."""
        return self.reverse_complement == "average" and not self.training

    @property
    def strands(self) -> int:
        """Strands that pass through the stem."""
        return 2 if self.averages or self.read == "strands" else 1

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Tokens [P B, T, dim] of all P passes: strands, then each read forwards and backwards; and their mask."""
        bases, lengths = batch.bases, batch.lengths
        if self.training and self.reverse_complement != "none":
            other = torch.rand(len(bases), device=bases.device) < 0.5
            other = other.view(-1, *[1] * (bases.dim() - 1))
            bases = torch.where(other, reverse_complement(bases, lengths), bases)
        if self.training and self.hide:
            bases = bases.masked_fill(torch.rand(bases.shape, device=bases.device) < self.hide, N)
        if self.strands == 2:
            bases = torch.cat([bases, reverse_complement(bases, lengths)])
            lengths = None if lengths is None else lengths.repeat(2)
        tokens = self.stem(bases, lengths)
        count = None if lengths is None else self.stem.tokens(lengths)
        if self.read == "directions":
            tokens = torch.cat([tokens, flip(tokens, count)])
            count = None if count is None else count.repeat(2)
        return tokens, None if count is None else valid(count, tokens.shape[1])

    def readout(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Log-probabilities [B, classes] from the hidden states of all passes."""
        lengths = batch.lengths
        if lengths is None:
            lengths = torch.full((len(batch.bases),), batch.bases.shape[1], device=hidden.device)
        count = self.stem.tokens(lengths).repeat(len(hidden) // len(lengths))
        return self.classify(self.vectors(self.pooling(hidden, count)))

    def vectors(self, pooled: Pooled) -> Tensor:
        """Vectors [V, B, readings * bins * dim] of the V strands to be averaged, from the pooled passes [P B]."""
        parts = pooled.mean()  # [P B, bins, dim]
        passes = parts.unflatten(0, (self.strands * (2 if self.read == "directions" else 1), -1))
        views = 2 if self.averages else 1
        match self.read:
            case "forward":
                read = [passes]
            case "directions":
                read = [passes[:views], passes[views:].flip(2)]  # a backward reading meets the parts in reverse
            case "strands":
                read = [passes[:views], passes.flip(0, 2)[:views]]
        return torch.cat([part.flatten(2) for part in read], -1)

    def classify(self, vectors: Tensor) -> Tensor:
        """Log of the mean probability over the strands, float32 [B, classes]."""
        even = self.norm(vectors.flatten(0, 1)).view_as(vectors)
        scores = F.log_softmax(self.out(self.dropout(even)).float(), -1)
        return scores.logsumexp(0) - math.log(len(scores))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy."""
        return F.nll_loss(output, batch.labels)

    def metrics(self) -> MetricCollection:
        """Accuracy, MCC, macro-F1, AUROC and AUPRC (means over the classes that occur), and the confusion matrix, rows
        are true.
        """
        count = len(self.classes)
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(count, average="micro"),
                "mcc": MulticlassMatthewsCorrCoef(count),
                "macro_f1": MulticlassF1Score(count, average="macro"),
                "auroc": AUROC(count, average=None),
                "auprc": AUPRC(count, average=None),
                "confusion": MulticlassConfusionMatrix(count),
            }
        )

    def update(self, metrics: MetricCollection, output: Tensor, batch: Batch) -> None:
        """Count one batch."""
        metrics.update(output.exp(), batch.labels)

    def details(self, values: dict[str, Tensor]) -> dict[str, Any]:
        """Confusion matrix, and per class: rows, precision, recall, F1."""
        matrix = values["confusion"].double().cpu()
        right = matrix.diagonal()
        actual, said = matrix.sum(1), matrix.sum(0)
        table = {
            name: {"rows": int(rows), "precision": precision, "recall": recall, "f1": f1}
            for name, rows, precision, recall, f1 in zip(
                self.classes,
                actual.tolist(),
                (right / said.clamp(min=1)).tolist(),
                (right / actual.clamp(min=1)).tolist(),
                (2 * right / (actual + said).clamp(min=1)).tolist(),
                strict=True,
            )
        }
        return {"classes": table, "confusion": matrix.long().tolist()}

    def summary_pictures(self, values: dict[str, Tensor]) -> dict[str, Figure]:
        """The confusion matrix."""
        return {"confusion": confusion_figure(values["confusion"].cpu(), self.classes)}

    def table(self, output: Tensor, batch: Batch) -> DataFrame:
        """Rows of id, length, n_fraction, truncated, class, p_CLASS and truth: the columns of every prediction."""
        width = batch.bases.shape[1]
        lengths = torch.full((len(batch.bases),), width) if batch.lengths is None else batch.lengths.cpu()
        unknown = (batch.bases == N).sum(1).cpu() - (width - lengths)
        return DataFrame(
            {
                "id": batch.ids,
                "length": batch.whole.cpu(),
                "n_fraction": unknown / lengths,
                "truncated": batch.whole.cpu() > lengths,
                **class_columns(output, self.classes),
                "truth": [self.classes[label] for label in batch.labels.tolist()],
            }
        )


def class_columns(output: Tensor, classes: list[str]) -> dict[str, Any]:
    """The columns class and p_CLASS of log-probabilities [B, classes]."""
    p = output.exp().float().cpu()
    return {
        "class": [classes[i] for i in p.argmax(1).tolist()],
        **{f"p_{name}": p[:, i].numpy() for i, name in enumerate(classes)},
    }
