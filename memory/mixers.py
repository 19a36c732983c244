"""How memory and attention combine: memory alone, as context (MAC), as gate (MAG); as layer (MAL) is two stacked."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory.attention import Attention, SegmentAttention
from memory.checks import check_cache, check_conv_cache, check_kind, check_layers
from memory.config import BackboneConfig
from memory.deferred import DeferredWeights
from memory.layers import Angles, RMSNorm
from memory.neural_memory import NeuralMemory
from memory.ops.serves import fuses
from memory.rows import ContextRows, GateRows, MemoryRows, Slots, copied, keep, places
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
        # also where there are none: DDP waits for a gradient of every parameter
        return self.memory(x, state, mask, self.persistent if state is None else None)

    def apart(self, state: MemoryState, room: int) -> MemoryRows:
        """A copy whose rows each stand at a place of their own, for `step`; a memory needs no room."""
        return self.memory.apart(state)

    def step(self, x: Tensor, state: MemoryRows) -> Tensor:
        """`forward` for one token of each row, [B, 1, dim]; the state is overwritten."""
        return self.memory.step(x, state)


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
            return gate(y, m, scales, cast(float, self.memory_norm.eps))
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
        if state is not None:
            check_kind(state, GateState)
        m, memory = self.memory(x, state and state.memory, mask)
        y, attention = self.attention(x, state and state.attention, mask)
        return self.gate(y, m), GateState(memory, attention)

    def apart(self, state: GateState, room: int) -> GateRows:
        """A copy whose rows each stand at a place of their own, for `step`; a window needs no room."""
        return GateRows(self.memory.apart(state.memory, room), self.attention.apart(state.attention, room))

    def step(self, x: Tensor, state: GateRows) -> Tensor:
        """`forward` for one token of each row, [B, 1, dim]; the state is overwritten."""
        m = self.memory.step(x, state.memory)
        return self.gate(self.attention.step(x, state.attention), m)


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
        return self._between(self.memory.initial_state(batch))

    def forward(
        self, x: Tensor, state: ContextState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, ContextState]:
        """[B, T, dim] to [B, T, dim], and the state after it; `mask` [B, T] is False at padding."""
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)  # otherwise the context's convolution would read padding
        if state is None:
            state = self.begin(x.shape[0])
        else:
            self._check_state(state, x)
        tokens = x.shape[1]
        done = 0 if state.segment is None else state.segment.k.shape[2]
        sizes = self._pieces(done, tokens)
        # what does not wait for the memory is made for all segments at once
        whole = not done and tokens % self.size == 0
        if whole:
            angles = self.attention.segment_angles(x, self.size)
        else:
            positions = (done + torch.arange(tokens, device=x.device)) % self.size
            angles = self.attention.angles(x, positions)
        own = (self.attention.queries(x, angles), *self.attention.keys_values(x, angles))
        persistent = self.attention.persistent_keys_values(self.persistent, 1)
        early = None
        if whole and mask is None and self.attention.parts(own[0], len(self.persistent)):
            early = self.attention.early(*own, persistent, self.size)
        questions, query_cache = self._questions(x, state.query_cache, angles, sizes)
        masks = [None] * len(sizes) if mask is None else mask.split(sizes, 1)
        ys = []
        reads = []
        # under a trace, autograd itself is traced
        deferred = len(sizes) > 1 and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        with DeferredWeights() if deferred else nullcontext():
            for i, ((q, k, v), question, piece) in enumerate(zip(_split(own, sizes, 2), questions, masks, strict=True)):
                context = self._context(state, *question)
                segment = extended(state.segment, k, v, piece)
                if early is None:
                    y = self.attention(q, persistent, context, segment)
                else:
                    begun, lse, queries = early[i]
                    y = self.attention.late(begun, lse, queries, context)
                if piece is not None:
                    y = y.masked_fill(~piece[..., None], 0)
                read, memory = self.memory.write(y, state.memory, piece)
                if segment.k.shape[2] == self.size:
                    state = self._between(memory)
                else:
                    state = replace(state, memory=memory, context=context, segment=segment)
                ys.append(y)
                reads.append(read)
        if state.segment is not None and len(sizes) > 1:  # a copy: a view would keep the whole call's alive
            segment = replace(state.segment, k=state.segment.k.clone(), v=state.segment.v.clone())
            state = replace(state, segment=segment)
        y = _joined(ys)
        return self.gate(y, self.memory.output(_joined(reads), y)), replace(state, query_cache=query_cache)

    def apart(self, state: ContextState, room: int) -> ContextRows:
        """A copy whose rows each stand at a place of their own, for `step`; segments need no room.

        Raises:
            ValueError: something was padded.
        """
        done = 0 if state.segment is None else state.segment.k.shape[2]
        fixed = self.attention.persistent_keys_values(self.persistent, len(state.before[0]))
        k, v = ([part if state.segment is None else part.to(state.segment.k.dtype)] for part in fixed)
        answers = self.size if self.summary is None else len(self.summary)
        for cache, size in ((state.context, answers), (state.segment, self.size)):
            if cache is not None:
                if cache.valid is not None:
                    raise ValueError("rows of a state that was padded cannot stand apart; see read_unequal")
                k.append(cache.k)
                v.append(cache.v)
                size -= cache.k.shape[2]
            free = k[0].new_zeros(*k[0].shape[:2], size, k[0].shape[3])
            k.append(free)
            v.append(free)
        slots = Slots(torch.cat(k, 2), torch.cat(v, 2), places(k[0], done))
        cache = None if state.query_cache is None else copied(state.query_cache)
        return ContextRows(self.memory.apart(state.memory), [copied(w) for w in state.before], slots, cache)

    def step(self, x: Tensor, state: ContextRows) -> Tensor:
        """`forward` for one token of each row, [B, 1, dim]; the state is overwritten."""
        attention = self.attention
        slots = state.slots
        angles = attention.row_angles(x, slots.position)
        before = len(self.persistent)
        own = slots.k.shape[2] - self.size
        # places of slots in the segment; below 0 are persistent tokens and answers to learned queries, which all see
        place = torch.arange(-own, self.size, device=x.device)
        if self.summary is None:
            asked, gate, query_cache = self.memory.ask(x, state.query_cache)
            keep(state.query_cache, query_cache)
            answers = self.memory.answer(state.before, asked, gate)
            slots.put(before + slots.position, *attention.keys_values(answers, angles))
            place[:own] = torch.arange(-before, self.size, device=x.device)
        else:  # the same at every token of a segment
            answers = self.memory.answer(state.before, *self._summary_questions(x))
            slots.k[:, :, before:own], slots.v[:, :, before:own] = attention.keys_values(answers, None)
        slots.put(own + slots.position, *attention.keys_values(x, angles))
        seen = place <= slots.position[:, None]
        y = attention.output(slots.attend(attention.queries(x, angles), seen))
        read = self.memory.write_step(y, state.memory)
        slots.position.add_(1).remainder_(self.size)
        ends = (slots.position == 0)[:, None, None, None]
        for old, new in zip(state.before, state.memory.fast.weights, strict=True):
            torch.where(ends, new, old, out=old)
        return self.gate(y, self.memory.output(read, y))

    def _between(self, memory: MemoryState) -> ContextState:
        """The state between two segments."""
        return ContextState(memory, memory.fast.weights, size=self.size)

    def _check_state(self, state: ContextState, x: Tensor) -> None:
        check_kind(state, ContextState)
        if state.size is not None and state.size != self.size:
            raise ValueError(f"state is of segments of {state.size} tokens, and this mixer's have {self.size}")
        self.memory.check_state(state.memory, x)
        check_layers(state.before, x, self.memory.shapes, self.memory.fast_dtype)
        check_conv_cache(state.query_cache, self.memory.query.cache_sizes if self.summary is None else None, x)
        tokens, answers = 0, 0
        if state.segment is not None:
            check_cache(state.segment, x, self.attention.heads, 0, None)
            tokens = state.segment.k.shape[2]
        if state.context is not None:
            check_cache(state.context, x, self.attention.heads, 0, None)
            answers = state.context.k.shape[2]
        wanted = tokens if self.summary is None else len(self.summary) * (tokens > 0)
        if tokens >= self.size or answers != wanted:
            raise ValueError(f"state holds {tokens} tokens of a segment of {self.size}, and {answers} answers to them")

    def _pieces(self, done: int, tokens: int) -> list[int]:
        """How many tokens of a call belong to each segment, the first of which has read `done` tokens before."""
        first = min(self.size - done, tokens)
        rest = tokens - first
        sizes = [first] + [self.size] * (rest // self.size)
        if rest % self.size:
            sizes.append(rest % self.size)
        return sizes

    def _questions(
        self, x: Tensor, cache: Tensor | None, angles: Angles, sizes: list[int]
    ) -> tuple[list[tuple], Tensor | None]:
        """Queries that each segment sends to the memory as it stood before the segment.

        Returns:
            per segment: queries, output gates, and rotary angles of the answers, which are None for summary tokens, the
            same in every segment; and the cache of the convolution over x.
        """
        if self.summary is None:
            q, gate, cache = self.memory.ask(x, cache)
            segments = zip(*(part.split(sizes) for part in angles), strict=True)
            pieces = zip(_split((q, gate), sizes, 1), segments, strict=True)
            return [(*piece, segment) for piece, segment in pieces], cache
        return [(*self._summary_questions(x), None)] * len(sizes), None

    def _summary_questions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and output gates of the summary tokens, for the batch of x [B, T, dim]."""
        assert self.summary is not None
        summary = self.summary.to(x.dtype).expand(x.shape[0], -1, -1)
        q, gate, _ = self.memory.ask(summary, None)
        return q, gate

    def _context(self, state: ContextState, q: Tensor, gate: Tensor, angles: Angles | None) -> KVCache:
        """Keys and values of what the memory before the segment has answered in it."""
        if angles is None and state.context is not None:
            return state.context
        answers = self.memory.answer(state.before, q, gate)
        return extended(state.context, *self.attention.keys_values(answers, angles))


def mixers_of(config: BackboneConfig) -> list[nn.Module]:
    """The mixers of one block, in order; MAL is two of them."""

    def attention(window: int | None) -> Attention:
        return Attention(config.dim, config.heads, config.persistent, window, config.conv)

    match config.variant:
        case "lmm":
            return [MemoryMixer(config)]
        case "mac":
            return [ContextMixer(config)]
        case "mag":
            return [GateMixer(config)]
        case "mal":
            return [MemoryMixer(config), attention(config.window)]
        case "attention":
            return [attention(None)]
        case "swa":
            return [attention(config.window)]
        case dotted:
            return [_named(dotted)(config)]


def _named(dotted: str) -> Callable[[BackboneConfig], nn.Module]:
    """The class that a dotted name means.

    Raises:
        ValueError: there is no module class of that name.
    """
    module, _, name = dotted.rpartition(".")
    try:
        mixer = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"backbone.variant {dotted}: {error}; name a class that can be imported") from error
    if not (isinstance(mixer, type) and issubclass(mixer, nn.Module)):  # a checkpoint from anywhere may name it
        raise ValueError(f"backbone.variant {dotted} is no torch.nn.Module; name the class of a mixer")
    return mixer


def _split(tensors: tuple[Tensor, ...], sizes: list[int], dim: int) -> Iterator[tuple[Tensor, ...]]:
    """Pieces of several tensors, together; slices would each leave a gradient of the whole to be added up."""
    return zip(*(x.split(sizes, dim) for x in tensors), strict=True)


def _joined(parts: list[Tensor]) -> Tensor:
    """One behind the other along time; a single one is not copied."""
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
