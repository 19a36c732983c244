"""Short-term memory: causal attention over everything, a sliding window, or a MAC segment, with persistent tokens."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from memory.layers import Rotation, ShortConv, rotate, rotation
from memory.ops.serves import fuses
from memory.state import KVCache, extended

# cuDNN's causal kernels are about twice as fast on Hopper; where one does not serve a call, the next is asked
FASTEST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@torch.compiler.assume_constant_result  # else torch.compile would trace the question
def _has_flash(device: torch.device) -> bool:
    """Whether PyTorch's FlashAttention runs there."""
    return torch.cuda.get_device_capability(device)[0] >= 8


def flashes(q: Tensor) -> bool:
    """Whether FlashAttention can be given queries [..., d]."""
    return fuses(q, q.shape[-1], "auto") and q.dtype in (torch.bfloat16, torch.float16) and _has_flash(q.device)


class AttentionBase(nn.Module):
    """Projections that every kind of attention shares.

    Half of each head's features carry rotary positions. Tokens without a position (persistent tokens, summaries) have
    keys in the other half only, so how much they are attended to does not depend on where the query stands.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.rotary = dim // heads // 4 * 2
        self.query = nn.Linear(dim, dim, bias=False)
        self.pair = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, T, d]

    def rotation(self, x: Tensor, positions: Tensor) -> Rotation:
        """How queries and keys of x [B, T, dim] are rotated, for rows at these positions [T]."""
        return rotation(positions, self.rotary, self._dtype(x))

    def _dtype(self, x: Tensor) -> torch.dtype:
        device, dtype = x.device.type, x.dtype
        if dtype != torch.float64 and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        return dtype

    def queries(self, x: Tensor, turn: Rotation) -> Tensor:
        """Rotated queries [B, H, T, d] of x [B, T, dim]."""
        return rotate(self._split(self.query(x)), turn)

    def pairs(self, x: Tensor, turn: Rotation | None) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, T, d] of x [B, T, dim]; `turn` is None for tokens without a position."""
        k, v = self.unturned(x)
        if turn is None:
            return F.pad(k[..., self.rotary :], (self.rotary, 0)), v
        return rotate(k, turn), v

    def unturned(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, T, d] of x [B, T, dim], the keys before their rotation."""
        k, v = (self._split(part) for part in self.pair(x).chunk(2, -1))
        return k, v

    def persistent_pairs(self, tokens: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, N_p, d] of persistent tokens [N_p, dim]."""
        k, v = self.pairs(tokens[None], None)
        return k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1)

    def leave(self, y: Tensor) -> Tensor:
        """[B, H, T, d] to [B, T, dim]."""
        return self.out(y.transpose(1, 2).flatten(2))


class Attention(AttentionBase):
    """Causal attention over the whole past or a sliding window, behind persistent tokens that all may see.

    Args:
        dim: model width, divisible by `heads`.
        heads: attention heads.
        persistent: learned tokens before the sequence.
        window: tokens a query sees, its own included; None for all.
        conv: width of the convolution over time on queries, keys and values, before they are rotated; 0 for none.
    """

    def __init__(self, dim: int, heads: int, persistent: int, window: int | None, conv: int = 0) -> None:
        super().__init__(dim, heads)
        self.window = window
        self.persistent = nn.Parameter(torch.randn(persistent, dim))
        self.conv = ShortConv(3 * dim, conv) if conv else None
        if conv > 1:
            with torch.no_grad():  # half of the heads find what followed a token: .8 nats after 350 steps on code
                keys = self.conv.weight[dim : dim + heads // 2 * (dim // heads)]
                keys.zero_()[..., -2] = 1

    def begin(self) -> KVCache:
        """The state of one sequence before its first token: a window's keys, none of which may be seen.

        Raises:
            ValueError: there is no window, so that a cache is as long as what was read.
        """
        if self.window is None:
            raise ValueError(
                "attention over the whole past cannot begin rows of a batch beside others that go on, whose cache is "
                "longer; use swa, or carry no state"
            )
        size, weight = self.window - 1, self.pair.weight
        k = weight.new_zeros(1, self.heads, size, weight.shape[1] // self.heads)
        return KVCache(k, k, torch.zeros(1, size, dtype=torch.bool, device=k.device))

    def forward(self, x: Tensor, state: KVCache | None = None, mask: Tensor | None = None) -> tuple[Tensor, KVCache]:
        """[B, T, dim] to [B, T, dim], and the cache for the next call; `mask` [B, T] is False at padding."""
        past = 0 if state is None else state.k.shape[2]
        q, k, v, tail = self._projected(x, state, mask)
        steps = torch.arange(past + x.shape[1], device=x.device)
        if self.window is None:
            turn = self.rotation(x, steps[past:])
            cache = extended(state, rotate(k, turn), v, mask)
            y = self._full(rotate(q, turn), cache.k, cache.v, cache.valid)
            return self.leave(y), replace(cache, tail=tail)
        # positions count from the oldest key that is left: a state does not depend on how much was read before it
        turn = self.rotation(x, steps)
        q = rotate(q, tuple(part[past:] for part in turn))
        cache = extended(state, k, v, mask)
        y = self._windowed(q, rotate(cache.k, turn), cache.v, cache.valid, past)
        first = max(len(steps) - self.window + 1, 0)  # copies: views would keep the whole sequence alive in every state
        k, v = cache.k[:, :, first:].clone(), cache.v[:, :, first:].clone()
        return self.leave(y), KVCache(k, v, None if cache.valid is None else cache.valid[:, first:].clone(), tail)

    def _projected(
        self, x: Tensor, state: KVCache | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries, keys and values [B, H, T, d] before their rotation, and the convolution's new tail."""
        if self.conv is None:
            return self._split(self.query(x)), *self.unturned(x), None
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)  # else later tokens would read padding
        parts = torch.cat([self.query(x), self.pair(x)], -1)
        parts, tail = self.conv(parts, state and state.tail)
        q, k, v = (self._split(part) for part in parts.chunk(3, -1))
        return q, k, v, tail

    def _prefixed(self, k: Tensor, v: Tensor) -> Iterator[Tensor]:
        """Keys and values [..., B, H, T, d], each behind those of the persistent tokens."""
        first = self.persistent_pairs(self.persistent, k.shape[-4])
        for p, t in zip(first, (k, v), strict=True):
            yield torch.cat([p.to(t.dtype).expand(*t.shape[:-2], -1, -1), t], -2)

    def _full(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        tokens, before = q.shape[2], self.persistent.shape[0]
        first = valid is None and k.shape[2] == tokens
        k, v = self._prefixed(k, v)
        if first:  # queries for the persistent tokens too: square, so that the fastest causal kernels serve it
            q = F.pad(q, (0, 0, before, 0))
            with sdpa_kernel(FASTEST, set_priority=True):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, :, before:]
        steps = torch.arange(k.shape[2], device=q.device)
        own = steps == steps[-tokens:, None]  # a padded query sees itself: a row of nothing would be NaN
        allowed = steps <= steps[-tokens:, None]
        if valid is not None:
            allowed = (allowed & (F.pad(valid, (before, 0), value=True)[:, None] | own))[:, None]
        return F.scaled_dot_product_attention(q, k, v, allowed)

    def _windowed(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, past: int) -> Tensor:
        """Cost linear in T: FlashAttention, or queries in blocks, each against its own block and the one before."""
        if valid is None and flashes(q):
            from memory.ops.triton.flash import attend  # imports Triton, which need not be there

            pairs = (k, v, *self.persistent_pairs(self.persistent, 1))
            y, _ = attend(*(t.transpose(1, 2) for t in (q, *pairs)), self.window)
            return y.transpose(1, 2)
        time = q.shape[2]
        size = min(self.window, time)  # queries of a block
        blocks = -(-time // size)
        span = self.window + size  # keys of a block, one more than are seen: even rows of the mask are fast
        left, right = self.window - past, blocks * size - time
        if valid is None:
            valid = torch.ones(1, past + time, dtype=torch.bool, device=q.device)
        q = F.pad(q, (0, 0, 0, right)).unflatten(2, (blocks, size)).permute(2, 0, 1, 3, 4)  # [blocks, B, H, size, d]
        k, v = (F.pad(t, (0, 0, left, right)).unfold(2, span, size).permute(2, 0, 1, 4, 3) for t in (k, v))
        valid = F.pad(valid, (left, right)).unfold(1, span, size).transpose(0, 1)[:, :, None]
        behind = torch.arange(size, device=q.device)[:, None] + self.window - torch.arange(span, device=q.device)
        allowed = (behind >= 0) & (behind < self.window) & (valid | (behind == 0))  # [blocks, 1 or B, size, span]
        allowed = F.pad(allowed, (self.persistent.shape[0], 0), value=True).flatten(0, 1)[:, None]
        # where nothing is padded, all sequences are heads of one: a mask for each would be large
        as_heads = (t.reshape(len(allowed), -1, *t.shape[3:]) for t in (q, *self._prefixed(k, v)))
        y = F.scaled_dot_product_attention(*as_heads, allowed).view_as(q)
        return y.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :time]


_tables: dict[tuple, Rotation] = {}  # of segments, as they are the same in every one of every block


class SegmentAttention(AttentionBase):
    """MAC's attention inside one segment: over persistent tokens, retrieved context and the segment so far (eq. 22).

    Args:
        dim: model width, divisible by `heads`.
        heads: attention heads.
        aligned: context row j was retrieved by token j, so that token i may see it for j <= i only (and it shares
            token j's position); otherwise the context does not depend on the segment and every token sees all of it.
    """

    def __init__(self, dim: int, heads: int, aligned: bool) -> None:
        super().__init__(dim, heads)
        self.aligned = aligned

    def segments_rotation(self, x: Tensor, size: int) -> Rotation:
        """`rotation` of x [B, T, dim] that is whole segments of `size` rows; their angles are made once and for all."""
        key = (size, self.rotary, self._dtype(x), x.device)
        lasts = not (torch.compiler.is_compiling() or (x.is_cuda and torch.cuda.is_current_stream_capturing()))
        if lasts and key not in _tables:
            with torch.inference_mode(False), torch.no_grad():
                _tables[key] = rotation(torch.arange(size, device=x.device), *key[1:3])
        table = _tables.get(key) or rotation(torch.arange(size, device=x.device), *key[1:3])
        repeats = x.shape[1] // size
        return table if repeats == 1 else tuple(part.repeat(repeats, 1) for part in table)

    def forward(self, q: Tensor, persistent: tuple[Tensor, Tensor], context: KVCache, segment: KVCache) -> Tensor:
        """Attend with queries [B, H, T, d] of the segment's last rows, to [B, T, dim].

        Args:
            q: rotated queries.
            persistent: keys and values of the persistent tokens, [1, H, N_p, d].
            context: keys and values of what was retrieved.
            segment: keys and values of the segment's rows so far.
        """
        persistent = [t.expand(len(q), -1, -1, -1) for t in persistent]
        k = torch.cat([persistent[0], context.k, segment.k], 2)
        v = torch.cat([persistent[1], context.v, segment.v], 2)
        rows, mask = segment.k.shape[2], segment.valid
        own, seen = torch.arange(rows - q.shape[2], rows, device=q.device)[:, None], torch.arange(rows, device=q.device)
        causal = seen <= own  # [T, rows]
        if mask is not None:
            causal = causal & (mask[:, None] | (seen == own))  # a padded query sees itself: no row of nothing
        free = persistent[0].shape[2] + (0 if self.aligned else context.k.shape[2])
        free = causal.new_ones(*causal.shape[:-1], free)
        allowed = torch.cat([free, causal, causal] if self.aligned else [free, causal], -1)
        return self.leave(F.scaled_dot_product_attention(q, k, v, allowed if mask is None else allowed[:, None]))

    def parts(self, q: Tensor) -> bool:
        """Whether attention of queries [B, H, T, d] can be made in two parts, one before its context is there."""
        if torch.compiler.is_compiling():  # a trace would see what is overwritten behind autograd's back
            return False
        return self.aligned and flashes(q) and self.heads % 4 == 0  # or log-sum-exps of segments are not aligned

    def early(
        self, q: Tensor, k: Tensor, v: Tensor, persistent: tuple[Tensor, Tensor], size: int
    ) -> list[tuple[Tensor, ...]]:
        """What of whole segments of `size` rows waits for no context, at once; for each, what `late` goes on with."""
        from memory.ops.triton.flash import attend  # imports Triton, which need not be there

        batch = len(q)
        q, k, v = (t.transpose(1, 2).unflatten(1, (-1, size)).flatten(0, 1) for t in (q, k, v))
        y, lse = attend(q, k, v, *(t.transpose(1, 2) for t in persistent), 0)
        return list(zip(*(t.unflatten(0, (batch, -1)).unbind(1) for t in (y, lse, q)), strict=True))

    def late(self, y: Tensor, lse: Tensor, q: Tensor, context: KVCache) -> Tensor:
        """The rest of `forward` for one of these segments."""
        from memory.ops.triton.flash import more

        return self.leave(more(y, lse, q, context.k.transpose(1, 2), context.v.transpose(1, 2)).transpose(1, 2))
