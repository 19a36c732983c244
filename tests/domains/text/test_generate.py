"""Decoding equals prefill, its state does not grow, and what it writes is what was read."""

import argparse
import copy
import gc
import json
import math
import re
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.door import main
from app.errors import UserError
from app.module import TitansModule
from app.reading import Unreadable
from data_prep.tokenizer import load
from domains.text import generate as generation
from domains.text.generate import stream, until, write
from domains.text.reader import Reader
from domains.text.replay import Pieces
from domains.text.sampling import Sampling, generated
from domains.text.verbs import generate_options

VARIANTS = [
    {"variant": "lmm"},
    {"variant": "mac"},
    {"variant": "mac", "summary_tokens": 3},
    {"variant": "mag"},
    {"variant": "mal"},
    {"variant": "attention"},
    {"variant": "swa"},
]


def generate(module: TitansModule, *args: str) -> None:
    parser = argparse.ArgumentParser()
    generate_options(parser)
    write(module, parser.parse_args(args))


every_variant = pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(map(str, o.values())))


@every_variant
def test_decoding_token_by_token_equals_prefill(options: dict, model: Callable) -> None:
    module, ids = model(**options), torch.randint(257, (2, 29))
    with torch.no_grad():
        hidden, _ = module.backbone(module.head.embed_ids(ids))
        expected = module.head.logits(hidden)  # [B, T, V]
    for prefill in (1, 3, 6, 17):
        reader = Reader(module)
        logits = [reader.read(ids[:, :prefill], piece=4)]
        logits += [reader.read(ids[:, i : i + 1]) for i in range(prefill, 29)]
        torch.testing.assert_close(torch.stack(logits, 1), expected[:, prefill - 1 :], rtol=0, atol=1e-6)


@every_variant
def test_the_state_is_bounded_but_for_attention(options: dict, model: Callable) -> None:
    reader, sizes = Reader(model(**options)), []
    for _ in range(5):
        reader.read(torch.randint(257, (1, 36)))  # whole segments (6) and chunks (4), more than a window (5)
        sizes.append(sum(t.numel() for t in reader.state.tensors()))
    assert (len(set(sizes)) == 1) != (options["variant"] == "attention")
    if options["variant"] == "attention":
        assert sizes[4] - sizes[3] == sizes[1] - sizes[0] > 0


@pytest.mark.gpu
@pytest.mark.parametrize("looks", [True, False])
@every_variant
def test_a_long_text_is_read_by_a_graph_as_it_is_without(options: dict, looks: bool, model: Callable) -> None:
    module, pieces = model(**options).cuda().eval(), torch.randint(257, (12, 36))  # whole segments and chunks
    captured, eager = (Reader(module, precision=None) for _ in range(2))
    eager.pieces = Pieces(eager.forward, least=100)
    for read in (pieces[:9], pieces[9:], pieces[:2], pieces[0, :7], pieces[1], pieces[2]):
        before = captured.state if looks else None  # a state that nobody reads stays in the graph's buffers
        copied = before and copy.deepcopy(before).tensors()
        logits = [reader.read(read.reshape(1, -1), piece=36) for reader in (captured, eager)]
        torch.testing.assert_close(*logits, rtol=0, atol=1e-5)
        if looks:
            torch.testing.assert_close(captured.state.tensors(), eager.state.tensors(), rtol=0, atol=1e-4)
        assert before is None or all(map(torch.equal, before.tensors(), copied))
    torch.testing.assert_close(captured.state.tensors(), eager.state.tensors(), rtol=0, atol=1e-4)
    assert (captured.pieces.replay is None) == (options["variant"] == "attention")


@every_variant
def test_greedy_generation_is_what_the_whole_sequence_would_choose(options: dict, model: Callable) -> None:
    module, prompt = model(**options), torch.randint(257, (1, 9))
    reader = Reader(module)
    chosen = torch.cat(list(reader.generate(reader.read(prompt), 8, Sampling(temperature=0))))
    with torch.no_grad():
        hidden, _ = module.backbone(module.head.embed_ids(torch.cat([prompt, chosen[None]], 1)))
    assert torch.equal(module.head.logits(hidden).argmax(-1)[0, 8:-1], chosen)


def test_a_reader_goes_with_its_last_name(model: Callable) -> None:
    """With what a graph holds on a GPU, without waiting for Python to collect garbage."""
    reader = Reader(model(variant="mag"))
    reader.read(torch.randint(257, (1, 36)), piece=6)
    gone = weakref.ref(reader)
    gc.disable()
    del reader
    gc.enable()
    assert gone() is None


def test_a_saved_state_goes_on_exactly_and_only_with_its_own_weights(model: Callable, tmp_path: Path) -> None:
    module, reader = model(variant="mac"), None
    reader, context, prompt = Reader(module), torch.randint(257, (1, 40)), torch.randint(257, (1, 5))
    reader.read(context)
    reader.save(tmp_path / "state")
    expected = reader.read(prompt)
    again = Reader(module)
    again.load(tmp_path / "state")
    assert again.read_tokens == 40
    torch.testing.assert_close(again.read(prompt), expected, rtol=0, atol=0)
    whole = torch.load(tmp_path / "state", weights_only=True)
    for part, wrong in (
        ("tokens", -1),
        ("hidden", whole["hidden"][:, 1:]),
        ("hidden", whole["hidden"] * math.nan),
        ("hidden", whole["hidden"].long()),
        ("state", whole["state"].map(lambda t: t[..., 1:])),
        ("state", module.backbone.apart(whole["state"])),
        ("state", whole["state"].map(lambda t: t * math.nan if t.is_floating_point() else t)),
    ):
        torch.save(whole | {part: wrong}, tmp_path / "crafted")
        with pytest.raises(Unreadable, match="crafted: .*; read the context again"):
            again.load(tmp_path / "crafted")
    other = copy.deepcopy(module)
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    with pytest.raises(UserError, match="belongs to other weights"):
        Reader(other).load(tmp_path / "state")
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:500])
    with pytest.raises(Unreadable, match="damaged, or not a saved state, in .*; read the context again"):
        again.load(tmp_path / "state")
    with pytest.raises(UserError, match="there is no such file"):
        again.load(tmp_path / "nope")
    with pytest.raises(UserError, match="nothing to read"):
        again.read(context[:, :0])


def test_sampling_keeps_what_it_says() -> None:
    p = torch.tensor([[0.5, 0.25, 0.15, 0.1]], dtype=torch.float64)

    def probabilities(**options: float) -> list[float]:
        return Sampling(**{"temperature": 1.0, **options}).probabilities(p.log())[0].tolist()

    assert probabilities() == pytest.approx([0.5, 0.25, 0.15, 0.1])
    assert probabilities(top_k=2) == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert probabilities(top_k=9) == pytest.approx([0.5, 0.25, 0.15, 0.1])
    assert probabilities(top_p=0.75) == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert probabilities(top_p=0.76) == pytest.approx([0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0])
    assert probabilities(top_p=0.1) == probabilities(top_p=1e-300) == [1, 0, 0, 0]
    assert probabilities(min_p=0.3) == pytest.approx([0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0])
    assert probabilities(temperature=0.5) == pytest.approx([x * x / 0.345 for x in (0.5, 0.25, 0.15, 0.1)])
    assert Sampling(temperature=0).choose(p.log(), None).tolist() == [0]
    generator = torch.Generator().manual_seed(0)
    drawn = Sampling(1.0).choose(p.log().expand(20_000, -1), generator).bincount() / 20_000
    torch.testing.assert_close(drawn.double(), p[0], rtol=0, atol=0.015)
    penalised = Sampling(repetition=2.0).penalised(
        torch.tensor([[2.0, -2.0, 2.0]]), torch.tensor([[True, True, False]])
    )
    assert penalised.tolist() == [[1, -4, 2]]
    for name, value in (
        *(("repetition", value) for value in (0, 1e-31, 1e31, math.nan, math.inf)),
        *(("temperature", value) for value in (-1, math.nan, math.inf, 1e-40)),
        *(("top_p", 0), ("top_p", math.nan), ("min_p", 2), ("top_k", -1)),
    ):
        with pytest.raises(UserError, match=f"{name}.* is {re.escape(str(value))}; it must be"):
            Sampling(**{name: value})


def test_characters_of_several_tokens_are_never_cut() -> None:
    text = "naïve ☃ 🎉 " * 30
    ids = [torch.tensor([byte]) for byte in text.encode()]
    pieces = list(stream(iter([*ids, torch.tensor([256]), *ids]), load("byte"), 256))
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces) and len(pieces) > 200


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_a_text_ends_before_the_first_stop_string_and_says_nothing_too_early(size: int) -> None:
    text = "one, two; three. four"

    def upto(*stops: str) -> str:
        return "".join(until((text[i : i + size] for i in range(0, len(text), size)), stops))

    assert upto() == text and upto("five", "four?") == text
    assert upto("three") == upto("four", "three") == "one, two; "
    assert upto(". f", "; t", "two!") == "one, two"
    assert upto("o") == "" and upto("r") == "one, two; th"


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "attention", "tests.memory.test_backbone.Sum"])
def test_prompts_of_a_file_are_answered_as_each_alone(
    variant: str, model: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "ROWS", 5)  # two prompts of two samples are written together, and then the third
    module, prompts = model(variant=variant), ["Ada went", "Nobody", "In the"]
    (tmp_path / "book").write_text("Greta.")
    (tmp_path / "prompts").write_text("\n\n".join(prompts) + "\n")
    options = (
        "--context",
        str(tmp_path / "book"),
        "--tokens",
        "9",
        "--temperature",
        "0",
        "--repetition_penalty",
        "1.2",
    )

    def lines(*more: str) -> list[dict]:
        generate(module, *options, "--json", *more)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    alone = [lines("--prompt", prompt)[0] for prompt in prompts]
    assert [line["prompt"] for line in alone] == prompts and len({line["text"] for line in alone}) > 1
    together = lines("--input", str(tmp_path / "prompts"), "--samples", "2")
    assert together == [{**line, "sample": sample} for line in alone for sample in (0, 1)]
    assert lines("--prompt", prompts[0], "--stop", alone[0]["text"][3])[0]["text"] in alone[0]["text"][:3]


def test_samples_differ_and_a_penalty_ends_repetition(model: Callable, capsys: pytest.CaptureFixture) -> None:
    module = model(variant="lmm")
    generate(module, "--prompt", "Ada", "--samples", "3", "--tokens", "12", "--temperature", "1")
    parts = capsys.readouterr().out.split("=== prompt 1, sample ")[1:]
    assert [part[:5] for part in parts] == ["1\nAda", "2\nAda", "3\nAda"] and len({part[2:] for part in parts}) == 3
    reader, prompt = Reader(module), torch.tensor([[65, 65, 66]])
    logits = reader.read(prompt)
    harsh = Sampling(0, repetition=1e9)
    chosen = torch.cat(list(generated(logits, lambda ids: reader.read(ids[:, None]), 40, harsh, None, [[65, 66]])))
    assert len({65, 66, *chosen.tolist()}) == 42


def test_bad_arguments_are_refused_before_anything_is_read(
    model: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = model(variant="lmm")
    monkeypatch.setattr(Reader, "read", lambda *_: pytest.fail("the context was read"))
    (tmp_path / "book").write_text("Greta.")
    (tmp_path / "empty").write_text("\n \n")
    for options, message in (
        (("--temperature", "1e-40"), "temperature is 1e-40; it must be 0, or finite and at least"),
        (("--temperature", "nan"), "temperature is nan; it must be 0"),
        (("--prompt", "caf\udce9"), "--prompt: character 4 is not UTF-8"),
        (("--save", str(tmp_path / "book" / "state")), "state cannot be written there"),
        (("--save", str(tmp_path)), "it is a folder"),
        (("--save", "/dev/null"), "it is a device or a pipe"),
        (("--save_turn", "/dev/null"), "it is a device or a pipe"),
        (("--save_turn", "x", "--samples", "2"), "--save_turn writes the state after one text"),
        (("--samples", "0"), "--samples be at least 1"),
        (("--stop", ""), "--stop is empty"),
        (("--seed", str(2**63)), "must fit into 64 bits"),
        (("--prompt", "a", "--input", str(tmp_path / "book")), "both give prompts"),
        (("--input", str(tmp_path / "empty")), "holds no prompt"),
    ):
        with pytest.raises(UserError, match=message):
            generate(module, "--context", str(tmp_path / "book"), *options)


def test_a_state_read_without_forgetting_is_of_a_model_that_forgets_nothing(model: Callable, tmp_path: Path) -> None:
    forgets, keeps = (model(variant="mac") for _ in range(2))
    (tmp_path / "book").write_text("Greta.")
    generate(keeps, "--context", str(tmp_path / "book"), "--save", str(tmp_path / "state"), "--no_forgetting")
    for memory in keeps.backbone.memories().values():
        _, _, log_keep = memory._gates(torch.randn(1, 5, 16).double())
        assert (log_keep.exp() == 1).all()
    with pytest.raises(UserError, match="another --no_forgetting"):
        generate(forgets, "--state", str(tmp_path / "state"))
    generate(forgets, "--state", str(tmp_path / "state"), "--no_forgetting")


@pytest.mark.parametrize("variant", ["lmm", "mac", "attention"])
def test_a_saved_turn_holds_prompt_and_answer(
    variant: str, model: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Bytes that are letters alone, of which the text gives the tokens back.
    monkeypatch.setattr(Sampling, "choose", lambda _, logits, generator: logits[:, 32:127].argmax(-1) + 32)
    module = model(variant=variant)
    module.head.context = 99
    path = tmp_path / "chat.state"
    greedy = ("--temperature", "0", "--tokens", "12")

    def said(prompt: str, *options: str) -> str:
        generate(module, "--prompt", prompt, "--json", *greedy, *options)
        return json.loads(capsys.readouterr().out)["text"]

    first = said("Ada?")
    for stop in ([], ["--stop", first[5:8]]):
        answer = said("Ada?", "--save_turn", str(path), *stop)
        assert first.startswith(answer) and (len(answer) < len(first)) == bool(stop)
        second = said(" Why?", "--state", str(path), "--save_turn", str(path))
        expected = Reader(module)
        ids = [module.head.end, *module.head.encode("Ada?" + answer + " Why?" + second)]
        expected.read(torch.tensor([ids]))
        kept = Reader(module)
        kept.load(path)
        assert kept.read_tokens == len(ids)
        torch.testing.assert_close(kept.state.tensors(), expected.state.tensors(), rtol=0, atol=1e-6)


def test_the_command_from_fit_to_a_saved_context(run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run("fit", "--trainer.max_steps=4", "--trainer.val_check_interval=2", "--model.backbone.variant=attention")
    checkpoint = "runs/text_lm/version_0/checkpoints/best.ckpt"

    def generate(*options: str) -> str:
        capsys.readouterr()
        main(["generate", "--ckpt", checkpoint, *options])
        return capsys.readouterr().out

    out = generate("--prompt", "Ada", "--tokens", "6", "--seed", "1")
    assert out.startswith("Ada") and out == generate("--prompt", "Ada", "--tokens", "6", "--seed", "1")
    book = tmp_path / "book.txt"
    book.write_text("Greta.")
    greedy = ("--tokens", "3", "--temperature", "0")
    whole = generate("--context", str(book), "--prompt", "It", *greedy)
    generate("--context", str(book), "--save", "state", "--tokens", "1")
    assert generate("--state", "state", "--prompt", "It", *greedy) == whole

    def refused(*options: str) -> str:
        with pytest.raises(SystemExit) as stop:
            generate(*options)
        assert stop.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    line = refused("--prompt", "a" * 20, "--tokens", "1")
    assert line == (
        "error: 21 tokens of prompt and 1 to generate are more than the 16 that this attention model was trained on; "
        "shorten them, or use a variant with memory"
    )
    assert "nope.txt: there is no such file" in refused("--context", "nope.txt")
    book.write_bytes(b"caf\xe9")
    assert "not UTF-8 text that can be read" in refused("--context", str(book))
    checkpoint = "nope.ckpt"
    assert "there is no file nope.ckpt" in refused("--prompt", "a")
