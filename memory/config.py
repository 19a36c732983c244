"""The two dataclasses that describe a Titans model; every key of a YAML's `backbone:` is a field here."""

import math
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args

import torch

from memory.bounds import Bounds, check_bounds

Backend = Literal["auto", "reference", "chunked", "triton"]
Variant = Literal["lmm", "mac", "mag", "mal", "attention", "swa"]

NULL = type(None)
KINDS: dict[Any, tuple[tuple[type, ...], str]] = {  # by the type of a field, what its value must be
    int: ((Integral,), "a whole number"),
    float: ((Real,), "a number"),
    str: ((str,), "a name"),
    bool: ((bool,), "true or false"),
    int | None: ((Integral, NULL), "a whole number or null"),
    float | None: ((Real, NULL), "a number or null"),
    float | tuple[float, float]: ((Real, tuple), "a number, or two"),
}
CONTROLS = ("attention", "swa")  # variants without a memory
Prior = Literal["zero", "init"]  # the memory that forgetting leads to
KeyNorm = Literal["unit", "sqrt"]
Errors = Literal["anchor", "exact"]


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a value is of one of these kinds: true is no number, and a tuple, or list, is of two numbers."""
    if isinstance(value, list | tuple):
        return tuple in kinds and len(value) == 2 and all(_fits(part, (Real,)) for part in value)
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _check(config: Any, prefix: str, choices: dict[str, Any], bounds: Bounds) -> None:
    """Refuse a field that is of another kind, none of its choices, not finite, or out of its bounds, naming the key.

    Raises:
        ValueError: names the first such key and what it may be.
    """
    for each in fields(config):
        if each.type not in KINDS:  # a choice, or a dataclass of its own
            continue
        kinds, said = KINDS[each.type]
        value = getattr(config, each.name)
        if not _fits(value, kinds):
            raise ValueError(f"{prefix}.{each.name} is {value!r}; it must be {said}")
    for name, kind in choices.items():
        if (value := getattr(config, name)) not in get_args(kind):
            raise ValueError(f"{prefix}.{name} is {value!r}; choose {', '.join(get_args(kind))}")
    check_bounds(prefix, vars(config), bounds)


@dataclass
class MemoryConfig:
    """The neural long-term memory of one layer (Titans section 3.1).

    Args:
        heads: independent memories per layer; without `head_dim` the model width must be divisible by it.
        head_dim: width of a head; None for the model width divided by `heads`. Wider ones hold more: a matrix memory's
            state grows with its square, its projections in step.
        depth: layers L_M of the memory MLP, 1 (a matrix) to 4.
        expansion: hidden width of the memory MLP in multiples of the head width; no effect at depth 1.
        errors: where the inner gradient of a token is taken. `anchor`: at the end of the chunk before, the paper's
            chunk form. `exact`: at the memory as the token before has left it, equations 8 to 14 to the letter; one
            triangular system a chunk gives all errors at once. It needs a memory without `norm`. A deep memory's errors
            are exact in its last layer, on features of unit length, and its other gradients those of `anchor`; no
            kernels serve it yet.
        chunk: tokens that share the gradient's anchor, the memory at the end of the chunk before; with exact errors in
            a memory of depth 1 only how many tokens are computed at once.
        residual: M(x) = x + MLP(x) instead of MLP(x).
        norm: LayerNorm on the MLP's output, with a slow (outer-learned) scale and shift; values get its length.
        momentum: keep past surprise S; off means eta = 0.
        forgetting: let alpha decay the memory; off means alpha = 0.
        forgetting_start: logit of alpha before training; at -4 half is left after 38 tokens, at -8 after 2,066. Two
            numbers are those of the first and the last head, with the others evenly between: memories of one block
            that forget at different speeds. See memory/README.md for what sequences of thousands of tokens want.
        channel_forgetting: one alpha per hidden unit (per key channel at depth 1) instead of one per head.
        forget_to: where forgetting leads, `init` (the learned M_0) or `zero` (the paper's equation, under which a deep
            memory dies or turns chaotic: see memory/README.md).
        key_norm: length of queries and keys, `unit` or `sqrt` (the square root of the head width).
        theta_max: largest inner step as a multiple of the inner loop's stability bound; by default 10 with `norm` up to
            depth 2, which keeps larger steps stable, and 1 without or beyond. Without `norm` the bound holds for any
            keys, with it for random ones. With exact errors: a multiple of the step that makes the memory answer a key
            with its value, by default 1.
        conv: width of the causal depthwise convolution on q, k and v; 0 turns it off.
        induction: start as an induction head (2209.11895): the convolution of keys at the token before, those of
            queries and values at the token itself, and queries projected as keys are. Before any training the memory
            then answers a token with what has followed it: in language, .9 nats after 350 steps. Off, all three see a
            random mix of both tokens.
        backend: `reference` (token by token), `chunked` (matrix products), `triton` (fused kernels) or `auto`, which
            takes Triton on a GPU where its kernels serve the call and `chunked` elsewhere.
    """

    heads: int = 4
    head_dim: int | None = None
    depth: int = 2
    expansion: int = 2
    errors: Errors = "anchor"
    chunk: int = 16
    residual: bool = True
    norm: bool = True
    momentum: bool = True
    forgetting: bool = True
    forgetting_start: float | tuple[float, float] = -4.0
    channel_forgetting: bool = False
    forget_to: Prior = "init"
    key_norm: KeyNorm = "unit"
    theta_max: float | None = None
    conv: int = 4
    induction: bool = False
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        choices = {"forget_to": Prior, "key_norm": KeyNorm, "errors": Errors, "backend": Backend}
        bounds = dict.fromkeys(("heads", "head_dim", "expansion", "chunk"), (1, math.inf))
        bounds |= {"depth": (1, 4), "conv": (0, math.inf)}
        _check(self, "memory", choices, bounds)
        if self.theta_max is not None and self.theta_max <= 0:
            raise ValueError(f"memory.theta_max is {self.theta_max}; it must be positive")
        if self.induction and self.conv < 2:
            raise ValueError(f"memory.induction needs a convolution of two tokens; memory.conv is {self.conv}")
        if self.errors == "exact" and self.norm:
            raise ValueError("memory.errors exact has a closed form with memory.norm false only")


@dataclass
class BackboneConfig:
    """A stack of blocks over tokens [B, T, dim] in one of four Titans variants or two controls.

    Args:
        variant: `lmm` (memory only), `mac` (context), `mag` (gate), `mal` (layer), or a control: `attention` (full
            causal) or `swa` (sliding window). Or the dotted name of a class of your own that takes the place of the
            mixers: it is built from this config, and called with tokens [B, T, dim], its state or None, and a mask
            [B, T] or None, it returns [B, T, dim] and a `State`. With methods `apart` and `step`, as mixers here have
            them, it can be served too.
        dim: model width.
        layers: number of blocks.
        heads: attention heads; `dim` must be divisible by it.
        window: tokens that sliding-window attention sees, its own included (`mag`, `mal`, `swa`).
        segment: tokens per MAC segment.
        conv: width of a causal depthwise convolution over time on queries, keys and values of attention, as the memory
            has one of its own; 0 turns it off. Half of the heads start with the keys of the tokens before, so that
            they find what followed a token. No effect on `lmm` and `mac`.
        persistent: learned persistent tokens per block; 0 turns them off.
        summary_tokens: 0 retrieves one MAC context token for each token (equations 21-22); N retrieves the answers to
            N learned queries instead.
        dropout: on the output of every mixer and feed-forward.
        checkpoint: keep the inputs of every block alone until the backward, which runs the block a second time for all
            that lies between: less memory for one more forward, and the same results and gradients.
        memory: the neural memory of each block.
    """

    variant: str = "lmm"
    dim: int = 64
    layers: int = 2
    heads: int = 4
    window: int = 128
    segment: int = 128
    conv: int = 0
    persistent: int = 4
    summary_tokens: int = 0
    dropout: float = 0.0
    checkpoint: bool = False
    memory: MemoryConfig = field(default_factory=MemoryConfig)

    def __post_init__(self) -> None:
        bounds = dict.fromkeys(("dim", "layers", "heads", "window", "segment"), (1, math.inf))
        bounds |= dict.fromkeys(("conv", "persistent", "summary_tokens"), (0, math.inf))
        bounds["dropout"] = (0, 1)
        own = "." not in str(self.variant)
        _check(self, "backbone", {"variant": Variant} if own else {}, bounds)
        if not isinstance(self.memory, MemoryConfig):
            raise ValueError(f"backbone.memory is {self.memory!r}; it must be a MemoryConfig")
        divides = {"heads": self.heads} if self.variant != "lmm" else {}
        if own and self.variant not in CONTROLS and self.memory.head_dim is None:
            divides["memory.heads"] = self.memory.heads
        for name, heads in divides.items():
            if self.dim % heads:
                raise ValueError(f"backbone.dim {self.dim} is not divisible by backbone.{name} {heads}")
        if "heads" in divides and self.dim // self.heads < 4:
            raise ValueError(f"backbone.heads {self.heads} leaves heads narrower than 4: no room for rotary positions")


# checkpoints written outside the command line hold these objects; let torch.load(weights_only=True) read them back
torch.serialization.add_safe_globals([MemoryConfig, BackboneConfig])
