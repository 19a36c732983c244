"""What a language model is scored by, from one pass over the tokens."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

EDGES = [0, 256, 1024, 4096, 16384, 65536, 262144, 1048576]  # where the ranges of positions in the context begin


class LanguageScores(Metric):
    """Nats per token, token perplexity, bits per byte, word perplexity, and nats by position in the context.

    Ends of documents are not counted. Bytes and words are those of the text as it was before tokenizing: over a whole
    part, bits per byte = nats / ln 2 / UTF-8 bytes and word perplexity = exp(nats / words), whatever the tokenizer.
    Of answers also `exact`: the share of rows that are right as a whole, told what stands before each token.
    """

    full_state_update = False
    nats: Tensor
    tokens: Tensor
    bytes: Tensor
    words: Tensor
    right: Tensor
    rows: Tensor
    nats_at: Tensor
    tokens_at: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("nats", "tokens", "bytes", "words", "right", "rows"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("nats_at", "tokens_at"):
            self.add_state(name, torch.zeros(len(EDGES), dtype=torch.float64), dist_reduce_fx="sum")
        self.tokenizer = ""

    def update(
        self,
        nats: Tensor,
        scored: Tensor,
        per_byte: float,
        per_word: float,
        tokenizer: str,
        right: Tensor | None = None,
    ) -> None:
        """Count the tokens of one batch.

        Args:
            nats: cross-entropy of every token, [B, T], the first of a row at position 0.
            scored: which of them count, [B, T].
            per_byte: tokens per byte of the text.
            per_word: tokens per word of the text.
            tokenizer: its name, which stands with the token perplexity.
            right: where rows are answers, whether a row's every token is what the model would write, [B].
        """
        self.tokenizer = tokenizer
        if right is not None:
            self.right += right.sum()
            self.rows += right.numel()
        nats = (nats * scored).double().sum(0)  # [T]
        scored = scored.double().sum(0)  # [T]
        bucket = torch.bucketize(torch.arange(len(nats), device=nats.device), _edges(nats.device), right=True) - 1
        self.nats_at.index_add_(0, bucket, nats)
        self.tokens_at.index_add_(0, bucket, scored)
        count = scored.sum()
        self.nats += nats.sum()
        self.tokens += count
        self.bytes += count / per_byte
        self.words += count / per_word

    def compute(self) -> dict[str, Tensor]:
        """The scores by name; position 0-256 is `nats_at_0`, 256-1024 `nats_at_256`, and so on."""
        scores = {
            "nats": self.nats / self.tokens,
            f"ppl_{self.tokenizer}": (self.nats / self.tokens).exp(),
        }
        if self.bytes.isfinite():  # batches of answers have no bytes of a text to count
            scores |= {"bpb": self.nats / self.bytes / math.log(2), "word_ppl": (self.nats / self.words).exp()}
        if self.rows > 0:
            scores["exact"] = self.right / self.rows
        for edge, nats, tokens in zip(EDGES, self.nats_at, self.tokens_at, strict=True):
            if tokens > 0:
                scores[f"nats_at_{edge}"] = nats / tokens
        return {name: value.float() for name, value in scores.items()}


def _edges(device: torch.device) -> Tensor:
    return torch.tensor(EDGES, device=device)
