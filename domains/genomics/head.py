"""Both ends of the classifier of DNA: bases to tokens, hidden states to class scores."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning import Callback
from pandas import DataFrame
from torch import Tensor, nn
from torchmetrics import MetricCollection

from app.errors import UserError
from app.head import Head
from domains.genomics.bases import LETTERS, N, flip, reverse_complement, valid
from domains.genomics.data import Batch, GenomicsData
from domains.genomics.drawing import DrawScores
from domains.genomics.metrics import Gathered
from domains.genomics.norm import VectorNorm
from domains.genomics.pooling import Pooled, Pooling
from domains.genomics.stem import Stem
from domains.genomics.tasks import TASKS, TaskName, Weights
from memory.bounds import check_bounds

BOUNDS = {"bins": (1, math.inf), "hide": (0, 1), "focal": (0, math.inf)}  # of the head's numbers


class SequenceHead(Head):
    """Classify sequences: stem, backbone in one or two readings with shared weights, pooling, one linear layer.

    What is pooled varies little from sequence to sequence; batch normalisation makes the classes of such means easy to
    tell for the last layer, as a regression on k-mers has its features standardised.

    Names travel in the checkpoint, which alone is enough to predict. What an output is says the task: log-probabilities
    [B, classes], log-odds [B, labels], or values [B, values].

    Args:
        dim: width of the backbone.
        output_size: classes, labels or values.
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
        task: what is predicted, the same as data.task.
        class_weights: `balanced` lets every class, or a label's yes and no, count alike in the loss.
        focal: exponent of 1 - p by which rows count less whose truth is probable already; 0 is cross-entropy.
    """

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
        task: TaskName = "classes",
        class_weights: Weights = "none",
        focal: float = 0.0,
    ) -> None:
        super().__init__()
        check_bounds("model.head", {"bins": bins, "hide": hide, "focal": focal}, BOUNDS)
        self.task_name = task
        self.task = TASKS[task](output_size, class_weights, focal)
        self.monitor = self.task.monitor
        self.seen = Gathered()  # answers of a validation, for `calibrate`
        self.read, self.reverse_complement, self.hide = read, reverse_complement, hide
        self.stem = Stem(dim, input_size, conv_layers, conv_width, stride, dropout)
        self.pooling = Pooling(dim, pool, bins)
        self.readings = 1 if read == "forward" else 2
        self.dropout = nn.Dropout(dropout)
        self.norm = VectorNorm(self.readings * bins * dim)
        self.out = nn.Linear(self.readings * bins * dim, output_size)

    @property
    def classes(self) -> list[str]:
        """Names of what is predicted."""
        return self.task.names

    def fit_to(self, data: GenomicsData) -> None:
        """The names of what is predicted, and what the loss needs of the train part.

        Raises:
            UserError: the data are of another task.
        """
        if data.task != self.task_name:
            raise UserError(f"model.head.task is {self.task_name} and data.task is {data.task}; give both the same")
        self.task.names = list(data.classes)
        self.task.fit_to(data.parts["train"].labels)

    def check(self, data: GenomicsData) -> None:
        """Refuse data of another task or with other classes than those that the head was fitted to.

        Raises:
            ValueError: names them.
        """
        if data.task != self.task_name:
            raise ValueError(f"data.task is {data.task}, the checkpoint's {self.task_name}; use the same one")
        if data.classes != self.classes:
            raise ValueError(f"classes are {data.classes}, the checkpoint's {self.classes}; use the same ones")

    def get_extra_state(self) -> dict[str, Any]:
        """The names of what is predicted, weights, temperature, thresholds, units."""
        return {"classes": self.classes, "task": self.task.state}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Those of a checkpoint; older ones hold names only."""
        self.task.names = state["classes"]
        self.task.state |= state.get("task", {})

    @property
    def averages(self) -> bool:
        """Whether an answer is the mean of both strands'."""
        return self.reverse_complement == "average" and not self.training

    @property
    def strands(self) -> int:
        """Strands that pass through the stem."""
        return 2 if self.averages or self.read == "strands" else 1

    @property
    def passes(self) -> int:
        """Readings of each sequence that pass through the backbone."""
        return self.strands * (2 if self.read == "directions" else 1)

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
        passes = parts.unflatten(0, (self.passes, -1))
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
        """The answer [B, output_size] from the vectors of all strands, in their dtype."""
        even = self.norm(vectors.flatten(0, 1)).view_as(vectors)
        return self.task.merge(self.out(self.dropout(even)).to(vectors.dtype))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """The task's: cross-entropy or squared error, a mean."""
        return self.task.loss(output, batch.labels)

    def scored(self, batch: Batch) -> Tensor | int:
        """Of how many rows, or of which sum of weights, `loss` is the mean."""
        return self.task.scored(batch.labels)

    def metrics(self, stage: str = "val") -> MetricCollection:
        """The task's."""
        return self.task.metrics()

    def update(self, metrics: MetricCollection, output: Tensor, batch: Batch) -> None:
        """Count one batch."""
        self.task.update(metrics, output, batch.labels)

    def collect(self, output: Tensor, batch: Batch) -> None:
        """Keep the answers of one validation batch."""
        self.seen.update(output, batch.labels)

    def calibrate(self) -> None:
        """Set temperature and thresholds by the answers of the validation."""
        output, targets = self.seen.compute()
        self.seen.reset()
        if not output.isnan().any():
            self.task.calibrate(output, targets)

    def details(self, values: dict[str, Tensor]) -> dict[str, Any]:
        """What results.json holds of each class, label or value."""
        return self.task.details(values)

    def callbacks(self) -> list[Callback]:
        """Draws what the task is judged by."""
        return [DrawScores()]

    def predict(self, model: Callable[[Batch], Tensor], batch: Batch) -> DataFrame:
        """Rows of id, length, n_fraction, truncated, the task's columns and the truth."""
        output = model(batch)
        width = batch.bases.shape[1]
        lengths = torch.full((len(batch.bases),), width) if batch.lengths is None else batch.lengths.cpu()
        unknown = (batch.bases == N).sum(1).cpu() - (width - lengths)
        return DataFrame(
            {
                "id": batch.ids,
                "length": batch.whole.cpu(),
                "n_fraction": unknown / lengths,
                "truncated": batch.whole.cpu() > lengths,
                **self.task.columns(output),
                **self.task.truth(batch.labels),
            }
        )
