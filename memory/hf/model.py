"""A Titans language model with the interface of Hugging Face: weights, states and numbers are ours."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from memory.backbone import TitansBackbone
from memory.config import CONTROLS
from memory.hf.cache import StateCache
from memory.hf.config import TitansConfig
from memory.hf.padding import padding, stands_before
from memory.state import BackboneState
from memory.unequal import read_unequal

ROWS = 64  # the embedding's rows are filled up to a multiple, as matrix products are slow at odd sizes


class TitansForCausalLM(PreTrainedModel, GenerationMixin):
    """Ids [B, T] to logits [B, T, V]; the cache is a `StateCache`.

    Args:
        config: sizes, backbone and vocabulary.
    """

    config_class = TitansConfig
    _input_embed_layer = "embedding"  # what `get_input_embeddings` returns
    supports_gradient_checkpointing = True
    _is_stateful = True  # assisted generation would have to take tokens back
    _no_split_modules = ["Block"]

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(-(-config.vocab_size // ROWS) * ROWS, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.backbone = TitansBackbone(config.backbone_config())
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Draw an embedding; what is in the backbone has been drawn by its constructors."""
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.hidden_size**-0.5)  # logits of about unit size

    def _initialize_missing_keys(self, is_quantized: bool) -> None:
        """Refuse a file that lacks weights of the model: they would be whatever memory held.

        Raises:
            ValueError: names some of them.
        """
        super()._initialize_missing_keys(is_quantized)
        read = {name: getattr(weight, "_is_hf_initialized", False) for name, weight in self.named_parameters()}
        lacking = [name for name, known in read.items() if not known]
        if lacking:
            raise ValueError(f"the weights lack {', '.join(lacking[:3])} (in all {len(lacking)}); export them again")

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Another vocabulary, for tokens that are added; rows are filled up to a multiple of 64 as before."""
        embedding = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of or ROWS, mean_resizing)
        if new_num_tokens is not None:
            self.config.vocab_size = new_num_tokens
        return embedding

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = None, every_n_layers: int = 1
    ) -> None:
        """Let the backbone run its blocks a second time in the backward.

        Raises:
            ValueError: another kind of checkpoint is asked for.
        """
        kind = getattr(gradient_checkpointing_func, "func", checkpoint)
        options = getattr(gradient_checkpointing_func, "keywords", {"use_reentrant": False})
        if enable and (kind is not checkpoint or options != {"use_reentrant": False} or every_n_layers != 1):
            raise ValueError(
                "the backbone checkpoints each block, with use_reentrant=False and without offloading; ask for no other"
            )
        self.backbone.config.checkpoint = enable
        self.gradient_checkpointing = enable  # what `is_activation_checkpointing` reads

    def _prepare_cache_for_generation(  # pyrefly: ignore[bad-override]
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Let `generate` begin with a cache of ours."""
        if generation_config.cache_implementation is not None:
            kind = generation_config.cache_implementation
            raise ValueError(f"cache_implementation {kind!r} holds keys and values; this model's cache is its state")
        if model_kwargs.get("cache") is not None:
            super()._prepare_cache_for_generation(  # pyrefly: ignore[bad-argument-type]
                generation_config, model_kwargs, *args, **kwargs
            )
        elif generation_config.use_cache:
            model_kwargs["cache"] = StateCache()

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # pyrefly: ignore[bad-override]
        """The arguments of a call within `generate`, which hands on its tokenizers to models that take any argument."""
        given = {name: value for name, value in kwargs.items() if name not in ("tokenizer", "assistant_tokenizer")}
        return super().prepare_inputs_for_generation(*args, **given)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: StateCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: int | Tensor | None = None,
    ) -> CausalLMOutputWithPast:
        """Read tokens, from the start of their texts or on from a cache.

        Args:
            input_ids: [B, T].
            attention_mask: 0 at padding, [B, T] or [B, past + T]. It may stand behind the tokens of a row; before them
                without a gradient, as in `generate`, where every row is then read as it would be alone.
            inputs_embeds: vectors in the place of ids, [B, T, D].
            cache: where to go on from; it holds the state after these tokens when the call returns.
            labels: ids [B, T], each the target of the place before it; -100 is not scored.
            use_cache: return a cache even if none was given; by default outside of training.
            logits_to_keep: of how many tokens at the end logits are made, or of which; 0 for all.
            output_attentions: must not be true; so `output_hidden_states`.
            num_items_in_batch: targets that the loss is a mean over, where gradients of several batches are added up.

        Returns:
            logits [B, T, V] in float32, with labels the mean nats of the targets, and the cache.

        Raises:
            ValueError: neither or both of ids and vectors are given, or what this model has not is asked for.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give one of input_ids and inputs_embeds")
        if output_attentions or output_hidden_states:
            raise ValueError("this model returns no attentions and no hidden states of single blocks; ask for neither")
        if cache is not None and not isinstance(cache, StateCache):
            raise ValueError(f"cache is a {type(cache).__name__}; this model goes on from a StateCache")
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if cache is None and use_cache:
            cache = StateCache()
        x = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        hidden, state = self._read(self.dropout(x), attention_mask, None if cache is None else cache.state)
        if cache is not None:
            cache.advance(state, x.shape[1])
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        weight = self.embedding.weight
        loss = None
        if labels is None:
            rows = nn.functional.linear(hidden[:, kept], weight)
        else:
            rows = nn.functional.linear(hidden, weight)
            loss = self.loss_function(rows, labels, len(weight), num_items_in_batch=num_items_in_batch)
            rows = rows[:, kept]
        logits = rows[..., : self.config.vocab_size].float()
        return CausalLMOutputWithPast(loss=loss, logits=logits, cache=cache)

    def _read(self, x: Tensor, mask: Tensor | None, state: BackboneState | None) -> tuple[Tensor, BackboneState]:
        """What the backbone makes of vectors [B, T, D] behind a state, and the state after them."""
        together = self.backbone.config.variant in CONTROLS  # attention alone: padding before a row moves nothing
        apart = state is not None and state.apart
        learns = torch.is_grad_enabled()
        if mask is not None and state is None and not (together or learns) and stands_before(mask):
            return read_unequal(self.backbone, x, mask)
        return self.backbone(x, state, padding(mask, x, anywhere=together or apart))
