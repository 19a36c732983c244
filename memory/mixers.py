"""How memory and attention combine: memory alone, as context (MAC), as gate (MAG); as layer (MAL) is two stacked."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory.attention import Attention, SegmentAttention
from memory.config import BackboneConfig
from memory.deferred import DeferredWeights
from memory.layers import RMSNorm, Rotation
from memory.neural_memory import NeuralMemory
from memory.ops.serves import fuses
from memory.state import ContextState, GateState, KVCache, MemoryState, extended


class MemoryMixer(nn.Module):
    """The memory alone; it reads the persistent tokens before the first token (eq. 19, 30)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.memory = NeuralMemory(config.dim, config.memory)
        self.persistent = nn.Parameter(torch.randn(config.persistent, config.dim))

    def begin(self) -> MemoryState:
        """The state before the first token: the memory of one sequence that has read the persistent tokens."""
        if not len(self.persistent):
            return self.memory.initial_state(1)
        return self.memory(self.persistent[None])[1]

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
        if fuses(y, 128, "auto") and y.dtype == m.dtype:  # a kernel without heads: any width
            from memory.ops.triton.gating import gate  # imports Triton, which need not be there

            scales = torch.stack([self.attention_norm.weight, self.memory_norm.weight])
            return gate(y, m, scales, self.memory_norm.eps)
        return self.attention_norm(y) * F.silu(self.memory_norm(m))


class GateMixer(nn.Module):
    """MAG: sliding-window attention and memory side by side, one gating the other (eq. 26-28)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.memory = MemoryMixer(config)
        self.attention = Attention(config.dim, config.heads, config.persistent, config.window, config.conv)
        self.gate = Gate(config.dim)

    def begin(self) -> GateState:
        """The state of one sequence before its first token."""
        return GateState(self.memory.begin(), self.attention.begin())

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

    def begin(self, batch: int = 1) -> ContextState:
        """The state of `batch` sequences before their first token."""
        memory = self.memory.initial_state(batch)
        return ContextState(memory, memory.fast.weights)

    def forward(
        self, x: Tensor, state: ContextState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, ContextState]:
        """[B, T, dim] to [B, T, dim], and the state after it; `mask` [B, T] is False at padding."""
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)  # else the context's convolution would read padding
        state = state or self.begin(x.shape[0])
        done = 0 if state.segment is None else state.segment.k.shape[2]
        sizes = [min(self.size - done, x.shape[1])]
        rest = x.shape[1] - sizes[0]
        sizes += [self.size] * (rest // self.size) + ([rest % self.size] if rest % self.size else [])
        # what does not wait for the memory is made for all segments at once
        if done or x.shape[1] % self.size:
            turn = self.attention.rotation(x, (done + torch.arange(x.shape[1], device=x.device)) % self.size)
        else:
            turn = self.attention.segments_rotation(x, self.size)
        own = (self.attention.queries(x, turn), *self.attention.pairs(x, turn))
        persistent = self.attention.persistent_pairs(self.persistent, 1)
        whole = mask is None and not done and x.shape[1] % self.size == 0
        early = self.attention.early(*own, persistent, self.size) if whole and self.attention.parts(own[0]) else None
        asked, tail = self._asked(x, state.query_tail, turn, sizes)
        masks = [None] * len(sizes) if mask is None else mask.split(sizes, 1)
        ys, reads = [], []
        # under a trace, autograd itself is traced
        deferred = len(sizes) > 1 and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        with DeferredWeights() if deferred else nullcontext():
            for i, ((q, k, v), question, piece) in enumerate(zip(_split(own, sizes, 2), asked, masks, strict=True)):
                context, segment = self._context(state, *question), extended(state.segment, k, v, piece)
                if early is None:
                    y = self.attention(q, persistent, context, segment)
                else:
                    y = self.attention.late(*early[i], context)
                if piece is not None:
                    y = y.masked_fill(~piece[..., None], 0)
                read, memory = self.memory.write(y, state.memory, piece)
                if segment.k.shape[2] == self.size:
                    state = ContextState(memory, memory.fast.weights)
                else:
                    state = ContextState(memory, state.before, context, segment)
                ys.append(y)
                reads.append(read)
        if state.segment is not None and len(sizes) > 1:  # a copy: a view would keep the whole call's alive
            segment = replace(state.segment, k=state.segment.k.clone(), v=state.segment.v.clone())
            state = replace(state, segment=segment)
        y = _joined(ys)
        return self.gate(y, self.memory.output(_joined(reads), y)), replace(state, query_tail=tail)

    def _asked(
        self, x: Tensor, tail: Tensor | None, turn: Rotation, sizes: list[int]
    ) -> tuple[list[tuple], Tensor | None]:
        """What each segment asks the memory before it, the same each time if it asks with summary tokens: queries,
        gates and rotations of the answers; and the tail of the convolution over x.
        """
        if self.summary is None:
            q, gate, tail = self.memory.ask(x, tail)
            turns = zip(*(part.split(sizes) for part in turn), strict=True)
            return [(*parts, turn) for parts, turn in zip(_split((q, gate), sizes, 1), turns, strict=True)], tail
        q, gate, _ = self.memory.ask(self.summary.to(x.dtype).expand(x.shape[0], -1, -1), None)
        return [(q, gate, None)] * len(sizes), None

    def _context(self, state: ContextState, q: Tensor, gate: Tensor, turn: Rotation | None) -> KVCache:
        """Keys and values of what the memory before the segment has answered in it."""
        if turn is None and state.context is not None:
            return state.context
        return extended(state.context, *self.attention.pairs(self.memory.answer(state.before, q, gate), turn))


def _split(tensors: tuple[Tensor, ...], sizes: list[int], dim: int) -> Iterator[tuple[Tensor, ...]]:
    """Pieces of tensors, side by side; slices would each leave a gradient of the whole to be added up."""
    return zip(*(x.split(sizes, dim) for x in tensors), strict=True)


def _joined(parts: list[Tensor]) -> Tensor:
    """One behind the other along time; a single one is not copied."""
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
