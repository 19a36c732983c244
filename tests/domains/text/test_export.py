"""A language model as a Hugging Face folder writes what ours writes, token by token."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", "5.24", reason="transformers 5.24 is not installed: pip install -e '.[hf]'")

from transformers import AutoModelForCausalLM, AutoTokenizer

from app.door import main
from app.module import load_module
from app.tokens import IGNORE
from data_prep.tokenizer import end_id, load
from domains.text import LanguageHead
from domains.text.batch import TextBatch
from domains.text.export import write
from domains.text.reader import Reader
from domains.text.sampling import Sampling, generated

SAMPLINGS = {
    "greedy": (Sampling(temperature=0), {"do_sample": False}),
    "sampled": (Sampling(temperature=1.1), {"do_sample": True, "temperature": 1.1}),
    "filtered": (
        Sampling(temperature=0.9, top_k=40, top_p=0.9, min_p=0.01, repetition=1.2),
        {"do_sample": True, "temperature": 0.9, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2},
    ),
}
BETWEEN = {
    "top_k": 0,
    "eos_token_id": None,
}  # what transformers does by default and ours does not
TEXT = "Ada <|endoftext|> walks, \u00e9t\u00e9  2 times.\n"


@pytest.mark.parametrize("how", SAMPLINGS)
@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal"])
def test_generate_chooses_the_tokens_that_ours_chooses(variant: str, how: str, model: Callable, tmp_path: Path) -> None:
    module = model(variant=variant).float()
    write(module, {}, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.cat([torch.tensor([[module.head.end]]), torch.randint(256, (1, 12))], 1)
    sampling, options = SAMPLINGS[how]
    given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 20, **BETWEEN, **options}
    torch.manual_seed(5)  # transformers draws from the generator of the process
    found = theirs.generate(ids, **given)[:, 13:]
    reader = Reader(module)
    generator = torch.Generator().manual_seed(5)
    logits = reader.read(ids)
    written = generated(logits, lambda chosen: reader.read(chosen[:, None]), 20, sampling, generator, ids.tolist())
    assert torch.equal(torch.stack(list(written), 1), found)


def test_logits_and_loss_are_ours(model: Callable, tmp_path: Path) -> None:
    module = model(variant="mag")
    write(module, {}, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    ids = torch.randint(257, (2, 29))
    labels = ids.masked_fill(torch.rand(ids.shape) < 0.3, IGNORE)
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)
    batch = TextBatch(ids, targets)
    answer = theirs(ids, labels=labels)
    torch.testing.assert_close(answer.logits, module.head.logits(module(batch)), rtol=0, atol=1e-6)
    loss = module.head.loss(module(batch), batch)
    torch.testing.assert_close(answer.loss.double(), loss, rtol=0, atol=1e-6)
    half = theirs(ids, labels=labels, num_items_in_batch=2 * module.head.scored(batch)).loss  # of two such batches
    torch.testing.assert_close(half.double(), loss / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["byte", "bpe-300"])
def test_the_tokenizer_goes_along(name: str, model: Callable, tmp_path: Path) -> None:
    module = model(variant="lmm", layers=1)
    tokenizer = load(name, ["Ada walks to the lake and back to the house."] * 9)
    module.head.tokenizer_json = tokenizer.to_str()
    vars(module.head).pop("tokenizer", None)
    write(module, {}, tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.bos_token_id == theirs.eos_token_id == end_id(tokenizer) == module.head.end
    ids = theirs(TEXT)["input_ids"]
    assert ids == [module.head.end, *module.head.encode(TEXT)]  # a control token that is written in a text is text
    assert theirs.decode(ids, skip_special_tokens=True) == TEXT
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    given = {**theirs("Ada", return_tensors="pt"), "max_new_tokens": 3, "do_sample": False}
    assert torch.equal(model.generate(**given, stop_strings=["never"], tokenizer=theirs), model.generate(**given))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["context"] == 64 and config["model_type"] == "titans" and config["bos_token_id"] == ids[0]


ALONE = """
import sys
sys.modules.update(dict.fromkeys(["lightning", "torchmetrics", "pandas", "matplotlib", "jsonargparse", "omegaconf"]))
import memory.hf
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (kind.from_pretrained("out") for kind in (AutoModelForCausalLM, AutoTokenizer))
print(model.generate(**tokenizer("Ada", return_tensors="pt"), max_new_tokens=9, do_sample=False).tolist())
"""


def test_what_the_command_writes_needs_neither_lightning_nor_this_application(
    run: Callable, capsys: pytest.CaptureFixture
) -> None:
    best = run("fit", "--trainer.max_steps=1", "--trainer.val_check_interval=1").trainer.checkpoint_callback
    main(["export", best.best_model_path, "out"])
    assert capsys.readouterr().out.endswith("exported: out\n")
    module = load_module(best.best_model_path, LanguageHead).cpu()
    ids = [module.head.end, *module.head.encode("Ada")]
    reader = Reader(module)
    written = reader.generate(reader.read(torch.tensor([ids])), 9, Sampling(temperature=0))
    paths = {"PYTHONPATH": ":".join([str(Path(__file__).parents[3]), *sys.path])}
    command = [sys.executable, "-c", ALONE]
    found = subprocess.run(command, env=os.environ | paths, capture_output=True, text=True, check=True)
    assert found.stdout == f"{[[*ids, *(chosen.item() for chosen in written)]]}\n"


def test_the_harness_scores_a_folder_as_it_scores_a_checkpoint(model: Callable, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install -e '.[harness]'")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from benchmarks.harness.model import TitansLM

    module = model(variant="mag").float()
    write(module, {}, tmp_path)
    texts = [("Ada went", " to the lake"), ("", "Hello"), ("The", " end.")]  # of unlike lengths, padded on the right
    for name, asked, options in (
        ("loglikelihood", texts, {}),
        ("loglikelihood_rolling", [("Ada went to the lake.",)], {"add_bos_token": False}),
    ):
        requests = [Instance(name, {}, arguments, number) for number, arguments in enumerate(asked)]
        theirs = HFLM(pretrained=str(tmp_path), device="cpu", dtype="float32", batch_size=4, **options)
        found, expected = (torch.tensor(getattr(lm, name)(requests)) for lm in (theirs, TitansLM(module)))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
