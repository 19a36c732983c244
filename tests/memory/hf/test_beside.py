"""A memory beside the attention of a Hugging Face decoder: nothing changes at first; its state is in the cache."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", "5.24", reason="transformers 5.24 is not installed: pip install -e '.[hf]'")

from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from memory import MemoryConfig
from memory.hf import add_memory
from memory.hf.beside import Beside

SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "eos_token_id": None}
LLAMA = {**SIZES, "intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
CONFIGS = {
    "llama": LlamaConfig(**LLAMA),
    "qwen2": Qwen2Config(**LLAMA),
    "qwen3": Qwen3Config(**LLAMA),
    "mistral": MistralConfig(**LLAMA, sliding_window=4),  # a cache of another kind
    "gpt2": GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=None),
    "falcon": FalconConfig(**SIZES),  # whose attention calls its cache otherwise
}
MEMORY = MemoryConfig(heads=2, chunk=4)
GREEDY = {"do_sample": False, "max_new_tokens": 7}
every_decoder = pytest.mark.parametrize("name", CONFIGS)


def plain(name: str) -> PreTrainedModel:
    """A small decoder with random weights."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name])).eval()


@pytest.fixture
def opened() -> Callable[..., PreTrainedModel]:
    """Builds a decoder whose memories are heard."""

    def build(name: str = "llama", memory: MemoryConfig = MEMORY) -> PreTrainedModel:
        model = add_memory(plain(name), [0, 1], memory)
        for part, weight in model.named_parameters():
            if part.endswith("opening"):
                torch.nn.init.normal_(weight, std=0.3)
        return model

    return build


def prompts(tokens: int = 11) -> dict[str, torch.Tensor]:
    """Random ids [B, T], nothing of them padding."""
    ids = torch.randint(2, 64, (2, tokens))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@every_decoder
def test_logits_are_the_same_bits_before_training(name: str) -> None:
    given = prompts()
    model = plain(name)
    before = model(**given).logits
    assert torch.equal(add_memory(model, [1])(**given).logits, before)
    assert len([part for part, _ in model.named_modules() if part.endswith(".beside")]) == 1


@every_decoder
def test_the_state_is_carried_by_the_cache(name: str, opened: Callable) -> None:
    model, given = opened(name), prompts()
    ids = given["input_ids"]
    with torch.no_grad():
        whole = model(**given).logits
        assert (whole - plain(name)(**given).logits).abs().max() > 0.05
        first = model(ids[:, :5], use_cache=True)
        pieces = [first.logits] + [model(piece, cache=first.cache).logits for piece in ids[:, 5:].split([1, 5], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-5)
    written = model.generate(**given, **GREEDY)
    assert torch.equal(written, model.generate(**given, **GREEDY, use_cache=False))
    beams = {**GREEDY, "num_beams": 3}
    assert torch.equal(model.generate(**given, **beams), model.generate(**given, **beams, use_cache=False))


def test_padding_is_never_written(opened: Callable) -> None:
    given = prompts()
    ids, mask = given["input_ids"], given["attention_mask"].clone()
    mask[0, 8:] = 0
    model = opened()
    with torch.no_grad():
        alone = model(ids[:1, :8]).logits[0]
        torch.testing.assert_close(model(ids, attention_mask=mask).logits[0, :8], alone, rtol=0, atol=1e-5)
        left = {"input_ids": ids.roll(3, 1), "attention_mask": mask.roll(3, 1)}
        with pytest.raises(ValueError, match="padding stands before a token of its row"):
            model.generate(**left, **GREEDY)
        exact = opened(memory=MemoryConfig(heads=2, depth=1, norm=False, errors="exact"))  # it has no positions
        written = exact.generate(**left, **GREEDY)[0, 11:]
        assert torch.equal(written, exact.generate(ids[:1, :8], **GREEDY)[0, 8:])


@every_decoder
def test_a_checkpoint_runs_again_with_the_padding_of_its_own_call(name: str, opened: Callable) -> None:
    ids = prompts()["input_ids"]
    lengths = torch.tensor([[5, 9], [10, 2], [20, 20]])  # of two rows in each call, the last without padding
    gradients = []
    for checkpointed in (False, True):
        model = opened(name).train()
        if checkpointed:
            model.activation_checkpointing_enable()
        for dropout in [part for part in model.modules() if isinstance(part, torch.nn.Dropout)]:
            dropout.p = 0.0
        loss = torch.zeros(())
        for rows in lengths:
            mask = torch.arange(ids.shape[1]) < rows[:, None]
            labels = ids.masked_fill(~mask, -100)
            loss = loss + model(ids, attention_mask=mask.long(), labels=labels, use_cache=False).loss
        loss.backward()
        gradients.append([weight.grad for weight in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)


def test_rows_of_the_cache_are_chosen_and_copied(opened: Callable) -> None:
    model, ids = opened(), prompts()["input_ids"]
    more = prompts(3)["input_ids"]
    with torch.no_grad():
        cache = model(ids, use_cache=True).cache
        cache.batch_select_indices(torch.tensor([1]))
        cache.batch_repeat_interleave(2)
        expected = model(torch.cat([ids[[1, 1]], more], 1)).logits[:, 11:]
        torch.testing.assert_close(model(more, cache=copy.deepcopy(cache)).logits, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="take back the last 1 tokens"):
        cache.crop(1)
    cache.reset()
    assert cache.layers[0].state is None


def test_what_cannot_be_is_refused(opened: Callable) -> None:
    with pytest.raises(ValueError, match="there is no block 2: the decoder has 2"):
        add_memory(plain("llama"), [2])
    with pytest.raises(ValueError, match="block 0 has a memory already"):
        add_memory(opened(), [0])
    mamba = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1))
    with pytest.raises(ValueError, match="has no attention that takes a `cache`"):
        add_memory(mamba, [0])
    model, ids = plain("llama"), prompts()["input_ids"]
    with pytest.raises(ValueError, match="not divisible by memory.heads 3"):
        add_memory(model, [0], MemoryConfig(heads=3))
    assert not any(part._forward_pre_hooks or hasattr(part, "beside") for part in model.modules())
    cache = DynamicCache(config=model.config)
    model(ids, cache=cache)
    with pytest.raises(ValueError, match="the cache has read tokens that the memory has not"):
        add_memory(model, [0])(ids, cache=cache)


def test_weights_know_their_memory() -> None:
    def state(**changed: object) -> torch.Tensor:
        config = json.loads(bytes(Beside(16, MEMORY).get_extra_state().tolist())) | changed
        known = {name: value for name, value in config.items() if value is not None}
        return torch.tensor(list(json.dumps(known).encode()), dtype=torch.uint8)

    beside = Beside(16, MEMORY)
    for same in ({"backend": "reference"}, {"momentum": None}):  # who computes it; a field that an older file lacks
        beside.set_extra_state(state(**same))
    with pytest.raises(ValueError, match="momentum is False there and True here; give add_memory theirs"):
        beside.set_extra_state(state(momentum=False))


def test_it_is_trained_with_lora_and_saved_as_an_adapter(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[hf]'")
    given = prompts(17)
    ids = given["input_ids"]
    lora = peft.LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], modules_to_save=["beside"])
    model = peft.get_peft_model(add_memory(plain("llama"), [1], MEMORY), lora)
    assert torch.equal(model(ids).logits, plain("llama")(ids).logits)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name.split(".")[-1] for name in trained if "beside" not in name} == {"weight"}  # of LoRA
    before = {name: weight.detach().clone() for name, weight in trained.items()}
    optimiser = torch.optim.Adam(trained.values(), 1e-2)
    losses = []
    model.train()
    for step in range(6):
        if step == 3:
            model.base_model.model.activation_checkpointing_enable()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert not [name for name, weight in trained.items() if torch.equal(weight, before[name])]
    model.base_model.model.activation_checkpointing_disable()
    model.eval().save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(add_memory(plain("llama"), [1], MEMORY), tmp_path).eval()
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert torch.equal(loaded.generate(**given, **GREEDY), model.generate(**given, **GREEDY, use_cache=False))
    with pytest.raises(ValueError, match="of another memory: chunk is 4 there and 8 here"):
        peft.PeftModel.from_pretrained(add_memory(plain("llama"), [1], MemoryConfig(heads=2, chunk=8)), tmp_path)
