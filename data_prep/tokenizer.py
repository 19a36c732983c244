"""Tokenizers, all through the `tokenizers` library: bytes, BPE trained here, and the files of others.

What a file of others asks for beside its vocabulary is not done unseen: nothing is cut or filled up, a control token
that is written in a text is text, and a tokenizer that does not give every byte of a text back is refused.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from app.reading import Unreadable, reading
from data_prep.files import data_root
from data_prep.sentencepiece import sentencepiece
from data_prep.unpack import PACKED, read_bytes

END = "<|endoftext|>"  # stands before every document, so that a document's first token is predicted too
ENDS = (END, "<s>")  # what a tokenizer may call it, in the order of search
FILES = {  # the files of named tokenizers under text/tokenizers, each perhaps packed, such as with .xz
    "gpt2": "gpt2/encoder.json",
    "neox": "neox/20B_tokenizer.json",
    "mistral": "mistral_v1/tokenizer.model",
}
SAMPLE = 64 << 20  # characters that a BPE is trained on
MERGES = {"encoder.json": "vocab.bpe", "vocab.json": "merges.txt"}  # what lies beside a vocabulary
IN_FOLDER = ("tokenizer.json", *MERGES, "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
CONTROLS = (END, "<s>", "</s>", "<pad>", "<unk>", "<mask>")  # control tokens, where a vocabulary does not name them
PROBES = (
    *("A plain text.", " a  b\n\n\tc \r\n", "\u00dcn\u00efc\u00f6d\u00e9 \ufb01 \u2460 \u00bd e\u0301"),
    *("\u2603 \U0001f389 \u4e2d\u6587", "\u200bzero", "\x00\x1f", "<tag> don 't ."),
)


def load(name: str, texts: Iterable[str] = (), root: Path | None = None, end_token: str | None = None) -> Tokenizer:
    """The tokenizer that a command line or a config means.

    Args:
        name: `byte`; `bpe-N`, a byte-level BPE of N tokens trained on `texts`; `gpt2`, `neox` or `mistral` (a 32K
            SentencePiece) from files in the data folder; or a path to tokenizer.json, encoder.json or vocab.json (with
            vocab.bpe or merges.txt beside it), a SentencePiece .model, or a folder that holds one of them, as Hugging
            Face has them. Every file may be packed (.xz, .gz, .bz2, .zst).
        texts: documents to train `bpe-N` on, of which the first 64M characters are used.
        root: data folder; by default `data_root()`.
        end_token: the token that stands before every document; None takes what the file says, or one of `ENDS`.

    Raises:
        ValueError: the name means nothing, the file is no tokenizer or loses what it reads, or has no such end token.
        FileNotFoundError: there is no such file; the message says where it was looked for.
    """
    if name == "byte":
        tokenizer = byte_level({})
    elif name.startswith("bpe-"):
        if not name[4:].isdigit() or int(name[4:]) < 257:
            raise ValueError(f"tokenizer {name!r}: give bpe-N with N of at least 257, such as bpe-8192")
        tokenizer = trained(texts, int(name[4:]))
    else:
        named = (root or data_root()) / "text" / "tokenizers" / FILES.get(name, "")
        tokenizer = from_file(_existing(named if name in FILES else Path(name), name))
    try:
        return guarded(obeying(tokenizer if end_token is None else ending(tokenizer, end_token)))
    except ValueError as error:
        raise ValueError(f"tokenizer {name!r}: {error}") from error


def obeying(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, which cuts nothing, fills nothing up, and reads control tokens that a text holds as text.

    A BPE that leaves merges out at random (dropout) leaves out none, so that a text has the same tokens at every
    reading. GPT-NeoX's composes accents before it reads (NFC), and gives fewer bytes back; its vocabulary does not need
    that.
    """
    if isinstance(tokenizer.normalizer, normalizers.NFC):
        tokenizer.normalizer = None
    if isinstance(tokenizer.model, models.BPE):
        tokenizer.model.dropout = None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # a tokenizer's JSON does not hold this setting
    return tokenizer


def guarded(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, none of whose control tokens a text can write; what stands before documents is one of them.

    A file may hold that token as any other word of its vocabulary.

    Raises:
        ValueError: a text can write one all the same, or nothing can stand before documents.
    """
    end = tokenizer.id_to_token(end_id(tokenizer))
    known = tokenizer.get_added_tokens_decoder()
    if not any(token.special and token.content == end for token in known.values()):
        tokenizer.add_special_tokens([end])
    for number, token in tokenizer.get_added_tokens_decoder().items():
        if token.special and number in tokenizer.encode(f"a {token.content} b", add_special_tokens=False).ids:
            raise ValueError(f"{token.content!r} written in a text becomes a control token; take another one")
    return tokenizer


def from_json(content: str) -> Tokenizer:
    """A tokenizer from its JSON, as it was when it was loaded."""
    return obeying(Tokenizer.from_str(content))


def ending(tokenizer: Tokenizer, token: str) -> Tokenizer:
    """The tokenizer with another token before documents; its JSON says so.

    Raises:
        ValueError: it has no such token.
    """
    number = tokenizer.token_to_id(token)
    if number is None:
        known = [added.content for added in tokenizer.get_added_tokens_decoder().values()]
        raise ValueError(f"data.end_token {token!r} is no token of the tokenizer; it has {', '.join(known[:12])}")
    tokenizer.add_special_tokens([token])  # written in a text it does not end a document
    tokenizer.post_processor = processors.TemplateProcessing([token, "$A"], special_tokens=[(token, number)])
    return tokenizer


def size(tokenizer: Tokenizer) -> int:
    """The largest id and one: a vocabulary may have holes."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def check_back(tokenizer: Tokenizer, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> None:
    """Refuse a tokenizer whose ids do not give texts back.

    Raises:
        ValueError: shows what is lost.
    """
    for text, back in zip(texts, tokenizer.decode_batch(ids, skip_special_tokens=False), strict=True):
        if text != back:
            both = enumerate(zip(text, back, strict=False))
            at = next((i for i, (a, b) in both if a != b), min(len(text), len(back)))
            raise ValueError(
                f"the tokenizer does not give texts back: {text[max(at - 10, 0) : at + 10]!r} becomes "
                f"{back[max(at - 10, 0) : at + 10]!r}; take one that keeps every byte, such as byte or gpt2"
            )


def byte_level(vocabulary: dict[str, int], merges: Iterable[tuple[str, str]] = ()) -> Tokenizer:
    """A byte-level BPE; without a vocabulary, one token per byte with the byte as its id."""
    vocabulary = vocabulary or {symbol: i for i, symbol in enumerate(_byte_symbols())}
    tokenizer = _on_bytes(models.BPE(vocabulary, list(merges)))
    tokenizer.add_special_tokens([token for token in CONTROLS if token in vocabulary] or [END])
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
    """A tokenizer read from disk and tried on some texts; see `load`.

    Raises:
        ValueError: the file is no tokenizer, or one that loses what it reads.
    """
    cure = f"give {', '.join(IN_FOLDER[:4])} or a folder with one of them"
    with reading(path, "a tokenizer", cure) as at:
        tokenizer = obeying(_from_folder(path) if path.is_dir() else _from_one(path))
        ids = [*tokenizer.get_vocab(with_added_tokens=True).values()]
        if not ids or len({*ids}) < len(ids) or min(ids) < 0:
            raise at.error("two tokens have one id, or none has one")
        try:
            check_back(tokenizer, PROBES, [e.ids for e in tokenizer.encode_batch(PROBES, add_special_tokens=False)])
        except ValueError as error:
            raise Unreadable(f"{path}: {error}") from error
        return tokenizer


def _from_one(path: Path) -> Tokenizer:
    content = read_bytes(path)
    name = path.name.removesuffix(path.suffix) if path.suffix.lower() in PACKED else path.name
    if name.endswith(".model"):
        return sentencepiece(content)
    if name in MERGES:
        merges = read_bytes(_existing(path.with_name(MERGES[name]), MERGES[name])).decode()
        lines = [line.split() for line in merges.splitlines() if line and not line.startswith("#version")]
        return byte_level(json.loads(content), [(left, right) for left, right in lines])
    return Tokenizer.from_str(content.decode())


def _from_folder(path: Path) -> Tokenizer:
    """The tokenizer of a folder, with the token that its configuration lets documents begin or end with."""
    packings = ("", *PACKED)
    files = [Path(f"{path / name}{packing}") for name in IN_FOLDER for packing in packings]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise FileNotFoundError(2, "none", f"{path}/{{{','.join(IN_FOLDER)}}}")
    tokenizer = _from_one(file)
    settings = path / "tokenizer_config.json"
    if settings.is_file() and not tokenizer.encode("").ids:
        said = json.loads(settings.read_bytes())
        tokens = [_content(said.get(key)) for key in ("bos_token", "eos_token")]
        token = next((token for token in tokens if token and tokenizer.token_to_id(token) is not None), None)
        return tokenizer if token is None else ending(tokenizer, token)
    return tokenizer


def _content(token: Any) -> str | None:
    """A token of a configuration, which may be a text or an object that describes it."""
    return token.get("content") if isinstance(token, dict) else token


def sha256(tokenizer: Tokenizer) -> str:
    """Checksum of a tokenizer's JSON: equal checksums give equal ids."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def end_id(tokenizer: Tokenizer) -> int:
    """Id of the token that stands before every document: what the tokenizer puts before a text, or one of `ENDS`.

    Raises:
        ValueError: the tokenizer has none.
    """
    if before := tokenizer.encode("", add_special_tokens=True).ids:
        return before[0]
    ends = [number for token in ENDS if (number := tokenizer.token_to_id(token)) is not None]
    if not ends:
        known = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        raise ValueError(
            f"the tokenizer has none of {', '.join(ENDS)} to stand before a document; set data.end_token to one of its "
            f"own: {', '.join(known[:12]) or 'it has none'}"
        )
    return ends[0]


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes that each id stands for; none for the token before a document.

    Raises:
        ValueError: the tokenizer is not byte-level.
    """
    values = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}
    end = end_id(tokenizer)
    pieces = []
    for number in range(size(tokenizer)):
        token = "" if number == end else tokenizer.id_to_token(number) or ""  # a vocabulary may have holes
        if not values.keys() >= set(token):
            raise ValueError(f"token {number}, {token!r}, is no string of bytes; use a byte-level tokenizer")
        pieces.append(bytes(values[symbol] for symbol in token))
    return pieces


def _existing(path: Path, name: str) -> Path:
    for candidate in (path, *(Path(f"{path}{packing}") for packing in PACKED)):
        if candidate.exists():
            return candidate
    known = f"byte, bpe-N, {', '.join(FILES)}"
    raise FileNotFoundError(f"tokenizer {name!r}: there is no file {path}; give {known}, a file or a folder")


def _first(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return


def _byte_symbols() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
