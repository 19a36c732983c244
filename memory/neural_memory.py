"""The neural long-term memory as a layer: projections and gates around `memory_scan`."""

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory.checks import (
    as_mask,
    check_conv_cache,
    check_dtype,
    check_memory_state,
    check_tokens,
    check_weights,
    refuse_reentrant,
)
from memory.config import MemoryConfig
from memory.gates import GateLogits
from memory.health import measure
from memory.layers import ConvProjection, RMSNorm, behind
from memory.ops import Rule, Tokens, initial_state, memory_scan, memory_step
from memory.ops.serves import fuses, retrieves
from memory.precision import cast_once, without_autocast
from memory.rows import MemoryRows, keep
from memory.stability import key_length, largest_eta, largest_step, layer_sizes, weight_deviations
from memory.state import MemoryState


class InitialMemory(nn.ParameterList):
    """M_0, learned: one [heads, d_in, d_out] per layer.

    Args:
        shapes: [heads, d_in, d_out] of each layer.
        deviations: standard deviation of each layer's entries at the start.
    """

    def __init__(self, shapes: list[tuple[int, int, int]], deviations: list[float]) -> None:
        super().__init__(torch.empty(shape) for shape in shapes)
        self.deviations = deviations
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw every layer."""
        for weight, deviation in zip(self, self.deviations, strict=True):
            weight.copy_(deviation * torch.randn_like(weight))


class NeuralMemory(nn.Module):
    """A memory that learns while it reads (Titans section 3.1), [B, T, dim] to [B, T, dim].

    Args:
        dim: model width; without `config.head_dim` it is divisible by `config.heads`.
        config: form and rule of the memory, by default `MemoryConfig()`.

    Raises:
        ValueError: the width is not divisible by the number of heads.
    """

    def __init__(self, dim: int, config: MemoryConfig | None = None) -> None:
        super().__init__()
        config = config or MemoryConfig()
        heads = config.heads
        if config.head_dim is None and (dim < heads or dim % heads):
            raise ValueError(f"dim {dim} is not divisible by memory.heads {heads}")
        self.dim = dim
        self.config = config
        width = config.head_dim or dim // heads
        inner = heads * width
        self.inner = inner  # width of all heads together
        sizes = layer_sizes(config, width)
        self.shapes = [(heads, *shape) for shape in pairwise(sizes)]  # of each layer
        length = key_length(config, width)
        # a value is as long as what LayerNorm answers: the error then is one of direction, which M can undo
        value_length = math.sqrt(width) if config.norm else 0.0
        query_delays = (0, 0) if config.induction else None
        delays = (1, 0) if config.induction else None
        self.query = ConvProjection(dim, (inner, 0), (length, 0.0), width, config.conv, config.backend, query_delays)
        lengths = (length, value_length)
        # keys and values; checkpoints know them by this name
        self.pair = ConvProjection(dim, (inner, inner), lengths, width, config.conv, config.backend, delays)
        self.gates = GateLogits(dim, config, channels=sizes[-2] if config.channel_forgetting else 1)
        self.init = InitialMemory(self.shapes, weight_deviations(config, width))
        self.scale = nn.Parameter(torch.ones(heads, width)) if config.norm else None
        self.shift = nn.Parameter(torch.zeros(heads, width)) if config.norm else None
        self.tokens_per_anchor = self._rule().tokens_per_anchor(config.depth)
        self.theta_max = largest_step(config, width)
        self.eta_max = largest_eta(config)
        self.out_norm = RMSNorm(width)
        self.out_gate = nn.Linear(dim, inner, bias=False)
        self.out = nn.Linear(inner, dim, bias=False)
        if config.induction:
            self._ask_for_keys()
        self.recording = False
        self.health: list[tuple[int, dict[str, Tensor]]] = []  # tokens and measurements of each recorded call

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw every parameter anew, as a new layer would, also where `to_empty` has left none."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not self and callable(reset):
                reset()
        if self.scale is not None and self.shift is not None:
            self.scale.fill_(1)
            self.shift.zero_()
        if self.config.induction:
            self._ask_for_keys()

    @torch.no_grad()
    def _ask_for_keys(self) -> None:
        """Make queries as keys are made, from the token itself where keys take the token before."""
        self.query.linear.weight.copy_(self.pair.linear.weight[: self.inner])
        queries, keys = cast(nn.Conv1d, self.query.conv), cast(nn.Conv1d, self.pair.conv)
        queries.weight.zero_()
        queries.weight[..., 1:] = keys.weight[: self.inner, :, :-1]

    def stop_forgetting(self) -> None:
        """Hold alpha at 0 from now on, whatever the tokens, to read texts far longer than those of training."""
        self.gates.stop_forgetting()

    def initial_state(self, batch: int) -> MemoryState:
        """The memory of `batch` sequences before their first token."""
        return MemoryState(initial_state(list(self.init), batch), tokens_per_anchor=self.tokens_per_anchor)

    def forward(
        self, x: Tensor, state: MemoryState | None = None, mask: Tensor | None = None, before: Tensor | None = None
    ) -> tuple[Tensor, MemoryState]:
        """Write every token and read the memory with it, its own write included.

        For activation checkpointing pass `use_reentrant=False`: the reentrant kind would cut the state from the graph.

        Args:
            x: tokens, [B, T, dim], in the layer's dtype or under autocast.
            state: what the call before returned; None at the start of the sequences.
            mask: 0 or False at padding, [B, T] of any dtype; such a position writes nothing.
            before: tokens that every sequence begins with, [P, dim]; what they read is not returned.

        Returns:
            [B, T, dim] and the state after the last token.

        Raises:
            ValueError: tokens, state or mask do not fit the layer or each other, or a reentrant checkpoint calls.
        """
        self._check_tokens(x)
        mask = as_mask(mask, x)
        if state is None:
            state = self.initial_state(1)  # which stands for all sequences
        else:
            self.check_state(state, x)
        refuse_reentrant(x, state.fast.weights[0])
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        y, state = self.write(x, state, mask, before)
        return self.output(y, x), state

    def write(
        self, x: Tensor, state: MemoryState, mask: Tensor | None = None, before: Tensor | None = None
    ) -> tuple[Tensor, MemoryState]:
        """What of `forward` waits for the memory: what tokens read, [B, P + T, H, D], and the state; 0 at padding."""
        if before is not None and mask is not None:
            mask = F.pad(mask, (len(before), 0), value=True)
        tokens, query_cache, key_value_cache = self._tokens(x, state, mask, before)
        y, fast = memory_scan(tokens, state.fast, self._rule(self._prior()), self.config.backend)
        if self.recording:
            with torch.no_grad():
                gates = _named(tokens.theta, tokens.log_eta, tokens.log_keep)
                self.health.append((y.shape[1], measure(self._read, tokens.k, tokens.v, gates, mask, state.fast, fast)))
        return y, MemoryState(fast, query_cache, key_value_cache, self.tokens_per_anchor)

    @torch.no_grad()
    def write_step(self, x: Tensor, state: MemoryRows) -> Tensor:
        """`write` for one token of each row, [B, 1, dim]; the state is overwritten."""
        tokens, query_cache, key_value_cache = self._tokens(x, state)
        keep(state.query_cache, query_cache)
        keep(state.key_value_cache, key_value_cache)
        return memory_step(tokens, state.fast, self._rule(self._prior()), self.config.backend)

    @torch.no_grad()
    def step(self, x: Tensor, state: MemoryRows) -> Tensor:
        """`forward` for one token of each row, [B, 1, dim]; the state is overwritten."""
        return self.output(self.write_step(x, state), x)

    @torch.no_grad()
    def apart(self, state: MemoryState) -> MemoryRows:
        """A copy of what `forward` returned whose rows each have a position of their own, for `step`."""
        return MemoryRows.of(state, self.tokens_per_anchor)

    def _tokens(
        self,
        x: Tensor,
        state: MemoryState | MemoryRows,
        mask: Tensor | None = None,
        before: Tensor | None = None,
    ) -> tuple[Tokens, Tensor | None, Tensor | None]:
        """What happens at tokens `before` [P, dim] and x [B, T, dim], and the new caches of the convolutions."""
        x = cast_once(x)
        if before is not None:
            before = before.to(x.dtype)
        q, _, query_cache = self.query(x, state.query_cache, before)
        k, v, key_value_cache = self.pair(x, state.key_value_cache, before)
        return Tokens(q, k, v, *self._gates(x, before), mask), query_cache, key_value_cache

    def _prior(self) -> list[Tensor] | None:
        """What forgetting leads to; None for zero."""
        return list(self.init) if self.config.forget_to == "init" else None

    def output(self, y: Tensor, x: Tensor) -> Tensor:
        """The rest of `forward`: what tokens x [B, T, dim] have read, [B, before + T, H, D], to [B, T, dim].

        It is normalised per head, gated and projected.
        """
        return self.out_norm.gated_linear(y, self.out_gate(x), self.out, self.config.backend)

    def _check_tokens(self, x: Tensor) -> None:
        weight = self.gates.weight
        check_tokens(x, self.dim, weight.device)
        check_dtype(x, weight)

    @property
    def fast_dtype(self) -> torch.dtype:
        """That fast weights are continued in."""
        return torch.float64 if self.gates.weight.dtype == torch.float64 else torch.float32

    def check_state(self, state: MemoryState, x: Tensor) -> None:
        """Refuse a state that this layer cannot continue with tokens x [B, T, dim].

        Raises:
            ValueError: names what differs.
        """
        check_memory_state(state, x, self.shapes, self.fast_dtype, self.tokens_per_anchor)
        check_conv_cache(state.query_cache, self.query.cache_sizes, x)
        check_conv_cache(state.key_value_cache, self.pair.cache_sizes, x)

    def retrieve(self, x: Tensor, weights: list[Tensor], cache: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Read a memory that stays as it is with queries from x (eq. 15).

        Args:
            x: tokens, [B, T, dim].
            weights: the memory, [B, H, d_in, d_out] per layer; [H, d_in, d_out] for one that all sequences share.
            cache: the query convolution's last inputs, [B, conv - 1, dim]; None at the start.

        Returns:
            [B, T, dim] and the convolution's new cache.

        Raises:
            ValueError: tokens, weights or cache do not fit the layer.
        """
        self._check_tokens(x)
        check_weights(weights, self.shapes)
        check_conv_cache(cache, self.query.cache_sizes, x)
        q, gate, cache = self.ask(x, cache)
        return self.answer(weights, q, gate), cache

    @torch.no_grad()
    def surprise(self, x: Tensor, state: MemoryState | None = None) -> Tensor:
        """Inner loss 1/2 |M(k) - v|^2 (eq. 12) of each token, at the memory before its own write.

        The errors that tokens are written by are taken where `config.errors` says, for a chunk at its start by default;
        these are those of the memory as the token before has left it. They are causal, so that padding behind a
        sequence changes nothing before it.

        Args:
            x: tokens, [B, T, dim], in the layer's dtype or under autocast.
            state: what `forward` returned for the tokens before these; None at the start of the sequences.

        Returns:
            [B, T, H], without a gradient, in the dtype of the memory.

        Raises:
            ValueError: tokens or state do not fit the layer or each other.
        """
        self._check_tokens(x)
        if state is None:
            state = self.initial_state(x.shape[0])
        else:
            self.check_state(state, x)
        x = cast_once(x)
        k, v, _ = self.pair(x, state.key_value_cache)
        # Reads follow writes: asked with the key of the token behind it, each token reads what that one finds.
        tokens = Tokens(k.roll(-1, 1), k, v, *self._gates(x))
        y, _ = memory_scan(tokens, state.fast, self._rule(self._prior()), self.config.backend)
        weights = state.fast.weights
        with without_autocast(x.device):
            first = self._read(weights, k[:, :1].to(weights[0].dtype))
            answers = torch.cat([first, y[:, :-1].to(first.dtype)], 1)
            return (answers - v).square().sum(-1) / 2

    @torch.no_grad()
    def gate_values(self, x: Tensor) -> dict[str, Tensor]:
        """`theta`, `eta` and `alpha` of tokens [B, T, dim], each [B, T, H], a mean where alpha has several channels."""
        return _named(*self._gates(x))

    @torch.no_grad()
    def values(self, x: Tensor) -> Tensor:
        """What tokens [B, T, dim] from the start of their sequences are to be answered with, [B, T, H, D]."""
        return self.pair(x, None)[1]

    def ask(self, x: Tensor, cache: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The part of `retrieve` that needs no memory.

        Returns:
            queries [B, T, H, D], the output gate [B, T, H * D], and the query convolution's new cache.
        """
        q, _, cache = self.query(x, cache)
        return q, self.out_gate(x), cache

    def answer(self, weights: list[Tensor], q: Tensor, gate: Tensor) -> Tensor:
        """The rest of `retrieve`: [B, T, dim]."""
        y = self._answers(weights, q).to(gate.dtype)
        return self.out(self.out_norm.gated(y, gate, self.config.backend))  # once a segment: see `memory.deferred`

    def _answers(self, weights: list[Tensor], q: Tensor) -> Tensor:  # q, result [B, T, H, D]
        if fuses(q, q.shape[-1], self.config.backend) and retrieves(q, weights, self._rule()):
            from memory.ops.triton.retrieve import retrieve  # imports Triton, which need not be there

            return retrieve(weights, q, self.scale, self.shift, self.config.residual)
        with without_autocast(q.device):
            return self._read(weights, q.to(weights[0].dtype))

    def _read(self, weights: list[Tensor], q: Tensor) -> Tensor:  # q, result [B, T, H, D]
        rule = self._rule().by_row().map(lambda p: p.to(q.dtype))
        return rule.read(weights, q.transpose(1, 2)).transpose(1, 2)

    def _rule(self, prior: list[Tensor] | None = None) -> Rule:
        norm = None if self.scale is None or self.shift is None else (self.scale, self.shift)
        return Rule(self.config.chunk, self.config.residual, norm, prior, self.config.errors, self.config.momentum)

    def _gates(self, x: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """theta [B, T, H], log eta [B, T, H] and log(1 - alpha) [B, T, H, channels] of tokens [B, T, dim].

        Those of tokens `before` [P, dim] come first.
        """
        config = self.config
        logits = self.gates(x)
        if before is not None:
            logits = behind(self.gates(before), logits)
        if not config.channel_forgetting and fuses(x, self.inner // config.heads, config.backend):
            from memory.ops.triton.gates import gates  # imports Triton, which need not be there

            theta, log_eta, log_keep = gates(
                logits, config.heads, self.theta_max, self.eta_max, config.momentum, config.forgetting
            )
            return theta, log_eta, log_keep[..., None]
        logits = self.gates.split(logits.to(torch.promote_types(x.dtype, torch.float32)))
        theta = self.theta_max * logits["theta"].sigmoid()
        log_eta = torch.full_like(theta, float("-inf"))
        log_keep = torch.zeros_like(theta)[..., None]
        if config.momentum:
            eta = logits["eta"]
            log_eta = F.logsigmoid(eta) + math.log(self.eta_max)
            # momentum adds up 1 / (1 - eta) steps, this keeps their sum
            theta = theta * ((-eta).sigmoid() + (1 - self.eta_max) * eta.sigmoid())
        if config.forgetting:
            log_keep = F.logsigmoid(-logits["alpha"]).unflatten(-1, (config.heads, -1))
        return theta, log_eta, log_keep


def _named(theta: Tensor, log_eta: Tensor, log_keep: Tensor) -> dict[str, Tensor]:
    """The gates by name, each [B, T, H], from what the recurrence takes."""
    return {"theta": theta, "eta": log_eta.exp(), "alpha": (1 - log_keep.exp()).mean(-1)}
