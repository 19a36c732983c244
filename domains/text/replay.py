"""Reading on and on, on a GPU: a piece becomes one CUDA graph, since launching its kernels takes the host longer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from memory import BackboneState

LARGEST = 32768  # most tokens of a captured piece, over all sequences: larger pieces keep a GPU busy without a graph
Advance = Callable[[Tensor, BackboneState | None], tuple[Tensor, BackboneState]]


class Pieces:
    """Reads pieces one after another, those that repeat as a CUDA graph.

    Args:
        advance: from ids [B, T] and a state to hidden states [B, T, D] and the state after them.
        least: a piece is captured after so many in a row that do not change the shapes of the state.
    """

    def __init__(self, advance: Advance, least: int = 4) -> None:
        self.advance = advance
        self.least = least
        self.alike = 0
        self.replay: Replay | None = None
        self.replaying = False  # whether the newest state is in the graph's buffers, not in `_state`
        self._state: BackboneState | None = None

    @property
    def state(self) -> BackboneState | None:
        """After what has been read; reading on leaves it as it is."""
        if self.replaying and self.replay is not None:
            self.state = self.replay.state.map(Tensor.clone)
        return self._state

    @state.setter
    def state(self, state: BackboneState | None) -> None:
        self._state = state
        self.replaying = False

    def read(self, pieces: Iterable[Tensor], each: Callable[[Tensor], None]) -> Tensor:
        """Read ids [B, T] of any length each, and return the hidden state [B, D] after the last token.

        Args:
            pieces: on the model's device.
            each: called with each piece once it is read.
        """
        for ids in pieces:
            last = self.replay(ids) if self._fits(ids) else self._read(ids)
            each(ids)
        return last.clone()

    def _fits(self, ids: Tensor) -> bool:
        """Whether the graph reads this piece; it then has the state."""
        if self.replay is None or ids.shape != self.replay.ids.shape:
            return False
        if not self.replaying and self._state is not None and shapes(self._state) == self.replay.shapes:
            self.replay.begin(self._state)
            self._state = None
            self.replaying = True
        return self.replaying

    def _read(self, ids: Tensor) -> Tensor:
        """Read a piece without the graph; capture it once several like it have been read."""
        before = self.state
        hidden, self.state = self.advance(ids, before)
        if ids.is_cuda and ids.shape[1] > 1:  # comparing shapes takes 0.2 ms, too long for each token of a generation
            repeats = before is not None and ids.numel() <= LARGEST and shapes(before) == shapes(self.state)
            self.alike = self.alike + 1 if repeats else 0
            if self.alike >= self.least:
                self.alike = 0
                self.replay = Replay(self.advance, ids, self.state)
        return hidden[:, -1]


class Replay:
    """A captured piece; every call reads the next from where the one before ended.

    Args:
        advance: see `Pieces`.
        ids: a piece like all that will be read.
        state: one before such a piece, of the same shapes after it.
    """

    def __init__(self, advance: Advance, ids: Tensor, state: BackboneState) -> None:
        self.ids = ids.clone()
        self.state = state.map(Tensor.clone)
        self.shapes = shapes(state)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            hidden, after = advance(self.ids, self.state)
            self.last = hidden[:, -1].clone()
            # The new state may share memory with the old one, which is overwritten here: copy clones.
            torch._foreach_copy_(self.state.tensors(), after.map(Tensor.clone).tensors())

    def begin(self, state: BackboneState) -> None:
        """Go on from a state."""
        torch._foreach_copy_(self.state.tensors(), state.tensors())

    def __call__(self, ids: Tensor) -> Tensor:
        """The hidden state [B, D] after a piece [B, T]."""
        self.ids.copy_(ids)
        self.graph.replay()
        return self.last


def shapes(state: BackboneState) -> Any:
    """What two states share if one graph serves both: shapes, dtypes and places in a chunk."""
    return state.map(lambda t: (t.shape, t.dtype))
