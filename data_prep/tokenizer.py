"""Tokenizers, all through the `tokenizers` library: bytes, BPE trained here, and files in three formats."""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from data_prep.corpora import read_bytes
from data_prep.files import data_root

END = "<|endoftext|>"  # stands before every document, so that a document's first token is predicted too
ENDS = (END, "<s>")  # what a tokenizer may call it, in the order of search
FILES = {  # where the named ones lie under text/tokenizers, each perhaps with .xz behind it
    "gpt2": "gpt2/encoder.json",
    "neox": "neox/20B_tokenizer.json",
    "mistral": "mistral_v1/tokenizer.model",
}
SAMPLE = 64 << 20  # characters that a BPE is trained on


def load(name: str, texts: Iterable[str] = (), root: Path | None = None) -> Tokenizer:
    """The tokenizer that a command line or a config means.

    Args:
        name: `byte`; `bpe-N`, a byte-level BPE of N tokens trained on `texts`; `gpt2`, `neox` or `mistral` (a 32K
            SentencePiece) from files in the data folder; or a path to tokenizer.json, encoder.json (GPT-2, with
            vocab.bpe beside it) or a SentencePiece .model. Every file may end in .xz, .gz or .bz2.
        texts: documents to train `bpe-N` on, of which the first 64M characters are used.
        root: data folder; by default `data_root()`.

    Raises:
        ValueError: the name means nothing, or the file is no tokenizer.
        FileNotFoundError: there is no such file; the message says where it was looked for.
    """
    if name == "byte":
        return byte_level({})
    if name.startswith("bpe-"):
        if not name[4:].isdigit() or int(name[4:]) < 257:
            raise ValueError(f"tokenizer {name!r}: give bpe-N with N of at least 257, such as bpe-8192")
        return trained(texts, int(name[4:]))
    named = (root or data_root()) / "text" / "tokenizers" / FILES.get(name, "")
    path = _existing(named if name in FILES else Path(name), name)
    return from_file(path)


def byte_level(vocabulary: dict[str, int], merges: Iterable[tuple[str, str]] = ()) -> Tokenizer:
    """A byte-level BPE; without a vocabulary, one token per byte with the byte as its id."""
    vocabulary = vocabulary or {symbol: i for i, symbol in enumerate(_byte_symbols())}
    tokenizer = _on_bytes(models.BPE(vocabulary, list(merges)))
    tokenizer.add_special_tokens([END])
    return tokenizer


def _on_bytes(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def trained(texts: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE of `size` tokens, trained on the first 64M characters of `texts`."""
    tokenizer = _on_bytes(models.BPE())  # without a special token: training gives it another id
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_first(texts, SAMPLE), trainer)
    return tokenizer


def from_file(path: Path) -> Tokenizer:
    """A tokenizer read from disk; see `load`.

    Raises:
        ValueError: the file is no tokenizer.
    """
    try:
        content = read_bytes(path)
        if ".model" in path.suffixes:
            return _sentencepiece(content)
        if path.name.startswith("encoder.json"):
            merges = read_bytes(_existing(path.with_name("vocab.bpe"), "vocab.bpe")).decode()
            lines = merges.splitlines()[1:]  # the first is a version
            return byte_level(_without_end(json.loads(content)), (tuple(line.split()) for line in lines if line))
        return Tokenizer.from_str(content.decode())
    except FileNotFoundError:
        raise
    except Exception as error:  # the library raises plain Exceptions
        raise ValueError(f"{path}: not a tokenizer ({error}); give tokenizer.json, encoder.json or .model") from error


def sha256(tokenizer: Tokenizer) -> str:
    """Checksum of a tokenizer's JSON: equal checksums give equal ids."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def end_id(tokenizer: Tokenizer) -> int:
    """Id of the token that stands before every document.

    Raises:
        ValueError: the tokenizer has none.
    """
    ids = [tokenizer.token_to_id(token) for token in ENDS]
    found = [i for i in ids if i is not None]
    if not found:
        raise ValueError(f"the tokenizer has none of {', '.join(ENDS)}, one of which must stand before a document")
    return found[0]


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes that each id stands for; none for the token before a document.

    Raises:
        ValueError: the tokenizer is not byte-level.
    """
    values = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}
    end, found = end_id(tokenizer), []
    for number in range(tokenizer.get_vocab_size()):
        token = tokenizer.id_to_token(number) if number != end else ""
        if not values.keys() >= set(token):
            raise ValueError(f"token {number}, {token!r}, is no string of bytes; use a byte-level tokenizer")
        found.append(bytes(values[symbol] for symbol in token))
    return found


def _existing(path: Path, name: str) -> Path:
    for candidate in (path, *(path.with_name(path.name + ending) for ending in (".xz", ".gz", ".bz2"))):
        if candidate.is_file():
            return candidate
    known = f"byte, bpe-N, {', '.join(FILES)}"
    raise FileNotFoundError(f"tokenizer {name!r}: there is no file {path}; give {known} or a file")


def _first(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return


def _byte_symbols() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies (GPT-2's table)."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(others)) for byte in range(256)]


def _without_end(vocabulary: dict[str, int]) -> dict[str, int]:
    if vocabulary.get(END) == len(vocabulary) - 1:  # it is added as a special token, with the same id
        del vocabulary[END]
    return vocabulary


def _sentencepiece(content: bytes) -> Tokenizer:
    """A SentencePiece BPE model with byte fallback (Llama's and Mistral's kind) as a `tokenizers` one.

    The library keeps merges, the file scores: a merge is any pair of pieces whose join is a piece, best score first.
    """
    pieces = list(_pieces(content))
    vocabulary = {piece: i for i, (piece, _, _) in enumerate(pieces)}
    if len(vocabulary) < 256 or "<unk>" not in vocabulary:
        raise ValueError("it holds no SentencePiece vocabulary")
    merges = []
    for piece, score, _ in pieces:
        pairs = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        inside = sorted((vocabulary[a], vocabulary[b], a, b) for a, b in pairs if a in vocabulary and b in vocabulary)
        merges += [(-score, vocabulary[piece], a, b) for _, _, a, b in inside]
    merges.sort(key=lambda merge: merge[:2])
    model = models.BPE(
        vocabulary, [(a, b) for _, _, a, b in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([piece for piece, _, kind in pieces if kind in (2, 3)])  # unknown and control
    return tokenizer


def _pieces(content: bytes) -> Iterator[tuple[str, float, int]]:
    """Piece, score and type of every entry of a SentencePiece model, a protocol buffer (field 1 of ModelProto)."""
    for field, entry in _fields(content):
        if field == 1:
            values = dict(_fields(entry))
            score = struct.unpack("<f", values[2])[0] if 2 in values else 0.0
            yield values[1].decode(), score, values.get(3, 1)


def _fields(content: bytes) -> Iterator[tuple[int, bytes | int]]:
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
        yield tag >> 3, content[at : at + size]
        at += size
