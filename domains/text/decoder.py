"""Several texts that each go on by one token at a time, however much each has read: on a GPU a step is a CUDA graph."""

from copy import deepcopy
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn

from app.module import TitansModule
from domains.text.head import LanguageHead
from memory import BackboneState, TitansBackbone


class Decoder:
    """Rows of texts, read up to tokens of their own, and the next token of each.

    A row is computed alike whatever the others hold, and whether they are in use: what it writes is what it writes
    alone, to the last bit.

    Args:
        module: a `TitansModule` with a `LanguageHead`.
        row: the state of a text like those that come, apart, of one row, on any device; its values do not matter.
        rows: how many there are.
        precision: autocast dtype; None for the module's own.
    """

    @torch.no_grad()
    def __init__(self, module: TitansModule, row: BackboneState, rows: int, precision: torch.dtype | None) -> None:
        self.head = cast(LanguageHead, module.head)
        self.backbone = module.backbone if precision is None else rounded(module.backbone, precision)
        self.precision = precision
        self.device = self.head.embedding.weight.device
        self.ids = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self.state = row.map(lambda t: t.new_zeros(rows, *t.shape[1:], device=self.device))
        self.tensors = self.state.tensors()  # a step overwrites them, so that they are the same for ever
        self.graph: torch.cuda.CUDAGraph | None = None
        if self.device.type != "cuda":
            return
        stream = side_stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # kernels are compiled
                self._advance()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self.logits = self._advance()
        self.graph = graph

    @torch.no_grad()
    def put(self, rows: slice | Tensor, state: BackboneState) -> None:
        """Let rows go on with the texts of a state like the first, which has as many rows, or one for all of them.

        Args:
            rows: a slice, or numbers [n] int64 on the device.
            state: what they have read.
        """
        for own, new in zip(self.tensors, state.tensors(), strict=True):
            own[rows] = new

    @torch.no_grad()
    def step(self) -> Tensor:
        """Read `ids` [B], the newest token of each row, and put the likeliest next ones there.

        Returns:
            the logits [B, V] that these were chosen from, float32, overwritten by the next step.
        """
        if self.graph is None:
            self.logits = self._advance()
        else:
            self.graph.replay()
        return self.logits

    def _advance(self) -> Tensor:
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            hidden = self.backbone.step(self.head.embed_ids(self.ids[:, None]), self.state)
            logits = self.head.logits(hidden[:, 0])
        self.ids.copy_(logits.argmax(-1))
        return logits


@cache
def side_stream() -> torch.cuda.Stream:
    """Where graphs are captured: one for all, since cuBLAS keeps 32 MiB for every stream that it has seen."""
    return torch.cuda.Stream()


def rounded(backbone: TitansBackbone, dtype: torch.dtype) -> TitansBackbone:
    """A copy whose linear maps are in the dtype of autocast, which would round them anew at every token.

    All other parameters are shared with the original.
    """
    shared = {id(parameter): parameter for parameter in backbone.parameters()}
    copy = deepcopy(backbone, shared)
    for part in copy.modules():
        if isinstance(part, nn.Linear):
            for name, parameter in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(parameter.to(dtype), requires_grad=False))
    return copy
