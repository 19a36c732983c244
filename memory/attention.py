"""Short-term memory: causal attention over everything, a sliding window, or a MAC segment, with persistent tokens."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from memory.checks import check_cache
from memory.layers import Angles, ShortConv, lasts, rotary_angles, rotate, rotate_pair
from memory.ops import serves
from memory.precision import compute_dtype
from memory.rows import Slots, copied, keep, places
from memory.state import KVCache, extended

# cuDNN's causal kernels are about twice as fast on Hopper; where one does not serve a call, the next is asked
FASTEST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

MOST_POSITIONS = 1 << 17  # of which a table of rotary angles is kept
MOST_SHARED = 64  # keys that all queries see, which one tile of a kernel holds

_tables: dict[tuple, Angles] = {}


@torch.compiler.assume_constant_result  # else torch.compile would trace the question
def _has_flash(device: torch.device) -> bool:
    """Whether PyTorch's FlashAttention runs there."""
    return torch.cuda.get_device_capability(device)[0] >= 8


def flashes(q: Tensor, shared: int) -> bool:
    """Whether FlashAttention can be given queries [..., d] that all see so many shared keys."""
    half = q.dtype in (torch.bfloat16, torch.float16)
    return serves.fuses(q, q.shape[-1], "auto") and half and shared <= MOST_SHARED and _has_flash(q.device)


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
        self.pair = nn.Linear(dim, 2 * dim, bias=False)  # keys and values; checkpoints know it by this name
        self.out = nn.Linear(dim, dim, bias=False)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, T, d]

    def angles(self, x: Tensor, positions: Tensor) -> Angles:
        """Rotary angles of queries and keys of x [B, T, dim], for rows at these positions [T]."""
        return rotary_angles(positions, self.rotary, compute_dtype(x))

    def first_angles(self, x: Tensor, length: int) -> Angles:
        """`angles` of positions 0 .. length - 1, from tables that all calls and blocks share where they may be kept."""
        if serves.traced() or length > MOST_POSITIONS:
            return self.angles(x, torch.arange(length, device=x.device))
        size = 1 << (length - 1).bit_length()  # few sizes: none is given up, as a captured graph may read it
        key = (size, self.rotary, compute_dtype(x), x.device)
        if key not in _tables:
            with torch.inference_mode(False), torch.no_grad():
                table = rotary_angles(torch.arange(size, device=x.device), *key[1:3])
            if not lasts(x.device):
                return table[0][:length], table[1][:length]
            _tables[key] = table
        cos, sin = _tables[key]
        return cos[:length], sin[:length]

    def row_angles(self, x: Tensor, positions: Tensor) -> Angles:
        """Rotary angles of one token of each row of x [B, 1, dim], at positions [B]."""
        cos, sin = self.angles(x, positions)
        return cos[:, None, None], sin[:, None, None]

    def queries(self, x: Tensor, angles: Angles) -> Tensor:
        """Rotated queries [B, H, T, d] of x [B, T, dim]."""
        return rotate(self._split(self.query(x)), angles)

    def keys_values(self, x: Tensor, angles: Angles | None) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, T, d] of x [B, T, dim]; `angles` is None for tokens without a position."""
        pair = self.pair(x)
        if angles is None:
            k, v = self._apart(pair)
            return F.pad(k[..., self.rotary :], (self.rotary, 0)), v
        return rotate_pair(pair, self.heads, angles)

    def _apart(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, not rotated, and values [B, H, T, d] of the map's outputs for both, [B, T, 2 dim]."""
        k, v = pair.chunk(2, -1)
        return self._split(k), self._split(v)

    def persistent_keys_values(self, tokens: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, N_p, d] of persistent tokens [N_p, dim]."""
        k, v = self.keys_values(tokens[None], None)
        return k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1)

    def output(self, y: Tensor) -> Tensor:
        """Project what all heads answer, [B, H, T, d] to [B, T, dim]."""
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
        # half of the heads start as induction heads (2209.11895): their keys at the token before, their queries
        # projected as keys are, so that they find what followed a token; .9 nats after 350 steps on code
        half = heads // 2 * (dim // heads)
        self.conv = ShortConv(3 * dim, conv, slice(dim, dim + half)) if conv else None
        if conv > 1:
            with torch.no_grad():
                self.query.weight[:half] = self.pair.weight[:half]

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
        size = self.window - 1
        weight = self.pair.weight
        k = weight.new_zeros(1, self.heads, size, weight.shape[1] // self.heads)
        return KVCache(k, k, torch.zeros(1, size, dtype=torch.bool, device=k.device), window=self.window)

    def forward(self, x: Tensor, state: KVCache | None = None, mask: Tensor | None = None) -> tuple[Tensor, KVCache]:
        """Attend.

        Args:
            x: tokens, [B, T, dim].
            state: cache that the call before returned; None at the start of the sequences.
            mask: False at padding, [B, T] bool.

        Returns:
            [B, T, dim] and the cache for the next call.

        Raises:
            ValueError: the cache is of another kind of attention, of other sizes or of another batch.
        """
        window = self.window or 0
        if state is not None:
            check_cache(state, x, self.heads, window, self.conv)
        past = 0 if state is None else state.k.shape[2]
        q, pair, conv_cache = self._projected(x, state, mask)
        angles = self.first_angles(x, past + x.shape[1])
        own = (angles[0][past:], angles[1][past:])
        if self.window is None:
            cache = extended(state, *rotate_pair(pair, self.heads, own), mask)
            y = self._full(rotate(q, own), cache.k, cache.v, cache.valid)
            return self.output(y), replace(cache, conv_cache=conv_cache, window=window)
        # positions count from the oldest key in the cache: a state does not depend on how much was read before it
        q = rotate(q, own)
        cache = extended(state, *self._apart(pair), mask)
        if state is None:
            k, v = rotate_pair(pair, self.heads, angles)
        else:
            k, v = rotate(cache.k, angles), cache.v
        y = self._windowed(q, k, v, cache.valid, past)
        first = max(past + x.shape[1] - self.window + 1, 0)
        # copies: views would keep the whole sequence alive in every state
        k = cache.k[:, :, first:].clone()
        v = cache.v[:, :, first:].clone()
        valid = None if cache.valid is None else cache.valid[:, first:].clone()
        return self.output(y), KVCache(k, v, valid, conv_cache, window)

    def apart(self, state: KVCache, room: int) -> Slots:
        """A copy of what `forward` returned whose rows each have a position of their own, for `step`.

        Args:
            state: of tokens without padding.
            room: tokens that attention over the whole past has slots for, those of the state included; a window has as
                many as it sees.

        Raises:
            ValueError: something was padded, or there is less room than the state has tokens.
        """
        if state.valid is not None:
            raise ValueError("rows of a state that was padded cannot stand apart; see read_unequal")
        batch, heads, tokens, width = state.k.shape
        slots = self.window or room
        if tokens > slots:
            raise ValueError(f"a state of {tokens} tokens does not fit room for {slots}")
        k = state.k
        convolved = None if state.conv_cache is None else copied(state.conv_cache)
        if self.window is not None:
            k = rotate(k, rotary_angles(torch.arange(tokens, device=k.device), self.rotary, k.dtype))
        free = state.k.new_zeros(batch, heads, slots - tokens, width)
        first = self.persistent_keys_values(self.persistent.to(k.dtype), batch)
        k, v = (torch.cat([own.to(k.dtype), part, free], 2) for own, part in zip(first, (k, state.v), strict=True))
        return Slots(k, v, places(k, tokens), convolved)

    def step(self, x: Tensor, state: Slots) -> Tensor:
        """`forward` for one token of each row, [B, 1, dim]; the state is overwritten.

        Without a window there must be a free slot: what a full one would do is to forget the oldest token.
        """
        q, pair, conv_cache = self._projected(x, state, None)
        keep(state.conv_cache, conv_cache)
        angles = self.row_angles(x, state.position)
        k, v = rotate_pair(pair, self.heads, angles)
        before = len(self.persistent)
        slots = state.k.shape[2] - before
        state.put(before + state.position % slots, k, v)
        state.position += 1
        seen = torch.arange(-before, slots, device=x.device) < state.position[:, None]
        return self.output(state.attend(rotate(q, angles), seen))

    def _projected(
        self, x: Tensor, state: KVCache | Slots | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries [B, H, T, d], keys and values [B, T, 2 dim], none of them rotated, and the convolution's cache."""
        if self.conv is None:
            return self._split(self.query(x)), self.pair(x), None
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)  # otherwise later tokens would read padding
        parts = torch.cat([self.query(x), self.pair(x)], -1)
        parts, conv_cache = self.conv(parts, state and state.conv_cache)
        dim = x.shape[-1]
        q, pair = parts.split([dim, 2 * dim], -1)
        return self._split(q), pair, conv_cache

    def _prefixed(self, k: Tensor, v: Tensor) -> Iterator[Tensor]:
        """Keys and values [..., B, H, T, d], each behind those of the persistent tokens."""
        first = self.persistent_keys_values(self.persistent, k.shape[-4])
        for prefix, tokens in zip(first, (k, v), strict=True):
            prefix = prefix.to(tokens.dtype).expand(*tokens.shape[:-2], -1, -1)
            yield torch.cat([prefix, tokens], -2)

    def _full(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        tokens = q.shape[2]
        before = self.persistent.shape[0]
        first = valid is None and k.shape[2] == tokens
        k, v = self._prefixed(k, v)
        if first:  # queries for the persistent tokens too: square, so that the fastest causal kernels serve it
            q = F.pad(q, (0, 0, before, 0))
            with sdpa_kernel(FASTEST, set_priority=True):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, :, before:]
        steps = torch.arange(k.shape[2], device=q.device)
        own = steps == steps[-tokens:, None]
        allowed = steps <= steps[-tokens:, None]
        if valid is not None:
            real = F.pad(valid, (before, 0), value=True)[:, None]
            allowed = (allowed & (real | own))[:, None]  # a padded query sees itself: a row of nothing would be NaN
        return F.scaled_dot_product_attention(q, k, v, allowed)

    def _windowed(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, past: int) -> Tensor:
        """Cost linear in T: FlashAttention, or queries in blocks, each against its own block and the one before."""
        window = self.window
        assert window is not None  # without one the whole past is attended to at once
        if valid is None and flashes(q, len(self.persistent)):
            from memory.ops.triton.flash import attend  # imports Triton, which need not be there

            keys_values = (k, v, *self.persistent_keys_values(self.persistent, 1))
            q, k, v, all_k, all_v = (t.transpose(1, 2) for t in (q, *keys_values))
            y, _ = attend(q, k, v, all_k, all_v, window)
            return y.transpose(1, 2)
        time = q.shape[2]
        size = min(window, time)  # queries of a block
        blocks = -(-time // size)
        span = window + size  # keys of a block, one more than are seen: even rows of the mask are fast
        left = window - past
        right = blocks * size - time
        if valid is None:
            valid = torch.ones(1, past + time, dtype=torch.bool, device=q.device)

        def spans(tokens: Tensor) -> Tensor:  # [B, H, past + T, d] -> [blocks, B, H, span, d]
            tokens = F.pad(tokens, (0, 0, left, right))
            return tokens.unfold(2, span, size).permute(2, 0, 1, 4, 3)

        q = F.pad(q, (0, 0, 0, right)).unflatten(2, (blocks, size))
        q = q.permute(2, 0, 1, 3, 4)  # [blocks, B, H, size, d]
        valid = F.pad(valid, (left, right)).unfold(1, span, size)
        valid = valid.transpose(0, 1)[:, :, None]
        query = torch.arange(size, device=q.device)[:, None] + window
        behind = query - torch.arange(span, device=q.device)  # how far a key lies behind a query
        in_window = (behind >= 0) & (behind < window)
        allowed = in_window & (valid | (behind == 0))  # [blocks, 1 or B, size, span]
        allowed = F.pad(allowed, (self.persistent.shape[0], 0), value=True)
        allowed = allowed.flatten(0, 1)[:, None]
        # where nothing is padded, all sequences are heads of one: a mask for each would be large
        blocked = (q, *self._prefixed(spans(k), spans(v)))
        queries, keys, values = (t.reshape(len(allowed), -1, *t.shape[3:]) for t in blocked)
        y = F.scaled_dot_product_attention(queries, keys, values, allowed).view_as(q)
        return y.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :time]


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

    def segment_angles(self, x: Tensor, size: int) -> Angles:
        """`angles` of x [B, T, dim] that is whole segments of `size` rows, in each of which positions begin anew."""
        table = self.first_angles(x, size)
        repeats = x.shape[1] // size
        return table if repeats == 1 else (table[0].repeat(repeats, 1), table[1].repeat(repeats, 1))

    def forward(self, q: Tensor, persistent: tuple[Tensor, Tensor], context: KVCache, segment: KVCache) -> Tensor:
        """Attend with queries [B, H, T, d] of the segment's last rows, to [B, T, dim].

        Args:
            q: rotated queries.
            persistent: keys and values of the persistent tokens, [1, H, N_p, d].
            context: keys and values of what was retrieved.
            segment: keys and values of the segment's rows so far.
        """
        fixed_k, fixed_v = (t.expand(len(q), -1, -1, -1) for t in persistent)
        k = torch.cat([fixed_k, context.k, segment.k], 2)
        v = torch.cat([fixed_v, context.v, segment.v], 2)
        rows = segment.k.shape[2]
        steps = torch.arange(rows, device=q.device)
        own = steps[rows - q.shape[2] :, None]
        causal = steps <= own  # [T, rows]
        if segment.valid is not None:
            # a padded query sees itself: a row of nothing would be NaN
            causal = causal & (segment.valid[:, None] | (steps == own))
        free = fixed_k.shape[2] + (0 if self.aligned else context.k.shape[2])
        free = causal.new_ones(*causal.shape[:-1], free)
        allowed = torch.cat([free, causal, causal] if self.aligned else [free, causal], -1)
        if segment.valid is not None:
            allowed = allowed[:, None]
        return self.output(F.scaled_dot_product_attention(q, k, v, allowed))

    def parts(self, q: Tensor, shared: int) -> bool:
        """Whether attention of queries [B, H, T, d] can be made in two parts, one before its context is there.

        All of them see so many persistent tokens.
        """
        if torch.compiler.is_compiling():  # a trace would see what is overwritten behind autograd's back
            return False
        return (
            self.aligned and flashes(q, shared) and self.heads % 4 == 0
        )  # or log-sum-exps of segments are not aligned

    def early(
        self, q: Tensor, k: Tensor, v: Tensor, persistent: tuple[Tensor, Tensor], size: int
    ) -> list[tuple[Tensor, ...]]:
        """What of whole segments of `size` rows waits for no context, at once; for each, what `late` goes on with."""
        from memory.ops.triton.flash import attend  # imports Triton, which need not be there

        batch = len(q)
        q, k, v = (t.transpose(1, 2).unflatten(1, (-1, size)).flatten(0, 1) for t in (q, k, v))
        all_k, all_v = (t.transpose(1, 2) for t in persistent)
        y, lse = attend(q, k, v, all_k, all_v, 0)
        return list(zip(*(t.unflatten(0, (batch, -1)).unbind(1) for t in (y, lse, q)), strict=True))

    def late(self, y: Tensor, lse: Tensor, q: Tensor, context: KVCache) -> Tensor:
        """The rest of `forward` for one of these segments."""
        from memory.ops.triton.flash import more

        return self.output(more(y, lse, q, context.k.transpose(1, 2), context.v.transpose(1, 2)).transpose(1, 2))
