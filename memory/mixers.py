"""How memory and attention combine: memory alone, as context (MAC), as gate (MAG); as layer (MAL) is two stacked."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory.attention import Attention, SegmentAttention
from memory.config import BackboneConfig
from memory.layers import RMSNorm
from memory.neural_memory import NeuralMemory
from memory.state import ContextState, GateState, KVCache, MemoryState


class MemoryMixer(nn.Module):
    """The memory alone; it reads the persistent tokens before the first token (eq. 19, 30)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.memory = NeuralMemory(config.dim, config.memory)
        self.persistent = nn.Parameter(torch.randn(config.persistent, config.dim))

    def forward(
        self, x: Tensor, state: MemoryState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, MemoryState]:
        """[B, T, dim] to [B, T, dim], and the state after it; `mask` [B, T] is False at padding."""
        if state is not None:
            return self.memory(x, state, mask)
        before = self.persistent.shape[0]
        x = torch.cat([self.persistent.to(x.dtype).expand(x.shape[0], -1, -1), x], 1)
        y, state = self.memory(x, None, None if mask is None else F.pad(mask, (before, 0), value=True))
        return y[:, before:], state


class Gate(nn.Module):
    """y (x) m of eq. 25 and 28: both normalised with learned scales, the memory's side through SiLU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(dim)
        self.memory_norm = RMSNorm(dim)

    def forward(self, y: Tensor, m: Tensor) -> Tensor:
        """Two [B, T, dim] to one."""
        return self.attention_norm(y) * F.silu(self.memory_norm(m))


class GateMixer(nn.Module):
    """MAG: sliding-window attention and memory side by side, one gating the other (eq. 26-28)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.memory = MemoryMixer(config)
        self.attention = Attention(config.dim, config.heads, config.persistent, config.window)
        self.gate = Gate(config.dim)

    def forward(
        self, x: Tensor, state: GateState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, GateState]:
        """[B, T, dim] to [B, T, dim], and the state after it; `mask` [B, T] is False at padding."""
        m, memory = self.memory(x, state and state.memory, mask)
        y, attention = self.attention(x, state and state.attention, mask)
        return self.gate(y, m), GateState(memory, attention)


class ContextMixer(nn.Module):
    """MAC: attention over [persistent | retrieved | segment], whose result is written and gates its reads (eq. 21-25).

    Made causal where the equations leave it open: context is retrieved from the memory before the segment; context row
    j is seen by tokens from j on; and the output reads the memory as each token has left it, not as the segment has.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.size = config.segment
        self.memory = NeuralMemory(config.dim, config.memory)
        self.attention = SegmentAttention(config.dim, config.heads, aligned=config.summary_tokens == 0)
        self.persistent = nn.Parameter(torch.randn(config.persistent, config.dim))
        self.summary = nn.Parameter(torch.randn(config.summary_tokens, config.dim)) if config.summary_tokens else None
        self.gate = Gate(config.dim)

    def forward(
        self, x: Tensor, state: ContextState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, ContextState]:
        """[B, T, dim] to [B, T, dim], and the state after it; `mask` [B, T] is False at padding."""
        if state is None:
            memory = self.memory.initial_state(x.shape[0])
            state = ContextState(memory, memory.fast.weights)
        done = 0 if state.segment is None else state.segment.position
        sizes = [min(self.size - done, x.shape[1])]
        rest = x.shape[1] - sizes[0]
        sizes += [self.size] * (rest // self.size) + ([rest % self.size] if rest % self.size else [])
        masks = [None] * len(sizes) if mask is None else mask.split(sizes, 1)
        ys = []
        for piece, piece_mask in zip(x.split(sizes, 1), masks, strict=True):
            y, state = self._piece(piece, state, piece_mask)
            ys.append(y)
        return torch.cat(ys, 1), state

    def _piece(self, x: Tensor, state: ContextState, mask: Tensor | None) -> tuple[Tensor, ContextState]:
        """Tokens that lie in one segment."""
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)  # else the context's convolution would read padding
        context, query_tail = self._context(x, state)
        segment = self.attention.append(x, state.segment)
        segment.valid = _joined(state.segment, mask, x)
        y = self.attention(x, self.persistent, context, segment, segment.valid)
        m, memory = self.memory(y, state.memory, mask)
        if segment.position == self.size:
            state = ContextState(memory, memory.fast.weights, query_tail=query_tail)
        else:
            state = ContextState(memory, state.before, context, segment, query_tail)
        return self.gate(y, m), state

    def _context(self, x: Tensor, state: ContextState) -> tuple[KVCache, Tensor | None]:
        """Keys and values of what the memory before the segment answers to x, or to the learned summary queries."""
        if self.summary is None:
            h, tail = self.memory.retrieve(x, state.before, state.query_tail)
            return self.attention.append(h, state.context), tail
        if state.context is not None:
            return state.context, None
        h, _ = self.memory.retrieve(self.summary.to(x.dtype).expand(x.shape[0], -1, -1), state.before, None)
        return self.attention.append(h, None, positioned=False), None


def _joined(segment: KVCache | None, mask: Tensor | None, x: Tensor) -> Tensor | None:
    """Validity of a segment's rows so far, [B, rows]; None while nothing was padded."""
    if segment is None or (segment.valid is None and mask is None):
        return mask
    old = segment.valid if segment.valid is not None else mask.new_ones(x.shape[0], segment.position)
    new = mask if mask is not None else old.new_ones(x.shape[:2])
    return torch.cat([old, new], 1)
