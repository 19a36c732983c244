"""SentencePiece models as `tokenizers` ones: BPE and unigram, as far as they keep every byte of a text."""

import re
import struct
from collections.abc import Iterator
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

# The types of pieces that matter here, as SentencePiece's files number them.
NORMAL = 1
UNKNOWN = 2
CONTROL = 3
USER_DEFINED = 4
NEVER = -1e6  # log-probability of a piece that is never to be chosen
UNIGRAM = 1  # the type of a model whose file names none
KEEP = "train it with --normalization_rule_name=identity --remove_extra_whitespaces=false --byte_fallback=true"


def sentencepiece(content: bytes) -> Tokenizer:
    """The tokenizer of a SentencePiece .model file.

    The library wants the merges of a BPE, and the file has scores: a merge is any two pieces that make up a third one,
    in the order of the third one's score.

    Raises:
        ValueError: it is none, or it changes texts before it reads them.
    """
    pieces = []
    trainer = {}
    normalizer = {}
    for field, value in _fields(content):
        if field == 1:
            piece = dict(_fields(value))
            score = struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0
            pieces.append((piece[1].decode(), score, piece.get(3, NORMAL)))
        elif field == 2:
            trainer = dict(_fields(value))
        elif field == 3:
            normalizer = dict(_fields(value))
    kinds = {piece: kind for piece, _, kind in pieces}
    unknown = next((number for number, (_, _, kind) in enumerate(pieces) if kind == UNKNOWN), None)
    if unknown is None or len(kinds) != len(pieces):
        raise ValueError("it holds no SentencePiece vocabulary")
    if normalizer.get(2) or normalizer.get(4, 1):
        raise ValueError(f"it changes texts ({normalizer.get(1, b'').decode() or 'white space'}); {KEEP}")
    match trainer.get(3, UNIGRAM):
        case 1:  # unigram
            # A text never means a control piece, so any other way to read it must be likelier.
            scores = [(piece, score if kind == NORMAL else NEVER) for piece, score, kind in pieces]
            model = models.Unigram(scores, unk_id=unknown, byte_fallback=True)
        case 2:  # BPE
            model = _bpe(pieces, pieces[unknown][0])
        case other:
            raise ValueError(f"its model is of type {other}, neither unigram nor BPE")
    tokenizer = Tokenizer(model)
    controls = [piece for piece, kind in kinds.items() if kind in (UNKNOWN, CONTROL)]
    if isinstance(model, models.Unigram):
        # Where a letter of one is unknown, every other way is less likely: so its first letter stands apart.
        apart = "|".join(f"{re.escape(piece[0])}(?={re.escape(piece[1:])})" for piece in controls)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(apart), "merged_with_previous")
    spaces = [normalizers.Replace(" ", "▁")]
    prefixed = normalizer.get(3, 1)
    tokenizer.normalizer = normalizers.Sequence(([normalizers.Prepend("▁")] if prefixed else []) + spaces)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts + ([decoders.Strip(" ", 1, 0)] if prefixed else []))
    tokenizer.add_special_tokens(controls)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece, kind in kinds.items() if kind == USER_DEFINED])
    return tokenizer


def _bpe(pieces: list[tuple[str, float, int]], unknown: str) -> models.BPE:
    vocabulary = {piece: number for number, (piece, _, _) in enumerate(pieces)}
    normal = {piece for piece, _, kind in pieces if kind == NORMAL}  # no merge leads to a control token
    merges = []
    for piece, score, _ in pieces:
        splits = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece))) if piece in normal else ()
        inside = sorted((vocabulary[a], vocabulary[b], a, b) for a, b in splits if a in normal and b in normal)
        merges += [(-score, vocabulary[piece], a, b) for _, _, a, b in inside]
    merges.sort(key=lambda merge: merge[:2])
    return models.BPE(
        vocabulary, [(a, b) for _, _, a, b in merges], unk_token=unknown, fuse_unk=True, byte_fallback=True
    )


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of every field of a protocol buffer message."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = content[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(content):
        tag = number()
        if tag & 7 == 0:
            yield tag >> 3, number()
            continue
        if tag & 7 not in (1, 2, 5):
            raise ValueError("no protocol buffer")
        size = {1: 8, 5: 4}.get(tag & 7) or number()
        if at + size > len(content):
            raise ValueError("a protocol buffer that ends early")
        yield tag >> 3, content[at : at + size]
        at += size
