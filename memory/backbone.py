"""The Titans backbone: a stack of pre-norm residual blocks in one of four variants or two controls."""

from collections.abc import Callable
from importlib import import_module

from torch import Tensor, nn

from memory.attention import Attention
from memory.config import BackboneConfig
from memory.layers import RMSNorm, SwiGLU
from memory.mixers import ContextMixer, GateMixer, MemoryMixer
from memory.neural_memory import NeuralMemory
from memory.state import BackboneState, State
from memory.wavefront import wavefront


def _mixers(config: BackboneConfig) -> list[nn.Module]:
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
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"backbone.variant {dotted}: {error}; name a class that can be imported") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):  # a checkpoint from anywhere may name it
        raise ValueError(f"backbone.variant {dotted} is no torch.nn.Module; name the class of a mixer")
    return found


class Block(nn.Module):
    """x + mixer(norm(x)) for each mixer, then x + feed_forward(norm(x))."""

    def __init__(self, config: BackboneConfig, feed_forward: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.mixers = nn.ModuleList(_mixers(config))
        self.norms = nn.ModuleList(RMSNorm(config.dim) for _ in range(len(self.mixers) + 1))
        self.feed_forward = feed_forward(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def begin(self) -> list[State]:
        """The states of one sequence before its first token."""
        return [mixer.begin() for mixer in self.mixers]

    def forward(self, x: Tensor, states: list[State] | None, mask: Tensor | None) -> tuple[Tensor, list[State]]:
        """[B, T, dim] to [B, T, dim], and the states of this block's mixers."""
        after = []
        for i, mixer in enumerate(self.mixers):
            y, state = mixer(self.norms[i](x), states and states[i], mask)
            x = x + self.dropout(y)
            after.append(state)
        return x + self.dropout(self.feed_forward(self.norms[-1](x))), after


class TitansBackbone(nn.Module):
    """Tokens [B, T, dim] to hidden states [B, T, dim], causal, with a state that continues a sequence exactly.

    Args:
        config: variant, sizes and memory; see `BackboneConfig`.
        feed_forward: builds what follows the mixers of a block from the width, [B, T, dim] to [B, T, dim].
    """

    def __init__(self, config: BackboneConfig, feed_forward: Callable[[int], nn.Module] = SwiGLU) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config, feed_forward) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim)
        self.wavefront = False  # mac: blocks beside each other, for a step that is captured as a CUDA graph

    def forward(
        self, x: Tensor, state: BackboneState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, BackboneState]:
        """Run tokens through all blocks.

        Args:
            x: tokens, [B, T, dim].
            state: what the call before returned; None at the start of the sequences.
            mask: False at padding, [B, T]; padding is never attended to and never written, but counts as a position of
                chunks, segments and windows: pad behind a sequence where it must equal the unpadded one.

        Returns:
            hidden states [B, T, dim], normalised, and the state after the last token.

        Raises:
            ValueError: there is no token.
        """
        if not x.shape[1]:
            raise ValueError("the backbone was given no token: x is [B, 0, dim]")
        if mask is not None:
            mask = mask.bool()
            x = x.masked_fill(~mask[..., None], 0)  # padding may hold anything, NaN too
        if self.wavefront and self.config.variant == "mac" and state is None and mask is None:
            x, after = wavefront(self.blocks, x, self.config.segment)
            return self.norm(x), BackboneState(after)
        after = []
        for i, block in enumerate(self.blocks):
            x, states = block(x, state and state.blocks[i], mask)
            after.append(states)
        return self.norm(x), BackboneState(after)

    def begin(self) -> BackboneState:
        """The state of one sequence before its first token, with gradients to what every sequence begins from.

        `begin().where(rows, state)` lets some rows of a batch begin while the others go on.

        Raises:
            ValueError: the variant is `attention`, in which rows would differ in how much they may see.
        """
        return BackboneState([block.begin() for block in self.blocks])

    def memories(self) -> dict[str, NeuralMemory]:
        """The memory of each block that has one, by the block's name."""
        return {
            f"layer{i}": module
            for i, block in enumerate(self.blocks)
            for module in block.modules()
            if isinstance(module, NeuralMemory)
        }

    def stop_forgetting(self) -> None:
        """Hold alpha at 0 in every memory from now on, to read texts far longer than those of training."""
        for memory in self.memories().values():
            memory.stop_forgetting()

    def record(self, on: bool) -> None:
        """Make the next forwards measure the health of every memory, or stop it."""
        for memory in self.memories().values():
            memory.recording = on

    def health(self) -> dict[str, Tensor]:
        """Scalars such as `layer0/theta_mean`, means over the tokens of all recorded forwards; reading forgets them."""
        values = {}
        for layer, memory in self.memories().items():
            total = sum(tokens for tokens, _ in memory.health)
            for tokens, measured in memory.health:  # MAC calls its memory once a segment
                for name, value in measured.items():
                    key = f"{layer}/{name}"
                    values[key] = values.get(key, 0) + value * (tokens / total)
            memory.health = []
        return values
