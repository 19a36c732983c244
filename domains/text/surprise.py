"""The verb `surprise`: a text, coloured by how much each token surprised the memory."""

import argparse
from typing import cast

import torch

from app.errors import UserError
from app.module import load_module
from app.reading import reading
from app.surprise import TOKENS, Passage, refuse_without_memory, write_page
from app.trace import traces
from domains.text.head import LanguageHead


def main(arguments: argparse.Namespace) -> None:
    """Read a text as one document, and write the page.

    Raises:
        UserError: the model has no memory, or the file is empty.
    """
    module = load_module(arguments.ckpt, LanguageHead)
    refuse_without_memory(module)
    head = cast(LanguageHead, module.head)
    with reading(arguments.input, "UTF-8 text", "convert it"):
        text = arguments.input.read_text(encoding="utf-8")
    encoded = head.tokenizer.encode(text, add_special_tokens=False)
    if not encoded.ids:
        raise UserError(f"{arguments.input}: holds no token; write something into it")
    ids = torch.tensor([[head.end, *encoded.ids[:TOKENS]]], device=head.embedding.weight.device)
    with torch.no_grad():
        seen = traces(module.backbone, head.embed_ids(ids))
    total = len(encoded.ids)
    notes = ["The first token, written (start), stands before every document."]
    if total > TOKENS:
        notes.append(f"Left out: all but the first {TOKENS:,} of {total:,} tokens.")
    pieces = ["(start)", *pieces_of(text, encoded.offsets[:TOKENS])]
    write_page(arguments, [Passage(arguments.input.name, pieces, seen)], notes)


def pieces_of(text: str, offsets: list[tuple[int, int]]) -> list[str]:
    """The part of a text that each token adds; of a character in several tokens, the first one has it.

    Args:
        text: what was encoded.
        offsets: first character and end of each token, which some tokenizers tell without the blank before it.
    """
    pieces = []
    done = 0
    for _, end in offsets:
        pieces.append(text[done : max(end, done)])
        done = max(end, done)
    return pieces
