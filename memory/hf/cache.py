"""States as part of a Hugging Face cache: what `generate` carries from token to token, copies, and reorders."""

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DummyLayer

from memory.state import State


class Holding:
    """Mixed into a layer of a cache, which then holds a state beside keys and values.

    Attributes:
        state: after what has been read, a pytree of tensors whose first axis is the batch; None before the first token.
    """

    _layer_type = None  # else transformers would register a subclass in the place of its base
    is_compileable = False
    is_croppable = False
    state: State | None = None

    def reset(self) -> None:
        """Go back before the first token."""
        super().reset()  # pyrefly: ignore[missing-attribute]
        self.state = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with rows [B] of the batch, some perhaps more than once."""
        super().reorder_cache(beam_idx)  # pyrefly: ignore[missing-attribute]
        self._change(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_select_indices(self, indices: Tensor) -> None:
        """As `reorder_cache`."""
        super().batch_select_indices(indices)  # pyrefly: ignore[missing-attribute]
        self._change(lambda tensor: tensor[indices])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Go on with `repeats` copies of each row, side by side."""
        super().batch_repeat_interleave(repeats)  # pyrefly: ignore[missing-attribute]
        self._change(lambda tensor: tensor.repeat_interleave(repeats, 0))

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse to forget tokens.

        Raises:
            ValueError: there are some to forget.
        """
        if tokens_to_remove:
            raise ValueError(
                f"a memory cannot take back the last {tokens_to_remove} tokens that it has read; keep a copy.deepcopy "
                "of the cache to go back to"
            )
        super().crop(tokens_to_remove)  # pyrefly: ignore[missing-attribute]

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.state is not None:
            self.state = self.state.map(change)


def holding(layers: list[Any], number: int) -> Any:
    """A layer of a cache, put in the place of one that holds no state where need be."""
    layer = layers[number]
    if not isinstance(layer, Holding):
        kind = _holding(type(layer))
        layers[number] = object.__new__(kind)
        vars(layers[number]).update(vars(layer))
    return layers[number]


@cache
def _holding(kind: type) -> type:
    return type(f"{kind.__name__}WithState", (Holding, kind), {})


class StateLayer(Holding, DummyLayer, CacheLayerMixin):
    """A layer that holds a state and no keys and values.

    Attributes:
        tokens: how many have been read, padding included.
    """

    tokens = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: there are no keys and values."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many tokens a query may see, and the place of the first."""
        return self.tokens + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens that have been read."""
        return self.tokens

    def reset(self) -> None:
        """Go back before the first token."""
        super().reset()
        self.tokens = 0


class StateCache(Cache):
    """The state of a `TitansForCausalLM`: a call goes on from the one it is given, and leaves its own state there.

    `copy.deepcopy` of it keeps a place in a text, to go on from there more than once.
    """

    def __init__(self) -> None:
        self.layer = StateLayer()
        super().__init__(layers=[self.layer])

    @property
    def state(self) -> Any:
        """`BackboneState` after what has been read; None before the first token."""
        return self.layer.state

    def advance(self, state: State, tokens: int) -> None:
        """Take the state after `tokens` more tokens."""
        self.layer.state = state
        self.layer.tokens += tokens
