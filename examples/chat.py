"""A conversation with a language model, whose state holds all that was said: `python -m examples.chat`."""

from pathlib import Path

import torch

import app
from app.door import main
from app.module import load_module
from domains.text import LanguageHead
from domains.text.generate import stream
from domains.text.reader import Reader
from domains.text.sampling import Sampling

# A model of bytes that has seen a few generated stories; a checkpoint of yours takes its place.
config = Path(app.__file__).parents[1] / "conf" / "text_lm.yaml"
model = ["--model.backbone.variant=lmm", "--model.backbone.dim=32", "--model.backbone.layers=1", "--data.length=64"]
steps = ["--trainer.max_steps=30", "--trainer.val_check_interval=30", "--trainer.limit_val_batches=4"]
trained = main(["fit", f"--config={config}", *model, *steps]).trainer
module = load_module(trained.checkpoint_callback.best_model_path, LanguageHead)

reader = Reader(module)
generator = torch.Generator(reader.device).manual_seed(0)
unread = [module.head.end]  # what the state does not hold yet; a conversation begins as a document does
for turn in ("Ada went to the", "Nobody in the", "Where is the"):
    logits = reader.read(torch.tensor([unread + module.head.encode(turn)]))
    chosen = list(reader.generate(logits, 30, Sampling(temperature=0.3), generator))
    unread = chosen[-1].tolist()  # `generate` has read all that it chose but for the last
    answer = "".join(stream(iter(chosen), module.head.tokenizer, module.head.end))
    print(f"> {turn}\n{answer}")
reader.read(torch.tensor([unread]))  # so that the state holds the whole of the last answer
print(f"{reader.read_tokens} tokens are in a state of {sum(t.numel() for t in reader.state.tensors()):,} numbers")
reader.save(Path("conversation.state"))  # another process goes on with Reader.load, or `generate --state`
