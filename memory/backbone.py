"""The Titans backbone: a stack of pre-norm residual blocks in one of four variants or two controls."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from memory import wavefront
from memory.checks import as_mask, check_kind, check_tokens, refuse_reentrant
from memory.config import BackboneConfig
from memory.layers import RMSNorm, SwiGLU
from memory.mixers import mixers_of
from memory.neural_memory import NeuralMemory
from memory.precision import cast_once
from memory.shared_input import shared_input
from memory.state import BackboneState, State
from memory.unequal import one_by_one


class Block(nn.Module):
    """x + mixer(norm(x)) for each mixer, then x + feed_forward(norm(x))."""

    def __init__(self, config: BackboneConfig, feed_forward: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.mixers = nn.ModuleList(mixers_of(config))
        self.norms = nn.ModuleList(RMSNorm(config.dim) for _ in range(len(self.mixers) + 1))
        self.feed_forward = feed_forward(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def begin(self) -> list[State]:
        """The states of one sequence before its first token."""
        return [cast(Any, mixer).begin() for mixer in self.mixers]

    def forward(self, x: Tensor, states: list[State] | None, mask: Tensor | None) -> tuple[Tensor, list[State]]:
        """[B, T, dim] to [B, T, dim], and the states of this block's mixers."""
        after = []
        y = None
        for i, mixer in enumerate(self.mixers):
            x, normed = self._norms[i].added(x, y)
            with shared_input(normed):
                y, state = mixer(normed, states and states[i], mask)
            y = self.dropout(y)
            after.append(state)
        x, normed = self._norms[-1].added(x, y)
        return x + self.dropout(self.feed_forward(normed)), after

    def step(self, x: Tensor, states: list[State]) -> Tensor:
        """`forward` for one token of each row, [B, 1, dim], into states whose rows are apart; they are overwritten."""
        y = None
        for mixer, norm, state in zip(self.mixers, self._norms, states, strict=False):
            x, normed = norm.added(x, y)
            y = cast(Any, mixer).step(cast_once(normed), state)
        x, normed = self._norms[-1].added(x, y)
        return x + self.feed_forward(normed)

    def checkpointed(self, x: Tensor, states: list[State] | None, mask: Tensor | None) -> tuple[Tensor, list[State]]:
        """As `forward`, but activations are computed again in the backward instead of kept until then."""
        recording = [memory for memory in self.memories() if memory.recording]
        contexts: dict[str, Any] = (
            {"context_fn": lambda: (nullcontext(), _not_recording(recording))} if recording else {}
        )
        return checkpoint(self, x, states, mask, use_reentrant=False, **contexts)

    @property
    def _norms(self) -> Sequence[RMSNorm]:
        """The norms by their class, which a ModuleList does not declare."""
        return cast(Sequence[RMSNorm], self.norms)

    def memories(self) -> list[NeuralMemory]:
        """The memories of this block."""
        return [module for module in self.modules() if isinstance(module, NeuralMemory)]


@contextmanager
def _not_recording(memories: list[NeuralMemory]) -> Iterator[None]:
    """Keep memories from measuring the same call a second time."""
    for memory in memories:
        memory.recording = False
    try:
        yield
    finally:
        for memory in memories:
            memory.recording = True


class TitansBackbone(nn.Module):
    """Tokens [B, T, dim] to hidden states [B, T, dim], causal, with a state that continues a sequence exactly.

    Args:
        config: variant, sizes and memory; see `BackboneConfig`.
        feed_forward: builds what follows the mixers of a block from the width, [B, T, dim] to [B, T, dim].

    Attributes:
        side_by_side: let blocks work side by side on few long sequences (`memory.wavefront`), as far as a call reads
            them from their start: up to twice as fast in a CUDA graph, and slower where a host launches each kernel, of
            which there are more. Set it before the warm-up of what is then captured.
    """

    side_by_side: bool = False

    def __init__(self, config: BackboneConfig, feed_forward: Callable[[int], nn.Module] = SwiGLU) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config, feed_forward) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim)

    def forward(
        self, x: Tensor, state: BackboneState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, BackboneState]:
        """Run tokens through all blocks.

        For activation checkpointing set `checkpoint` in the configuration. A checkpoint around this call must be of the
        kind `use_reentrant=False`: the reentrant kind would cut the state from the graph.

        Args:
            x: tokens, [B, T, dim].
            state: what the call before returned; None at the start of the sequences.
            mask: 0 or False at padding, [B, T] of any dtype; padding is never attended to and never written, but counts
                as a position of chunks, segments and windows: pad behind a sequence where it must equal the unpadded
                one, or see `read_unequal`. To a state whose rows are `apart`, padding is nothing at all, and it has no
                gradient.

        Returns:
            hidden states [B, T, dim], normalised, and the state after the last token.

        Raises:
            ValueError: tokens, state or mask do not fit the backbone or each other, or a reentrant checkpoint calls.
        """
        check_tokens(x, self.config.dim, self.norm.weight.device)
        mask = as_mask(mask, x)
        if state is not None:
            self._check_state(state)
            if state.apart:
                return one_by_one(self, x, state, mask)
        refuse_reentrant(x)
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)  # padding may hold anything, NaN too
        again = self.config.checkpoint and torch.is_grad_enabled()
        blocks = [block.checkpointed if again else block for block in self._blocks]
        if self.side_by_side and state is None and len(sizes := wavefront.pieces(self.config, x)) > 1:
            x, after = wavefront.run(blocks, x, mask, sizes)
            return self.norm(x), BackboneState(after)
        after = []
        for i, block in enumerate(blocks):
            x, states = block(x, None if state is None else state.blocks[i], mask)
            after.append(states)
        return self.norm(x), BackboneState(after)

    @property
    def steps(self) -> bool:
        """Whether rows can stand apart: a mixer of the user's own need not have `apart` and `step`."""
        return all(hasattr(mixer, "step") for block in self._blocks for mixer in block.mixers)

    @torch.no_grad()
    def apart(self, state: BackboneState, room: int = 0) -> BackboneState:
        """A copy of a state whose rows each stand at a place of their own, to go on one token at a time.

        Rows of such states, all of one `room`, may be taken (`map`) and put together (`joined`). What a slice takes is
        a view: clone it if the other rows go on too, as a step overwrites what it is given.

        Args:
            state: what `forward` returned, of tokens without padding.
            room: tokens that the cache of `attention` has slots for, those read before included; no other variant needs
                any.

        Raises:
            ValueError: the state is of another backbone, is apart already, was padded, or has read more tokens than
                there is room for; or a mixer has no `step`.
        """
        self._check_state(state)
        if state.apart:
            raise ValueError("the rows of this state are apart already; go on with forward or step")
        if not self.steps:
            raise ValueError(f"{self.config.variant} has no methods apart and step, so that its rows stand together")
        blocks = []
        for block, states in zip(self._blocks, state.blocks, strict=True):
            mixers = zip(block.mixers, states, strict=True)
            blocks.append([cast(Any, mixer).apart(part, room) for mixer, part in mixers])
        return BackboneState(blocks, apart=True)

    @torch.no_grad()
    def step(self, x: Tensor, state: BackboneState) -> Tensor:
        """The hidden state [B, 1, dim] after one token of each row, [B, 1, dim]; the state is overwritten.

        Nothing here waits for the device or depends on how much was read: a step can be captured as a CUDA graph. Rows
        do not see each other, so that what is not needed may hold anything. The cache of `attention` must have room.

        Raises:
            ValueError: there is not one token for each row, or rows of the state are not `apart`.
        """
        check_tokens(x, self.config.dim, self.norm.weight.device)
        if x.shape[1] != 1 or not state.apart:
            raise ValueError("step takes one token of each row and a state whose rows are apart")
        for block, states in zip(self._blocks, state.blocks, strict=True):
            x = block.step(x, states)
        return self.norm(x)

    @property
    def _blocks(self) -> Sequence[Block]:
        """The blocks by their class, which a ModuleList does not declare."""
        return cast(Sequence[Block], self.blocks)

    def _check_state(self, state: BackboneState) -> None:
        check_kind(state, BackboneState)
        mixers = [len(block.mixers) for block in self._blocks]
        states = [len(block) for block in state.blocks]
        if states != mixers:
            raise ValueError(f"state is of blocks with {states} mixers, and this backbone's blocks have {mixers}")

    def begin(self) -> BackboneState:
        """The state of one sequence before its first token, with gradients to what every sequence begins from.

        `begin().where(rows, state)` lets some rows of a batch begin while the others go on.

        Raises:
            ValueError: the variant is `attention`, in which rows would differ in how much they may see.
        """
        return BackboneState([block.begin() for block in self._blocks])

    def memories(self) -> dict[str, NeuralMemory]:
        """The memory of each block that has one, by the block's name."""
        memories = {}
        for i, block in enumerate(self._blocks):
            for memory in block.memories():
                memories[f"layer{i}"] = memory
        return memories

    def stop_forgetting(self) -> None:
        """Hold alpha at 0 in every memory from now on, to read texts far longer than those of training."""
        for memory in self.memories().values():
            memory.stop_forgetting()

    def record(self, on: bool) -> None:
        """Make the next forwards measure the health of every memory, or stop it."""
        for memory in self.memories().values():
            memory.recording = on

    def health(self) -> dict[str, Tensor]:
        """Scalars such as `layer0/theta_mean`, means over the tokens of all recorded forwards; reading forgets them.

        What is measured before and behind a call is that of each piece where blocks work side by side.
        """
        values: dict[str, Tensor] = {}
        for layer, memory in self.memories().items():
            total = sum(tokens for tokens, _ in memory.health)
            for tokens, measured in memory.health:  # MAC calls its memory once a segment
                for name, value in measured.items():
                    key = f"{layer}/{name}"
                    part = value * (tokens / total)
                    values[key] = values[key] + part if key in values else part
            memory.health = []
        return values
