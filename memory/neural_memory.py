"""The neural long-term memory as a layer: projections and gates around `memory_scan`."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory.config import MemoryConfig
from memory.layers import ConvProjection, RMSNorm
from memory.ops import Rule, Tokens, initial_state, memory_scan
from memory.ops.rule import gelu
from memory.ops.serves import fuses
from memory.state import FastState, MemoryState


def step_bound(features: int, chunk: int, mean_square: float) -> float:
    """Largest stable inner step for a chunk of random features read by a linear map (loss 1/2 |.|^2, no momentum).

    A chunk's mean-square map is stable while theta times the largest eigenvalue of its feature Gram matrix is below 2;
    for random features that eigenvalue is mean_square (sqrt(features) + sqrt(chunk))^2 (Marchenko-Pastur).
    """
    return 2 / (mean_square * (math.sqrt(features) + math.sqrt(chunk)) ** 2)


def gelu_mean_square(deviation: float) -> float:
    """Mean of GELU(z)^2 for normal z with mean 0 and this standard deviation."""
    z = torch.linspace(-6, 6, 1201, dtype=torch.float64, device="cpu")  # also where a model is built on meta
    weight = (-z.square() / 2).exp()
    return ((gelu(deviation * z).square() * weight).sum() / weight.sum()).item()


def _first_and_last(config: MemoryConfig) -> tuple[float, float]:
    """Where forgetting starts in the first and in the last head."""
    start = config.forgetting_start
    return (start, start) if isinstance(start, int | float) else tuple(start)


class NeuralMemory(nn.Module):
    """A memory that learns while it reads (Titans section 3.1), [B, T, dim] to [B, T, dim].

    Args:
        dim: model width, divisible by `config.heads`.
        config: what the memory is; see `MemoryConfig`.
    """

    def __init__(self, dim: int, config: MemoryConfig) -> None:
        super().__init__()
        self.config = config
        heads, width = config.heads, dim // config.heads
        sizes = [width] + [config.expansion * width] * (config.depth - 1) + [width]
        features = sizes[-2]
        key_length = math.sqrt(width) if config.key_norm == "sqrt" else 1.0
        # a value is as long as what LayerNorm answers: the error then is one of direction, which M can undo
        value_length = math.sqrt(width) if config.norm else 0.0
        lengths = (key_length, value_length)
        asked, written = ((0, 0), (1, 0)) if config.shift_keys else (None, None)
        self.query = ConvProjection(dim, (dim, 0), (key_length, 0.0), width, config.conv, config.backend, asked)
        self.pair = ConvProjection(dim, (dim, dim), lengths, width, config.conv, config.backend, written)
        channels = features if config.channel_forgetting else 1
        # logits of theta, of eta and of alpha, as far as there are: one map, as each alone would read all of x again
        self.gate_sizes = [heads] + [heads] * config.momentum + [heads * channels] * config.forgetting
        self.gates = nn.Linear(dim, sum(self.gate_sizes))
        # hidden units must see keys where GELU bends: at 1/sqrt(d) they are all but linear, and recall is not learned
        seen = 3.0 if config.depth == 2 else 1.0  # deviation of their inputs; deeper memories turn chaotic at 3
        deviations = [1 / math.sqrt(d_in) for d_in in sizes[:-1]]
        mean_square = key_length**2 / width  # of what the last layer sees
        if config.depth > 1:
            deviations[0] = seen / key_length
            for _ in range(config.depth - 1):
                mean_square = gelu_mean_square(seen)
                seen = math.sqrt(mean_square)
        self.init = nn.ParameterList(  # M_0
            deviation * torch.randn(heads, d_in, d_out)
            for deviation, d_in, d_out in zip(deviations, sizes, sizes[1:], strict=False)
        )
        self.scale = nn.Parameter(torch.ones(heads, width)) if config.norm else None
        self.shift = nn.Parameter(torch.zeros(heads, width)) if config.norm else None
        multiple = config.theta_max or (10.0 if config.norm and config.depth <= 2 else 1.0)
        # LayerNorm undoes the scale of its inputs
        self.theta_max = multiple * step_bound(features, config.chunk, 1.0 if config.norm else mean_square)
        self.eta_max = 1.0
        if config.errors == "exact":  # a step of 1 on a unit key makes the memory answer that key with its value
            self.theta_max = (config.theta_max or 1.0) / key_length**2
            # a token's step is scaled by its own 1 - eta but carried on by later etas: all of it may come to twice what
            # was wanted, which the next error undoes; without a bound training ended in NaN after some 40 steps
            self.eta_max = 0.5
        self.out_norm = RMSNorm(width)
        self.out_gate = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.recording = False
        self.health: list[tuple[int, dict[str, Tensor]]] = []  # tokens and measurements of each recorded call
        starts = [(0.0, 0.0)] + [(1.0, 1.0)] * config.momentum + [_first_and_last(config)] * config.forgetting
        with torch.no_grad():
            for bias, (first, last) in zip(self.gates.bias.split(self.gate_sizes), starts, strict=True):
                bias.view(heads, -1).copy_(torch.linspace(first, last, heads, device=bias.device)[:, None])

    @torch.no_grad()
    def stop_forgetting(self) -> None:
        """Hold alpha at 0 from now on, whatever the tokens, to read texts far longer than those of training."""
        if self.config.forgetting:
            self.gates.weight.split(self.gate_sizes)[-1].zero_()
            self.gates.bias.split(self.gate_sizes)[-1].fill_(-100.0)  # 1 - sigmoid(-100) is 1 in every precision

    def initial_state(self, batch: int) -> MemoryState:
        """The memory of `batch` sequences before their first token."""
        return MemoryState(initial_state(list(self.init), batch))

    def forward(
        self, x: Tensor, state: MemoryState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, MemoryState]:
        """Write every token and read the memory with it, its own write included.

        Args:
            x: tokens, [B, T, dim].
            state: what the call before returned; None at the start of the sequences.
            mask: False at padding, [B, T]; such a position writes nothing.

        Returns:
            [B, T, dim] and the state after the last token.
        """
        if state is None:
            state = self.initial_state(x.shape[0])
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        y, state = self.write(x, state, mask)
        return self.output(y, x), state

    def write(self, x: Tensor, state: MemoryState, mask: Tensor | None = None) -> tuple[Tensor, MemoryState]:
        """What of `forward` waits for the memory: what each token reads, [B, T, H, D], and the state; 0 at padding."""
        if x.is_cuda and x.dtype != torch.float64 and torch.is_autocast_enabled("cuda"):
            x = x.to(torch.get_autocast_dtype("cuda"))  # once, not once in each of six linear maps
        q, _, query_tail = self.query(x, state.query_tail)
        k, v, pair_tail = self.pair(x, state.pair_tail)
        theta, log_eta, log_keep = self._gates(x)
        tokens = Tokens(q, k, v, theta, log_eta, log_keep, mask)
        prior = list(self.init) if self.config.forget_to == "init" else None
        y, fast = memory_scan(tokens, state.fast, self._rule(prior), self.config.backend)
        if self.recording:
            self.health.append((x.shape[1], self._measure(k, v, theta, log_eta, log_keep, mask, state.fast, fast)))
        return y, MemoryState(fast, query_tail, pair_tail)

    def output(self, y: Tensor, x: Tensor) -> Tensor:
        """The rest of `forward`: what tokens x [B, T, dim] have read, [B, T, H, D], to [B, T, dim]."""
        return self._leave(y, self.out_gate(x))

    def retrieve(self, x: Tensor, weights: list[Tensor], tail: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Read a memory that stays as it is with queries from x (eq. 15).

        Args:
            x: tokens, [B, T, dim].
            weights: the memory, [B, H, d_in, d_out] per layer.
            tail: the query convolution's last inputs; None at the start.

        Returns:
            [B, T, dim] and the convolution's new tail.
        """
        q, gate, tail = self.ask(x, tail)
        return self.answer(weights, q, gate), tail

    def ask(self, x: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """What of `retrieve` needs no memory: queries [B, T, H, D], the answer's gate [B, T, dim], the new tail."""
        q, _, tail = self.query(x, tail)
        return q, self.out_gate(x), tail

    def answer(self, weights: list[Tensor], q: Tensor, gate: Tensor) -> Tensor:
        """The rest of `retrieve`: [B, T, dim]."""
        if fuses(q, q.shape[-1], self.config.backend):
            from memory.ops.triton import retrieve  # imports Triton, which need not be there

            if retrieve.serves(weights):
                y = retrieve.retrieve(weights, q, self.scale, self.shift, self.config.residual)
                return self._leave(y.to(gate.dtype), gate)
        with torch.autocast(q.device.type, enabled=False):
            y = self._read(weights, q.to(weights[0].dtype))
        return self._leave(y.to(gate.dtype), gate)

    def _read(self, weights: list[Tensor], q: Tensor) -> Tensor:  # q, result [B, T, H, D]
        rule = self._rule().by_row().map(lambda p: p.to(q.dtype))
        return rule.read(weights, q.transpose(1, 2)).transpose(1, 2)

    def _rule(self, prior: list[Tensor] | None = None) -> Rule:
        norm = None if self.scale is None else (self.scale, self.shift)
        return Rule(self.config.chunk, self.config.residual, norm, prior, self.config.errors)

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """theta [B, T, H], log eta [B, T, H] and log(1 - alpha) [B, T, H, channels] of tokens [B, T, dim]."""
        logits, config = self.gates(x), self.config
        if not config.channel_forgetting and fuses(x, x.shape[-1] // config.heads, config.backend):
            from memory.ops.triton.gates import gates  # imports Triton, which need not be there

            found = gates(logits, config.heads, self.theta_max, self.eta_max, config.momentum, config.forgetting)
            return found[0], found[1], found[2][..., None]
        parts = list(logits.to(torch.promote_types(x.dtype, torch.float32)).split(self.gate_sizes, -1))
        theta = self.theta_max * parts.pop(0).sigmoid()
        log_eta, log_keep = torch.full_like(theta, float("-inf")), torch.zeros_like(theta)[..., None]
        if config.momentum:
            eta = parts.pop(0)
            log_eta = F.logsigmoid(eta) + math.log(self.eta_max)
            # momentum adds up 1 / (1 - eta) steps, this keeps their sum
            theta = theta * ((-eta).sigmoid() + (1 - self.eta_max) * eta.sigmoid())
        if config.forgetting:
            log_keep = F.logsigmoid(-parts.pop(0)).unflatten(-1, (config.heads, -1))
        return theta, log_eta, log_keep

    @torch.no_grad()
    def _measure(
        self,
        k: Tensor,
        v: Tensor,
        theta: Tensor,
        log_eta: Tensor,
        log_keep: Tensor,
        mask: Tensor | None,
        before: FastState,
        after: FastState,
    ) -> dict[str, Tensor]:
        """What a researcher wants to see of one call, as scalars; surprise is 1/2 |M(k) - v|^2 over real tokens."""
        real = torch.ones_like(theta) if mask is None else mask[..., None].expand_as(theta).to(theta.dtype)

        def mean(x: Tensor) -> Tensor:  # of [B, T, H]
            return (x * real).sum() / real.sum().clamp(min=1)

        health = {}
        for name, gate in (("theta", theta), ("eta", log_eta.exp()), ("alpha", (1 - log_keep.exp()).mean(-1))):
            health[f"{name}_mean"] = mean(gate)
            health[f"{name}_std"] = mean((gate - health[f"{name}_mean"]).square()).sqrt()
        with torch.autocast(k.device.type, enabled=False):
            for name, state in (("before", before), ("after", after)):
                missed = self._read(state.weights, k.to(state.weights[0].dtype)) - v
                health[f"surprise_{name}"] = mean(missed.square().sum(-1)) / 2
        for name, tensors in (("weight_norm", after.weights), ("momentum_norm", after.momentum)):
            health[name] = torch.stack([t.square().sum((-2, -1)).mean() for t in tensors]).sum().sqrt()
        return health

    def _leave(self, y: Tensor, gate: Tensor) -> Tensor:
        """Normalise per head, gate, project: [B, T, H, D] to [B, T, dim]."""
        return self.out(self.out_norm.gated(y, gate, self.config.backend))
