"""The verb `surprise`: sequences of DNA, coloured by how much each token surprised the memory."""

import argparse
from typing import cast

import torch

from app.errors import UserError, user_errors
from app.module import module_of, read_checkpoint
from app.surprise import PASSAGES, TOKENS, Passage, refuse_without_memory, write_page
from app.trace import traces
from domains.genomics.bases import decode
from domains.genomics.head import SequenceHead
from domains.genomics.records import Passed
from domains.genomics.stream import PIECES
from domains.genomics.trained import Preprocessing


@user_errors()
def main(arguments: argparse.Namespace) -> None:
    """Read the sequences of a file one by one, each from a fresh state on the strand it is written in.

    Raises:
        UserError: the model has no memory, or no sequence could be read.
    """
    checkpoint = read_checkpoint(arguments.ckpt)
    module = module_of(checkpoint, arguments.ckpt, SequenceHead)
    refuse_without_memory(module)
    stem = cast(SequenceHead, module.head).stem
    read = Preprocessing.of(checkpoint["config"])
    passed = Passed()
    passages: list[Passage] = []
    notes = ["Every sequence is read from a fresh state, forwards, on the strand that the file gives."]
    left = TOKENS
    found = (
        (name, records.sequences[row])
        for records in read.stream(arguments.input, PIECES["cpu"], passed)
        for row, name in enumerate(records.ids)
    )
    for name, bases in found:
        if not left or len(passages) == PASSAGES:
            notes.append(f"Left out: all sequences from {name} on; a page holds {PASSAGES}, and {TOKENS:,} tokens.")
            break
        shown = bases[: left * stem.stride]
        if len(shown) < len(bases):
            notes.append(f"Left out: all but the first {len(shown):,} of the {len(bases):,} bases of {name}.")
        letters = decode(shown)
        pieces = [letters[start : start + stem.stride] for start in range(0, len(letters), stem.stride)]
        with torch.no_grad():
            tokens = stem(shown[None].to(stem.embedding.weight.device), None)
        passages.append(Passage(str(name), pieces, traces(module.backbone, tokens)))
        left -= len(pieces)
    if not passages:
        raise UserError(f"{arguments.input}: no sequence could be read; {passed}")
    notes += [f"Left out: {passed}."] if passed.counts else []
    write_page(arguments, passages, notes)
