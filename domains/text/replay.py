"""Reading on and on, on a GPU: a piece becomes one CUDA graph, since launching its kernels takes the host longer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from memory import BackboneState

LARGEST = 32768  # tokens of a captured piece, of all sequences: more keep a GPU busy without
Advance = Callable[[Tensor, BackboneState | None], tuple[Tensor, BackboneState]]


class Pieces:
    """Reads pieces one after another, those that repeat as a CUDA graph.

    Args:
        advance: from ids [B, T] and a state to hidden states [B, T, D] and the state after them.
        least: pieces in a row that leave the shapes of the state as they were, before one is captured.
    """

    def __init__(self, advance: Advance, least: int = 4) -> None:
        self.advance, self.least = advance, least
        self.alike = 0
        self.replay: Replay | None = None

    def read(
        self, pieces: Iterable[Tensor], state: BackboneState | None, each: Callable[[Tensor], None]
    ) -> tuple[Tensor, BackboneState]:
        """Read ids [B, T] of any length each.

        Args:
            pieces: on the model's device.
            state: before the first; it stays as it is.
            each: called with each piece once it is read.

        Returns:
            the hidden state [B, D] after the last token, and the state.
        """
        replaying = False
        for ids in pieces:
            fits = self.replay is not None and ids.shape == self.replay.ids.shape
            if replaying and not fits:
                state, replaying = self.replay.end(), False
            elif fits and not replaying and state is not None and shapes(state) == self.replay.shapes:
                self.replay.begin(state)
                replaying = True
            if replaying:
                last = self.replay(ids)
            else:
                before = state
                hidden, state = self.advance(ids, before)
                last = hidden[:, -1]
                self._watch(ids, before, state)
            each(ids)
        return last.clone(), self.replay.end() if replaying else state

    def _watch(self, ids: Tensor, before: BackboneState | None, after: BackboneState) -> None:
        """Capture a piece once several like it have been read."""
        if not ids.is_cuda or ids.shape[1] == 1:  # shapes take .2 ms, too long for every token decoded
            return
        repeats = before is not None and ids.numel() <= LARGEST and shapes(before) == shapes(after)
        self.alike = self.alike + 1 if repeats else 0
        if self.alike >= self.least:
            self.alike, self.replay = 0, Replay(self.advance, ids, after)


class Replay:
    """A captured piece; every call reads the next from where the one before ended.

    Args:
        advance: see `Pieces`.
        ids: a piece like all that will be read.
        state: one before such a piece, of the same shapes after it.
    """

    def __init__(self, advance: Advance, ids: Tensor, state: BackboneState) -> None:
        self.ids, self.state, self.shapes = ids.clone(), state.map(Tensor.clone), shapes(state)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            hidden, after = advance(self.ids, self.state)
            self.last = hidden[:, -1].clone()
            # clones: what is new may hold parts of what is overwritten
            torch._foreach_copy_(self.state.tensors(), after.map(Tensor.clone).tensors())

    def begin(self, state: BackboneState) -> None:
        """Go on from a state."""
        torch._foreach_copy_(self.state.tensors(), state.tensors())

    def __call__(self, ids: Tensor) -> Tensor:
        """The hidden state [B, D] after a piece [B, T]."""
        self.ids.copy_(ids)
        self.graph.replay()
        return self.last

    def end(self) -> BackboneState:
        """The state now."""
        return self.state.map(Tensor.clone)


def shapes(state: BackboneState) -> Any:
    """What two states share if one graph serves both: shapes, dtypes and places in a chunk."""
    return state.map(lambda t: (t.shape, t.dtype))
