"""The configuration of a Titans language model as a Hugging Face folder holds it."""

from typing import Any

from transformers import PreTrainedConfig

from memory.config import BackboneConfig, MemoryConfig


class TitansConfig(PreTrainedConfig):
    """A Titans language model: a backbone between two ends that share one matrix.

    Args:
        vocab_size: tokens V of the vocabulary; the embedding has rows for the next multiple of 64.
        backbone: fields of `BackboneConfig`, those of its memory as a dictionary in `memory`; each has its default.
        context: tokens of the sequences that the model was trained on; 0 where that is not known.
        dropout: on the embedded tokens.
        bos_token_id, eos_token_id, pad_token_id: id of the token that stands before documents.
        tie_word_embeddings: must be true.
        use_cache: whether calls outside of training return the state.

    Raises:
        ValueError: a field of the backbone is unknown or out of its bounds, there is no vocabulary, or the ends are not
            tied.
    """

    model_type = "titans"
    keys_to_ignore_at_inference = ["cache"]

    vocab_size: int = 257
    backbone: dict[str, Any] | None = None
    context: int = 0
    dropout: float = 0.0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = True
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        self.backbone = self.backbone or {}
        self.backbone_config()
        if not isinstance(self.vocab_size, int) or self.vocab_size < 1:
            raise ValueError(f"vocab_size is {self.vocab_size!r}; it must be a whole number, at least 1")
        if not self.tie_word_embeddings:
            raise ValueError("tie_word_embeddings is false; both ends of this model are one matrix")
        super().__post_init__(**kwargs)

    def backbone_config(self) -> BackboneConfig:
        """The backbone's configuration as the memory's own code takes it."""
        try:
            fields = dict(self.backbone or {})
            memory = dict(fields.pop("memory", {}))
            if isinstance(memory.get("forgetting_start"), list):  # JSON has no tuples
                memory["forgetting_start"] = tuple(memory["forgetting_start"])
            return BackboneConfig(**fields, memory=MemoryConfig(**memory))
        except TypeError as error:
            raise ValueError(f"backbone of a TitansConfig: {error}") from error

    @property
    def hidden_size(self) -> int:
        """Width of a token."""
        return self.backbone_config().dim

    @property
    def max_position_embeddings(self) -> int | None:
        """Tokens beyond which `attention` has never looked; every other variant reads on for ever."""
        return self.context or None if self.backbone_config().variant == "attention" else None

    @property
    def num_hidden_layers(self) -> int:
        """Blocks."""
        return self.backbone_config().layers

    @property
    def num_attention_heads(self) -> int:
        """Heads of the attention in a block."""
        return self.backbone_config().heads
