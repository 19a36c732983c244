"""A memory beside the attention of a pretrained Hugging Face decoder, which gates it as MAG does (Titans eq. 26-28)."""

import inspect
import json
from collections.abc import Iterable, MutableMapping
from dataclasses import asdict
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedModel

from memory.config import MemoryConfig
from memory.hf.cache import holding
from memory.hf.padding import padding
from memory.mixers import Gate
from memory.neural_memory import NeuralMemory
from memory.state import MemoryState

NAME = "beside"  # of the memory within an attention; peft's `modules_to_save` takes it
ATTENTIONS = ("self_attn", "self_attention", "attn", "attention")  # what blocks call theirs
CACHES = {"cache", "layer_past"}  # what attentions call theirs


def add_memory(model: PreTrainedModel, layers: Iterable[int], memory: MemoryConfig | None = None) -> PreTrainedModel:
    """Put a memory beside the attention of some blocks of a decoder, in place; each reads what its attention reads.

    What attention answers, y, becomes y + a * gate(y, m), with m what the memory answers, the gate of MAG, and a
    learned factor a for each channel that is 0 at first: the model then computes what it did before, and a is the first
    to learn. The memory's state is part of the cache that attention is given.

    Args:
        model: any decoder of transformers whose attention takes a `cache`, such as Llama's or Qwen's.
        layers: numbers of the blocks, from 0.
        memory: the memory of each; by default with as many heads as the attention.

    Returns:
        the model, for peft or any other trainer; `beside` is the name of each new part.

    Raises:
        ValueError: there is no such block, it has no attention that takes a cache, or it has a memory already.
    """
    decoder = model.get_decoder()
    config = model.config.get_text_config()
    blocks = next((child for child in decoder.children() if isinstance(child, nn.ModuleList)), nn.ModuleList())
    attentions = {number: _attention(blocks, number) for number in layers}
    memory = memory or MemoryConfig(heads=config.num_attention_heads)
    parts = [Beside(config.hidden_size, memory).to(next(attention.parameters())) for attention in attentions.values()]
    hooks = _Hooks()  # from here on nothing is refused, so that a refused model is as it was
    decoder.register_forward_pre_hook(hooks.before, with_kwargs=True)
    decoder.register_forward_hook(hooks.behind)
    for attention, beside in zip(attentions.values(), parts, strict=True):
        hooks.anywhere = beside.memory.tokens_per_anchor == 1  # every token an anchor: a memory without positions
        setattr(attention, NAME, beside)
        attention.register_forward_hook(hooks.after, with_kwargs=True)
    return model


def _attention(blocks: nn.ModuleList, number: int) -> nn.Module:
    """The attention of a block that can be given a memory; for errors see `add_memory`."""
    if not 0 <= number < len(blocks):
        raise ValueError(f"there is no block {number}: the decoder has {len(blocks)}, from 0")
    attention = next((getattr(blocks[number], name) for name in ATTENTIONS if hasattr(blocks[number], name)), None)
    if attention is None or not CACHES & {*_signature(type(attention)).parameters}:
        kind = type(blocks[number] if attention is None else attention).__name__
        raise ValueError(f"block {number}, with {kind}, has no attention that takes a `cache`; leave it out of layers")
    if hasattr(attention, NAME):
        raise ValueError(f"block {number} has a memory already")
    return attention


class Beside(nn.Module):
    """A memory and how its answers join those of an attention.

    The configuration travels with the weights: chunks or errors of another kind would fit and give other answers.

    Args:
        dim: width of a token.
        config: form and rule of the memory.
    """

    def __init__(self, dim: int, config: MemoryConfig) -> None:
        super().__init__()
        self.memory = NeuralMemory(dim, config)
        self.gate = Gate(dim)
        self.opening = nn.Parameter(torch.zeros(dim))

    def forward(
        self, x: Tensor, y: Tensor, state: MemoryState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, MemoryState]:
        """What attention reads, x, and answers, y, [B, T, dim], to what both answer, and the memory's state."""
        m, state = self.memory(x, state, mask)
        return y + self.opening * self.gate(y, m), state

    def get_extra_state(self) -> Tensor:
        """The configuration as JSON in bytes, as files of adapters hold tensors alone."""
        return torch.tensor(list(json.dumps(asdict(self.memory.config)).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse weights of a memory of another configuration.

        Raises:
            ValueError: names what differs.
        """
        ours = json.loads(bytes(self.get_extra_state().tolist()))
        theirs = asdict(MemoryConfig()) | json.loads(bytes(state.tolist()))  # an older file lacks newer fields
        differing = [key for key in ours if theirs[key] != ours[key] and key != "backend"]
        wrong = [f"{key} is {theirs[key]} there and {ours[key]} here" for key in differing]
        if wrong:
            raise ValueError(f"the weights are of another memory: {'; '.join(wrong)}; give add_memory theirs")


class _Hooks:
    """What happens around a decoder and around each attention with a memory.

    Attributes:
        mask: False at padding of the tokens that the decoder reads, [B, T]; None where nothing is padded.
        masks: that of each call in training, by the mask that its attentions are given.
        reading: whether the decoder is at work, and not a checkpoint that runs a block again behind later calls.
        anywhere: see `padding`.
    """

    mask: Tensor | None = None
    reading = False
    anywhere = False

    def __init__(self) -> None:
        self.masks: MutableMapping[Any, Tensor | None] = WeakIdKeyDictionary()

    def before(self, decoder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Note what is padding: attention is given a mask that no longer says so."""
        given = _given(decoder, args, kwargs)
        tokens = given.get("inputs_embeds") if given.get("input_ids") is None else given["input_ids"]
        self.mask = None if tokens is None else padding(given.get("attention_mask"), tokens, self.anywhere)
        self.reading = True

    def behind(self, decoder: nn.Module, args: tuple, output: Any) -> None:
        """Note that whatever runs from now on runs again."""
        self.reading = False

    def after(self, attention: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Add what the memory answers to what attention does, with its state in the layer of the cache."""
        given = _given(attention, args, kwargs)
        x = given["hidden_states"]
        held = next((given[name] for name in CACHES if name in given), None)
        layer = None if held is None else _layer(held.layers, attention.layer_idx, x.shape[1])
        y, *rest = output if isinstance(output, tuple) else (output,)
        mask = self._padding(given.get("attention_mask"), attention.training)
        y, state = getattr(attention, NAME)(x, y, None if layer is None else layer.state, mask)
        if layer is not None:
            layer.state = state
        return (y, *rest) if isinstance(output, tuple) else y

    def _padding(self, given: Any, training: bool) -> Tensor | None:
        """The mask of the call that an attention runs for, which is `given` the same object whenever it runs again."""
        if not self.reading:
            return None if given is None else self.masks.get(given, self.mask)
        if training and given is not None:
            self.masks[given] = self.mask
        return self.mask


def _given(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names."""
    return _signature(type(module)).bind(module, *args, **kwargs).arguments


@cache
def _signature(kind: type[nn.Module]) -> inspect.Signature:
    return inspect.signature(kind.forward)


def _layer(layers: list[Any], number: Any, tokens: int) -> Any:
    """The layer of a cache, which attention has just filled with `tokens` tokens, made ready to hold a state.

    Raises:
        ValueError: it has read others before without the memory.
    """
    layer = holding(layers, number)
    if layer.state is None and layer.get_seq_length() != tokens:
        raise ValueError("the cache has read tokens that the memory has not; begin with an empty cache")
    return layer
