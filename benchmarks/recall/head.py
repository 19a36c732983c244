"""Both ends of a model of recall: symbols to vectors, and hidden states to a class where something is asked."""

from collections.abc import Callable

import torch
from pandas import DataFrame
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from app.head import Head
from benchmarks.recall.tasks import Examples


class NoFeedForward(nn.Module):
    """Mixers alone, as in the published recall models: adds nothing to the residual stream."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Recalled(Metric):
    """Accuracy where something is asked, of sequences of every length and number of questions, and the mean of these.

    A length T with P questions is `accuracy_T_P`; with one kind of sequence there is only `accuracy`.
    """

    full_state_update = False
    counts: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", [], dist_reduce_fx="cat")

    def update(self, right: Tensor, length: int) -> None:
        """Count a batch.

        Args:
            right: whether each answer is right, [B, P].
            length: T of its sequences.
        """
        sizes = torch.tensor([length, right.shape[1], right.numel()], device=right.device)
        self.counts.append(torch.cat([sizes, right.sum()[None]])[None])

    def compute(self) -> dict[str, Tensor]:
        """The scores by name."""
        counts = dim_zero_cat(self.counts)
        kinds = counts[:, :2].unique(dim=0)
        scores = {}
        for kind in kinds:
            _, _, asked, right = counts[(counts[:, :2] == kind).all(1)].sum(0)
            scores[f"accuracy_{kind[0]}_{kind[1]}"] = right / asked
        return {"accuracy": torch.stack([*scores.values()]).mean(), **(scores if len(kinds) > 1 else {})}


class RecallHead(Head):
    """Classify the symbols that a sequence asks about; where classes are the symbols, one matrix serves both ends.

    Args:
        dim: width D of the backbone.
        input_size: symbols.
        output_size: classes V.
    """

    monitor = "accuracy"
    mode = "max"
    feed_forward = NoFeedForward

    def __init__(self, dim: int, input_size: int, output_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(input_size, dim)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.out = nn.Linear(dim, output_size, bias=False)
        if input_size == output_size:
            self.out.weight = self.embedding.weight

    def embed(self, batch: Examples) -> tuple[Tensor, None]:
        """Vectors [B, T, D]; no padding, so no mask."""
        return self.embedding(batch.inputs), None

    def readout(self, hidden: Tensor, batch: Examples) -> Tensor:
        """Logits of what is asked about, [B, P, V]."""
        places = batch.at[..., None].expand(-1, -1, hidden.shape[-1])
        return self.out(hidden.gather(1, places))

    def loss(self, output: Tensor, batch: Examples) -> Tensor:
        """Mean cross-entropy of the answers, in nats."""
        return F.cross_entropy(output.flatten(0, 1).float(), batch.answers.flatten())

    def scored(self, batch: Examples) -> int:
        """Answers."""
        return batch.answers.numel()

    def metrics(self, stage: str = "val") -> MetricCollection:
        """Accuracy by kind of sequence, and the mean over the kinds."""
        return MetricCollection([Recalled()])

    def update(self, metrics: MetricCollection, output: Tensor, batch: Examples) -> None:
        """Count one batch."""
        metrics.update(output.argmax(-1) == batch.answers, batch.inputs.shape[1])

    def predict(self, model: Callable[[Examples], Tensor], batch: Examples) -> DataFrame:
        """One row per answer: the symbol that is asked about, the likeliest class, and the right one."""
        asked = batch.inputs.gather(1, batch.at)
        columns = {"asked": asked, "answer": model(batch).argmax(-1), "truth": batch.answers}
        return DataFrame({name: column.flatten().cpu().numpy() for name, column in columns.items()})
