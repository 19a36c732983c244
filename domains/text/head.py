"""Both ends of the language model: ids to vectors, and hidden states to the next id, with one matrix for both."""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from matplotlib.figure import Figure
from pandas import DataFrame
from tokenizers import Tokenizer
from torch import Tensor, nn
from torchmetrics import MetricCollection

from app.errors import UserError
from app.head import Head
from app.tokens import IGNORE
from data_prep.tokenizer import end_id, from_json, sha256
from domains.text.batch import TextBatch
from domains.text.loss import mean_nats, token_nats
from domains.text.metrics import LanguageScores
from memory.bounds import check_bounds


class LanguageHead(Head):
    """Causal language model with tied embeddings.

    The tokenizer travels in the checkpoint, which alone is enough to generate text. The answer to a batch is its hidden
    states: logits exist only a piece of the tokens at a time.

    Args:
        dim: width D of the backbone.
        output_size: tokens V of the vocabulary; rows of the embedding are filled up to a multiple of 64.
        dropout: on the embedded tokens.
    """

    monitor = "nats"

    def __init__(self, dim: int, output_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_bounds("model.head", {"dropout": dropout}, {"dropout": (0, 1)})
        self.vocabulary = output_size
        self.embedding = nn.Embedding(-(-output_size // 64) * 64, dim)  # matrix products are slow at odd sizes
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(dim))  # logits of about unit size
        self.dropout = nn.Dropout(dropout)
        self.tokenizer_json = ""
        self.tokenizer_name = ""
        self.context = 0

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the model was trained with."""
        return from_json(self.tokenizer_json)

    @cached_property
    def end(self) -> int:
        """Id of the token before every document."""
        return end_id(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without the token before a document."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def fit_to(self, data: Any) -> None:
        """Take the tokenizer and the length of the sequences; see `check`."""
        if self.tokenizer_json:  # weights of another run
            self.check(data)
        self.tokenizer_json = data.tokenizer.to_str()
        self.tokenizer_name = data.tokenizer_name
        self.context = data.length
        self.__dict__.pop("tokenizer", None)

    def check(self, data: Any) -> None:
        """Refuse data of another tokenizer than the checkpoint's.

        Raises:
            UserError: names both tokenizers.
        """
        ours = sha256(self.tokenizer)
        theirs = sha256(data.tokenizer)
        if ours != theirs:
            raise UserError(
                f"the checkpoint's tokenizer is {self.tokenizer_name} (sha256 {ours[:12]}), the data's is "
                f"{data.tokenizer_name} (sha256 {theirs[:12]}); use the checkpoint's"
            )

    def get_extra_state(self) -> dict[str, Any]:
        """What generation needs beside tensors, as plain values."""
        return {"tokenizer": self.tokenizer_json, "tokenizer_name": self.tokenizer_name, "context": self.context}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Tokenizer and length of a checkpoint."""
        self.tokenizer_json = state["tokenizer"]
        self.tokenizer_name = state["tokenizer_name"]
        self.context = state["context"]
        self.__dict__.pop("tokenizer", None)

    def embed_ids(self, ids: Tensor) -> Tensor:
        """Vectors [B, T, D] of ids [B, T]."""
        return self.dropout(self.embedding(ids))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V], float32, of hidden states [..., D]."""
        return nn.functional.linear(hidden, self.embedding.weight)[..., : self.vocabulary].float()

    def embed(self, batch: TextBatch) -> tuple[Tensor, None]:
        """Vectors [B, T, D] of a batch; no padding that a causal model would see, so no mask."""
        return self.embed_ids(batch.inputs), None

    def readout(self, hidden: Tensor, batch: TextBatch) -> Tensor:
        """The hidden states themselves, [B, T, D]."""
        return hidden

    def loss(self, output: Tensor, batch: TextBatch) -> Tensor:
        """Mean nats of the batch's targets; logits of the others are not made where few tokens have one."""
        targets = batch.targets
        if batch.scored is not None:
            output = output.flatten(0, 1).index_select(0, batch.scored)[None]
            targets = targets.flatten().index_select(0, batch.scored)[None]
        return mean_nats(output, self.embedding.weight, targets)

    def scored(self, batch: TextBatch) -> Tensor:
        """Tokens with a target."""
        return (batch.targets != IGNORE).sum()

    def nats(self, output: Tensor, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Nats of every token [B, T], and which of them are text: they have a target, which ends no document."""
        scored = (batch.targets != IGNORE) & (batch.targets != self.end)
        return token_nats(output, self.embedding.weight, batch.targets), scored

    def metrics(self, stage: str = "val") -> MetricCollection:
        """Nats, token and word perplexity, bits per byte and nats by position, as sums and counts."""
        return MetricCollection([LanguageScores()])

    def update(self, metrics: MetricCollection, output: Tensor, batch: TextBatch) -> None:
        """Count one batch."""
        right = self._right(output, batch) if batch.exact else None
        metrics.update(*self.nats(output, batch), batch.per_byte, batch.per_word, self.tokenizer_name, right)

    def _right(self, output: Tensor, batch: TextBatch) -> Tensor:
        """Whether all targets of a row are the likeliest tokens, [B]."""
        rows, places = (batch.targets != IGNORE).nonzero(as_tuple=True)
        wrong = self.logits(output[rows, places]).argmax(-1) != batch.targets[rows, places]
        return torch.ones(len(output), device=output.device).index_fill(0, rows[wrong], 0)

    def pictures(self, output: Tensor, batch: TextBatch) -> dict[str, Figure]:
        """Mean nats by position in the context, over 32 stretches of the batch's rows."""
        nats, scored = (x.float().cpu() for x in self.nats(output, batch))
        sums, counts = ([part.sum() for part in x.chunk(32, 1)] for x in (nats * scored, scored))
        pieces = [(total / count).item() for total, count in zip(sums, counts, strict=True)]
        figure = Figure(figsize=(6, 3), layout="constrained")
        axes = figure.subplots()
        axes.plot([nats.shape[1] * (i + 0.5) / len(pieces) for i in range(len(pieces))], pieces)
        axes.set(xlabel="position in the context, tokens", ylabel="nats per token")
        return {"loss_by_position": figure}

    def predict(self, model: Callable[[TextBatch], Tensor], batch: TextBatch) -> DataFrame:
        """One row per window: where it starts in the bin, its tokens and their mean nats."""
        nats, scored = self.nats(model(batch), batch)
        tokens = scored.sum(1)
        columns = {"start": batch.starts, "tokens": tokens, "nats": (nats * scored).sum(1) / tokens.clamp(min=1)}
        return DataFrame({name: column.cpu().numpy() for name, column in columns.items()})
