"""A Titans language model with the interface of transformers: its numbers are the backbone's, its cache our state."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("transformers", "5.24", reason="transformers 5.24 is not installed: pip install -e '.[hf]'")

from transformers import AutoModelForCausalLM, DynamicCache, Trainer, TrainingArguments

from memory import BackboneConfig, MemoryConfig, TitansBackbone
from memory.hf import StateCache, TitansConfig, TitansForCausalLM

SIZES = {"dim": 16, "layers": 2, "heads": 2, "window": 5, "segment": 6, "persistent": 3}
IDS = {"bos_token_id": 256, "eos_token_id": None, "pad_token_id": None}
TARGETS = ["linear", "out", "out_gate", "up", "down"]  # of LoRA
GREEDY = {"do_sample": False, "max_new_tokens": 9}
every_variant = pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal", "attention", "swa"])


@pytest.fixture
def model() -> Callable[..., TitansForCausalLM]:
    """Builds an untrained model of bytes in float64."""

    def build(**options: object) -> TitansForCausalLM:
        torch.manual_seed(0)
        backbone = {**SIZES, "memory": {"heads": 2, "chunk": 4}, **options}
        return TitansForCausalLM(TitansConfig(vocab_size=257, backbone=backbone, **IDS)).double().eval()

    return build


def prompts(rows: int = 2, tokens: int = 29) -> dict[str, torch.Tensor]:
    """Random ids [B, T], nothing of them padding."""
    ids = torch.randint(257, (rows, tokens))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_transformers_draws_no_weight_anew() -> None:
    config = TitansConfig(vocab_size=257, backbone=SIZES)
    torch.manual_seed(0)
    torch.nn.Embedding(320, 16)
    backbone = TitansBackbone(BackboneConfig(**SIZES))
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(config)
    assert isinstance(theirs, TitansForCausalLM)
    assert all(map(torch.equal, theirs.backbone.parameters(), backbone.parameters()))
    assert theirs.embedding.weight.std().item() == pytest.approx(16**-0.5, rel=0.05)  # ours: logits of unit size


@every_variant
def test_what_is_saved_is_loaded(variant: str, model: Callable, tmp_path: Path) -> None:
    saved = model(variant=variant).float()
    ids = prompts()["input_ids"]
    saved.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.backbone.config == saved.backbone.config and loaded.config.hidden_size == 16
    with torch.no_grad():
        # Where a file's tensors lie in memory decides how products are rounded; clones lie as those of a new model.
        torch.testing.assert_close(copy.deepcopy(loaded)(ids).logits, saved(ids).logits, rtol=0, atol=1e-6)


def test_weights_that_lack_are_refused(model: Callable, tmp_path: Path) -> None:
    saved = model()
    content = saved.state_dict()
    lacking = "backbone.blocks.1.mixers.0.memory.init.0"
    saved.save_pretrained(tmp_path, state_dict={name: value for name, value in content.items() if name != lacking})
    with pytest.raises(ValueError, match=f"the weights lack {lacking}"):
        TitansForCausalLM.from_pretrained(tmp_path)
    saved.save_pretrained(tmp_path, state_dict={"other": torch.zeros(1)})
    with pytest.raises(ValueError, match="the weights lack embedding.weight"):
        TitansForCausalLM.from_pretrained(tmp_path)


def test_an_unknown_field_of_the_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="dmi"):
        TitansConfig(backbone={"dmi": 16})
    for wrong in (5, {"memory": None}):
        with pytest.raises(ValueError, match="backbone of a TitansConfig"):
            TitansConfig(backbone=wrong)
    for wrong in (0, "9", None):
        with pytest.raises(ValueError, match=f"vocab_size is {wrong!r}; it must be a whole number"):
            TitansConfig(vocab_size=wrong)
    with pytest.raises(ValueError, match="one matrix"):
        TitansConfig(tie_word_embeddings=False)
    two = TitansConfig(backbone={"memory": {"forgetting_start": [-4.0, -8.0]}}).backbone_config()  # as JSON has it
    assert two.memory == MemoryConfig(forgetting_start=(-4.0, -8.0))


def test_attention_alone_has_a_longest_text() -> None:
    longest = [TitansConfig(backbone={"variant": v}, context=64).max_position_embeddings for v in ("attention", "lmm")]
    assert longest == [64, None]


@every_variant
def test_logits_are_the_backbones_in_one_call_and_in_pieces(variant: str, model: Callable) -> None:
    made = model(variant=variant)
    ids = prompts()["input_ids"]
    with torch.no_grad():
        hidden, _ = made.backbone(made.embedding(ids))
        expected = (hidden @ made.embedding.weight.T)[..., :257].float()
        torch.testing.assert_close(made(ids).logits, expected, rtol=0, atol=1e-6)
        cache = StateCache()
        pieces = [made(piece, cache=cache).logits for piece in ids.split([7, 1, 12, 9], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), expected, rtol=0, atol=1e-6)
    assert cache.get_seq_length() == 29 and cache.state is not None


@every_variant
def test_generate_carries_the_state(variant: str, model: Callable) -> None:
    """With the cache, without it, with a prompt in pieces, and in beams."""
    made, given = model(variant=variant), prompts()
    plain = made.generate(**given, **GREEDY, use_cache=False)
    assert torch.equal(made.generate(**given, **GREEDY), plain)
    assert torch.equal(made.generate(**given, **GREEDY, prefill_chunk_size=7), plain)
    beams = {**GREEDY, "num_beams": 3, "num_return_sequences": 2}
    assert torch.equal(made.generate(**given, **beams), made.generate(**given, **beams, use_cache=False))
    torch.manual_seed(1)
    several = made.generate(**given, max_new_tokens=9, do_sample=True, num_return_sequences=2)
    torch.manual_seed(1)
    twice = {name: value.repeat_interleave(2, 0) for name, value in given.items()}
    assert torch.equal(several, made.generate(**twice, max_new_tokens=9, do_sample=True, use_cache=False))


def test_a_prompt_in_two_calls_with_the_cache_between_them_equals_one(model: Callable) -> None:
    made, given = model(variant="mag"), prompts()
    whole = made.generate(**given, **GREEDY)
    cache = StateCache()
    with torch.no_grad():
        made(given["input_ids"][:, :13], cache=cache)
    before = copy.deepcopy(cache)
    assert torch.equal(made.generate(**given, **GREEDY, cache=cache), whole)
    said = made.generate(**given, **GREEDY, cache=before, return_dict_in_generate=True)  # a place to go on from again
    assert torch.equal(said.sequences, whole) and said.cache.get_seq_length() == whole.shape[1] - 1


def test_rows_of_a_cache_are_chosen_and_copied(model: Callable) -> None:
    made, ids = model(variant="mac"), prompts(3)["input_ids"]
    more = prompts(6, 4)["input_ids"]
    with torch.no_grad():
        for change, rows in (
            (lambda c: c.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
            (lambda c: c.batch_select_indices(torch.tensor([2, 0])), [2, 0]),
        ):
            cache = made(ids, use_cache=True).cache
            change(cache)
            expected = made(torch.cat([ids[rows], more[: len(rows)]], 1)).logits[:, 29:]
            torch.testing.assert_close(made(more[: len(rows)], cache=cache).logits, expected, rtol=0, atol=1e-6)
    cache.reset()
    assert cache.state is None and cache.get_seq_length() == 0


@every_variant
def test_padding_is_exact_or_refused(variant: str, model: Callable) -> None:
    made, ids = model(variant=variant), prompts(2, 12)["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, 9:] = 0
    with torch.no_grad():
        alone = made(ids[:1, :9]).logits[0]
        torch.testing.assert_close(made(ids, attention_mask=mask).logits[0, :9], alone, rtol=0, atol=1e-6)
        turned = made(ids.roll(3, 1), attention_mask=mask.roll(3, 1)).logits[0, 3:]
        torch.testing.assert_close(turned, alone, rtol=0, atol=1e-6)
    if variant in ("attention", "swa"):
        return
    with pytest.raises(ValueError, match="padding stands before a token of its row"):
        made(ids.roll(3, 1), attention_mask=mask.roll(3, 1))  # with a gradient
    cache = made(ids, attention_mask=mask, use_cache=True).cache
    with pytest.raises(ValueError, match="padding stands before a token of its row"):
        made(ids[:, :1], attention_mask=F.pad(mask, (0, 1), value=1), cache=cache)


@every_variant
def test_prompts_of_unequal_length_are_generated_behind_as_each_alone(variant: str, model: Callable) -> None:
    made, ids = model(variant=variant), prompts(3, 12)["input_ids"]
    lengths = (12, 5, 9)
    mask = torch.arange(12) >= 12 - torch.tensor(lengths)[:, None]
    written = made.generate(ids, attention_mask=mask.long(), **GREEDY)
    for row, length in enumerate(lengths):
        alone = made.generate(ids[row : row + 1, -length:], **GREEDY)
        assert torch.equal(written[row, -len(alone[0]) :], alone[0])


def test_what_is_not_there_is_refused(model: Callable) -> None:
    made, given = model(), prompts()
    for options, says in (
        ({"cache": DynamicCache()}, "goes on from a StateCache"),
        ({"output_attentions": True}, "returns no attentions"),
        ({"inputs_embeds": torch.zeros(2, 3, 16)}, "give one of input_ids and inputs_embeds"),
        ({"attention_mask": torch.ones(2, 1, 29, 29)}, "4 axes"),
        ({"attention_mask": torch.ones(2, 5)}, r"the shape \[2, 5\]; 2 rows of 29 tokens"),
        ({"attention_mask": torch.ones(3, 29)}, r"the shape \[3, 29\]; 2 rows of 29 tokens"),
    ):
        with pytest.raises(ValueError, match=says):
            made(**{**given, **options})
    with pytest.raises(ValueError, match="cache_implementation 'static'"):
        made.generate(**given, **GREEDY, cache_implementation="static")
    with pytest.raises(ValueError, match="assisted generation is not supported"):
        made.generate(**given, **GREEDY, assistant_model=made)
    with pytest.raises(ValueError, match="take back the last 2 tokens"):
        made(**given, use_cache=True).cache.crop(2)


def test_vectors_in_the_place_of_ids(model: Callable) -> None:
    made, ids = model(), prompts()["input_ids"]
    with torch.no_grad():
        vectors = made.get_input_embeddings()(ids)
        assert torch.equal(made(inputs_embeds=vectors, logits_to_keep=2).logits, made(ids).logits[:, -2:])


def test_checkpointing_is_the_backbones(model: Callable) -> None:
    made, ids = model(dropout=0.2).train(), prompts()["input_ids"]
    gradients = []
    for on in (False, True):
        if on:
            made.activation_checkpointing_enable()
        assert made.backbone.config.checkpoint == made.is_activation_checkpointing == on
        torch.manual_seed(0)
        made(ids, labels=ids).loss.backward()
        gradients.append([weight.grad for weight in made.parameters()])
        made.zero_grad()
    assert all(map(torch.equal, *gradients))
    made.activation_checkpointing_disable()
    assert not made.backbone.config.checkpoint
    with pytest.raises(ValueError, match="use_reentrant=False"):
        made.activation_checkpointing_enable({"use_reentrant": True})


def test_tokens_can_be_added(model: Callable, tmp_path: Path) -> None:
    made, ids = model(), prompts()["input_ids"]
    before = made(ids).logits
    for size in (260, 400):
        made.resize_token_embeddings(size)
        assert made.config.vocab_size == size and made(ids).logits.shape[-1] == size
    assert torch.equal(made(ids).logits[..., :257], before)
    made.save_pretrained(tmp_path)
    loaded = TitansForCausalLM.from_pretrained(tmp_path)
    assert loaded(ids).logits.shape[-1] == 400
    for size in (401, 402):
        loaded.resize_token_embeddings(size)
    assert loaded(ids).logits.shape[-1] == 402


def test_transformers_trains_it(model: Callable, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install -e '.[hf]'")
    made = model().float()
    ids = torch.arange(16).repeat(2)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=12,
        learning_rate=1e-2,
        logging_steps=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Trainer(made, arguments, train_dataset=[{"input_ids": ids, "labels": ids}] * 48)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 12 and losses[-1] < losses[0] - 1


def test_peft_trains_it(model: Callable, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[hf]'")
    given = prompts()
    ids = given["input_ids"]
    config = peft.LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=TARGETS)
    adapted = peft.get_peft_model(model(variant="mag"), config).train()
    optimiser = torch.optim.Adam([weight for weight in adapted.parameters() if weight.requires_grad], 1e-2)
    losses = []
    for _ in range(5):
        loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    adapted.eval().save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(model(variant="mag"), tmp_path).eval()
    assert torch.equal(loaded(ids).logits, adapted(ids).logits)
    assert torch.equal(loaded.generate(**given, **GREEDY), adapted.generate(**given, **GREEDY, use_cache=False))


def test_a_piece_is_exported_with_its_state(model: Callable) -> None:
    backbone = model(variant="mag", layers=1).backbone
    x = torch.randn(1, 24, 16, dtype=torch.float64)  # whole segments and chunks, so that states have one form
    with torch.no_grad():
        _, state = backbone(x)
        piece = torch.export.export(backbone, (x[:, :12], state), strict=False)
        for _ in range(2):
            (expected, after), (found, state) = backbone(x[:, :12], state), piece.module()(x[:, :12], state)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
            torch.testing.assert_close(state.tensors(), after.tensors(), rtol=0, atol=1e-9)
