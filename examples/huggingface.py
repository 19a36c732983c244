"""A model as a Hugging Face folder, and a memory beside a decoder of theirs: `python -m examples.huggingface`."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, MistralConfig

from memory import MemoryConfig
from memory.hf import TitansConfig, TitansForCausalLM, add_memory

# A Titans language model: train it with transformers' Trainer, or export a checkpoint by `python -m app export`.
titans = TitansForCausalLM(TitansConfig(vocab_size=256, backbone={"variant": "mag", "dim": 32, "window": 16}))
titans.save_pretrained("titans")
loaded = AutoModelForCausalLM.from_pretrained("titans")
print(loaded.generate(torch.tensor([list(b"Ada went to the")]), max_new_tokens=9).tolist())


def decoder(memory: bool) -> torch.nn.Module:
    """A small Mistral, with random weights in the place of pretrained ones, whose attention sees 8 tokens."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MistralConfig(vocab_size=32, num_hidden_layers=2, sliding_window=8, tie_word_embeddings=True, **sizes)
    model = AutoModelForCausalLM.from_config(config)
    return add_memory(model, [0, 1], MemoryConfig(heads=2, induction=True)) if memory else model


LORA = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]}
for memory in (False, True):
    model = get_peft_model(decoder(memory), LoraConfig(**LORA, modules_to_save=["beside"] if memory else None))
    optimiser = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        ids = torch.randint(32, (16, 24)).repeat(1, 2)  # random tokens, and once more: each again 24 tokens later
        loss = model(input_ids=ids, labels=ids.masked_fill(torch.arange(48) < 24, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    print(f"{'with' if memory else 'without'} memory: loss {loss.item():.3f}")
model.save_pretrained("adapter")  # LoRA and the memories
PeftModel.from_pretrained(decoder(memory=True), "adapter")
