"""A language model as a Hugging Face folder: weights, configuration and tokenizer (`python -m app export`)."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from app.module import TitansModule
from data_prep.tokenizer import ending
from domains.text.head import LanguageHead


def write(module: TitansModule, settings: dict[str, Any], folder: Path) -> None:
    """Write what `AutoModelForCausalLM` and `AutoTokenizer` read once `memory.hf` is imported.

    Args:
        module: a model with a `LanguageHead`, which has all that is written.
        settings: the hyper-parameters of its checkpoint.
        folder: where to; it is made if need be.
    """
    from transformers import PreTrainedTokenizerFast  # of an extra

    from memory.hf import TitansConfig, TitansForCausalLM

    head = cast(LanguageHead, module.head)
    config = TitansConfig(
        vocab_size=head.vocabulary,
        backbone=asdict(module.backbone.config),
        context=head.context,
        dropout=head.dropout.p,
        bos_token_id=head.end,
        eos_token_id=head.end,
        pad_token_id=head.end,
    )
    model = TitansForCausalLM(config)
    model.embedding.load_state_dict(head.embedding.state_dict())
    model.backbone.load_state_dict(module.backbone.state_dict())
    model.save_pretrained(folder)
    end = cast(str, head.tokenizer.id_to_token(head.end))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=ending(Tokenizer.from_str(head.tokenizer_json), end),
        bos_token=end,
        eos_token=end,
        pad_token=end,
        padding_side="right",
        split_special_tokens=True,  # a control token that a text holds is text, as in training
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
