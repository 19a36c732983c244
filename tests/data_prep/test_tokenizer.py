"""Tokenizer files of others are read as they are needed: whole texts go in, and the same texts come back."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers, processors

from data_prep import text as prep
from data_prep.files import data_root
from data_prep.index import read_index
from data_prep.tokenizer import END, byte_level, check_back, end_id, from_json, load, sha256, size

REAL = data_root()
TEXT = "Ünïcödé ☃ e\u0301 <|endoftext|> <s> and\n\n more. " * 20


def saved(tokenizer: Tokenizer, name: str = "x.json", **changes: object) -> str:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(json.dumps({**json.loads(tokenizer.to_str()), **changes}), encoding="utf-8")
    return name


def back(tokenizer: Tokenizer, text: str = TEXT) -> str:
    return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)


def test_a_byte_is_a_token() -> None:
    tokenizer = load("byte")
    text = "Ünïcödé ☃\n"
    assert tokenizer.encode(text).ids == list(text.encode()) and tokenizer.get_vocab_size() == 257
    assert end_id(tokenizer) == 256 and sha256(tokenizer) == sha256(load("byte"))


@pytest.mark.skipif(not (REAL / "text/tokenizers").is_dir(), reason="needs the tokenizer files")
def test_files_of_known_tokenizers_give_the_known_ids() -> None:
    text = "Hello  world, it's 2024!\n\n  naïve ☃ 🎉"
    gpt2 = load("gpt2", root=REAL)
    assert gpt2.get_vocab_size() == 50257 and end_id(gpt2) == 50256
    assert gpt2.encode("Hello world").ids == [15496, 995] and gpt2.decode(gpt2.encode(text).ids) == text
    mistral = load("mistral", root=REAL)
    assert mistral.get_vocab_size() == 32000 and end_id(mistral) == 1
    assert mistral.encode("Hello world").ids == [22557, 1526] and mistral.decode(mistral.encode(text).ids) == text
    assert load("neox", root=REAL).encode("Hello world").ids == [12092, 1533]


def test_nothing_is_cut_or_filled_up() -> None:
    other = byte_level({})
    other.enable_truncation(10)
    other.enable_padding(length=32, pad_id=0, pad_token="!")
    loaded = load(saved(other))
    assert len(loaded.encode(TEXT).ids) == len(TEXT.encode()) and back(loaded) == TEXT
    assert sha256(from_json(loaded.to_str())) == sha256(loaded) == sha256(load("byte"))


def test_a_control_token_in_a_text_is_text(root: Path) -> None:
    (root / "train.jsonl").write_text(json.dumps(TEXT) + "\n" + json.dumps(END))
    (root / "valid.jsonl").write_text(json.dumps("a"))
    for name in ("byte", saved(byte_level({}))):
        folder = prep.prepare(str(root), name, root / "out", workers=1)
        ids = np.fromfile(folder / "train.bin", np.uint16)
        assert (ids == 256).nonzero()[0].tolist() == read_index(folder)["parts"]["train"]["starts"]
        assert len(ids) == 2 + len((TEXT + END).encode())
    assert back(from_json(load("byte").to_str())) == TEXT  # a checkpoint holds a tokenizer as JSON


@pytest.mark.parametrize("before", [None, END])
def test_what_stands_before_a_document_is_a_control_token_whatever_the_file_calls_it(before: str | None) -> None:
    content = json.loads(with_tokens(before=before).to_str())
    content["added_tokens"][0] |= {"special": False}
    Path("x.json").write_text(json.dumps(content))
    tokenizer = load("x.json")
    assert end_id(tokenizer) == 256 and back(tokenizer) == TEXT
    for read in (tokenizer, from_json(tokenizer.to_str())):
        assert 256 not in read.encode(TEXT, add_special_tokens=False).ids


def test_a_control_token_that_merges_lead_to_is_refused() -> None:
    content = json.loads(byte_level({}).to_str())
    content["model"]["vocab"] |= {"<s": 257, "<s>": 258}
    content["model"]["merges"] = [["<", "s"], ["<s", ">"]]
    content["added_tokens"] = []
    content["pre_tokenizer"]["use_regex"] = False  # else `<` and `s` are never side by side
    Path("x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="tokenizer 'x.json': '<s>' written in a text becomes a control token; take"):
        load("x.json", end_token="<s>")


def test_merges_are_not_left_out_at_random() -> None:
    trained = load("bpe-300", [TEXT])
    ids = trained.encode(TEXT).ids
    trained.model.dropout = 0.5
    loaded = load(saved(trained))
    assert loaded.encode(TEXT).ids == ids == from_json(trained.to_str()).encode(TEXT).ids


@pytest.mark.parametrize("lost", [normalizers.Lowercase(), normalizers.NFKC(), normalizers.Strip()])
def test_a_tokenizer_that_loses_text_is_refused(lost: object) -> None:
    other = byte_level({})
    other.normalizer = lost
    with pytest.raises(ValueError, match=r"x.json: the tokenizer does not give texts back: .* becomes .*; take one"):
        load(saved(other))


def test_text_that_no_probe_holds_is_found_while_it_is_tokenized(root: Path) -> None:
    other = byte_level({})
    other.normalizer = normalizers.Replace("zebra", "horse")
    (root / "train.txt").write_text("a zebra" + "." * 99)
    with pytest.raises(ValueError, match="does not give texts back: 'a zebra.....' becomes 'a horse.....'"):
        prep.prepare("train.txt", saved(other), workers=1)
    check_back(other, ["a horse"], [other.encode("a horse").ids])


def test_accents_are_not_composed() -> None:
    other = byte_level({})
    other.normalizer = normalizers.NFC()
    assert back(load(saved(other))) == TEXT


def test_a_vocabulary_with_holes_is_as_large_as_its_largest_id(root: Path) -> None:
    content = json.loads(byte_level({}).to_str())
    content["model"]["vocab"] = {token: 7 * number for token, number in content["model"]["vocab"].items()}
    content["added_tokens"] = []
    content["model"]["vocab"]["<s>"] = 70_000
    Path("x.json").write_text(json.dumps(content))
    tokenizer = load("x.json")
    assert size(tokenizer) == 70_001 and tokenizer.get_vocab_size() == 257 and back(tokenizer) == TEXT
    (root / "train.txt").write_text(TEXT)
    folder = prep.prepare("train.txt", "x.json", workers=1)
    assert read_index(folder)["dtype"] == "uint32" and read_index(folder)["tokenizer"]["vocabulary"] == 70_001
    assert np.fromfile(folder / "train.bin", "<u4")[0] == 70_000


def with_tokens(*tokens: str, before: str | None = None) -> Tokenizer:
    tokenizer = byte_level({})
    tokenizer.add_special_tokens([*tokens])
    if before:
        number = tokenizer.token_to_id(before)
        tokenizer.post_processor = processors.TemplateProcessing([before, "$A"], special_tokens=[(before, number)])
    return tokenizer


def test_what_stands_before_a_document(root: Path) -> None:
    assert end_id(load(saved(with_tokens("<bos>", "<eos>")))) == 256  # <|endoftext|>
    Path("unended.json").write_text(Path("x.json").read_text().replace("<|endoftext|>", "<|ended|>"))
    with pytest.raises(ValueError, match="tokenizer 'unended.json': the tokenizer has none of .*; set data.end_token"):
        load("unended.json")
    assert (
        end_id(load(saved(with_tokens("<bos>", "<eos>", before="<bos>")))) == 257
    )  # the tokenizer itself puts it before a text
    chosen = load(saved(with_tokens("<bos>", "<eos>", before="<bos>")), end_token="<eos>")
    assert end_id(chosen) == 258 == end_id(from_json(chosen.to_str())) and back(chosen, "a<eos>") == "a<eos>"
    with pytest.raises(
        ValueError, match=r"tokenizer 'x.json': data.end_token '</s>' is no token of the tokenizer; it has <\|endoftext"
    ):
        load("x.json", end_token="</s>")
    (root / "train.txt").write_text("a story")
    folder = prep.prepare("train.txt", "x.json", workers=1, end_token="<eos>")
    assert read_index(folder)["tokenizer"]["end"] == 258 == np.fromfile(folder / "train.bin", np.uint16)[0]


def test_folders_as_hugging_face_has_them() -> None:
    Path("hf").mkdir()
    saved(with_tokens("<eos>", "<bos>"), "hf/tokenizer.json")
    assert end_id(load("hf")) == 256
    Path("hf/tokenizer_config.json").write_text('{"bos_token": {"content": "<bos>"}, "eos_token": "<eos>"}')
    assert end_id(load("hf")) == 258 and back(load("hf")) == TEXT
    Path("hf/tokenizer_config.json").write_text('{"bos_token": null, "eos_token": "<eos>"}')
    assert end_id(load("hf")) == 257
    content = Path("hf/tokenizer.json").read_bytes()
    Path("hf/tokenizer.json").unlink()
    Path("hf/tokenizer.json.gz").write_bytes(gzip.compress(content))
    assert end_id(load("hf")) == 257
    Path("empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty/\{tokenizer.json,.*\}: there is no such file"):
        load("empty")


@pytest.mark.parametrize(("vocabulary", "merges"), [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_a_vocabulary_and_its_merges(vocabulary: str, merges: str) -> None:
    trained = json.loads(load("bpe-300", [TEXT]).to_str())["model"]
    Path("gpt").mkdir()
    Path("gpt", vocabulary).write_text(json.dumps(trained["vocab"]))
    with pytest.raises(FileNotFoundError, match=f"tokenizer '{merges}': there is no file gpt/{merges}"):
        load("gpt")
    Path("gpt", merges).write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in trained["merges"]))
    for name in ("gpt", f"gpt/{vocabulary}"):
        tokenizer = load(name)
        assert size(tokenizer) == len(trained["vocab"]) and back(tokenizer) == TEXT
        assert tokenizer.encode(TEXT).ids == load("bpe-300", [TEXT]).encode(TEXT).ids


def message(*fields: tuple[int, object]) -> bytes:
    """A protocol buffer message."""
    content = b""
    for number, value in fields:
        if isinstance(value, float):
            content += bytes([number << 3 | 5]) + struct.pack("<f", value)
        elif isinstance(value, int):
            content += bytes([number << 3, value])
        else:
            content += bytes([number << 3 | 2]) + bytes([len(value) & 127 | 128, len(value) >> 7]) + value
    return content


def model(kind: int, *more: tuple[str, float, int], normalizer: bytes = b"\x20\x00") -> bytes:
    """A SentencePiece model of bytes and a few pieces."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)] + [*more]
    content = b"".join(message((1, message((1, p.encode()), (2, score), (3, type_)))) for p, score, type_ in pieces)
    return content + message((2, message((3, kind))), (3, normalizer))


LETTERS = [(letter, -9.0, 1) for letter in "▁<>/sabunk"]


@pytest.mark.parametrize("kind", [1, 2])
def test_sentencepiece_models(kind: int) -> None:
    # Both `s>` and `<s>` are pieces: a merge could lead to the control token, and must not.
    Path("x.model").write_bytes(model(kind, *LETTERS, ("ab", -1.0, 1), ("s>", -2.0, 1), ("<|u|>", 0.0, 4)))
    tokenizer = load("x.model")
    assert back(tokenizer) == TEXT and end_id(tokenizer) == 1
    names = [tokenizer.id_to_token(number) for number in tokenizer.encode("ab <s><|u|>", add_special_tokens=False).ids]
    assert names == ["▁", "ab", "▁", "<", "s>", "<|u|>"]


@pytest.mark.parametrize("kind", [1, 2])
def test_a_control_token_of_letters_that_sentencepiece_does_not_know_is_text(kind: int) -> None:
    Path("x.model").write_bytes(model(kind, ("▁", -9.0, 1), ("ab", -1.0, 1)))
    tokenizer = load("x.model")
    text = "ab <s></s> <unk><s ab"
    assert back(tokenizer, text) == text and end_id(tokenizer) == 1
    assert not {0, 1, 2} & {*tokenizer.encode(text, add_special_tokens=False).ids}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (model(2, *LETTERS)[:-200], "that can be read"),
        (model(2, *LETTERS, normalizer=message((1, b"nmt"), (2, b"map"))), r"changes texts \(nmt\); train it"),
        (model(2, *LETTERS, normalizer=b""), r"changes texts \(white space\); train it"),
        (model(3, *LETTERS), "its model is of type 3, neither unigram nor BPE"),
        (b"", "it holds no SentencePiece vocabulary"),
        (b"{}", "not a tokenizer"),
    ],
)
def test_models_that_cannot_be_kept_to_are_refused(content: bytes, says: str) -> None:
    Path("x.model").write_bytes(content)
    with pytest.raises(ValueError, match=f"^x.model: .*{says}"):
        load("x.model")
